"""Bodies that the endpoints take, and images from what they answer."""

import itertools
from typing import Any

import pytest

from core.catalog.types import Preset, Step
from core.generations.providers.fal.models import (
    FIDELITY,
    ReadOutput,
    build_body,
    edit_prompt,
    read_output,
)
from core.generations.providers.types import OutputImage
from sandbox.fal.models import ENDPOINTS

URL = "https://project.supabase.co/storage/v1/object/sign/uploads/a.png"
PRESETS = [
    Preset(slug="marble", title="Marble", prompt="On polished white marble."),
    Preset(slug="velvet", title="Velvet", prompt="On dark blue velvet."),
]


def step(adapter: str, endpoint: str, **defaults: Any) -> Step:
    return Step(
        provider="fal", adapter=adapter, endpoint=endpoint, typical_seconds=1, defaults=defaults
    )


def body_of(adapter: str, endpoint: str, params: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    return build_body(
        step=step(adapter, endpoint, **defaults), params=params, presets=PRESETS, image_url=URL
    )


def assert_endpoint_takes(endpoint: str, body: dict[str, Any]) -> None:
    """By the endpoint's documented schema, as the provider's stand-in has it."""
    schema = ENDPOINTS[endpoint].schema
    assert set(body) <= set(schema.model_fields), "a name that the endpoint does not know"
    parsed = schema.model_validate(body)
    assert [url for _, url in parsed.image_urls_of()] == [URL]
    assert not parsed.sync_mode


RATIOS = ["auto", "1:1", "4:5", "3:4", "4:3", "16:9", "9:16"]
EDITS = [
    "fal-ai/nano-banana/edit",
    "fal-ai/nano-banana-2/edit",
    "fal-ai/nano-banana-pro/edit",
    "fal-ai/flux-pro/kontext",
    "fal-ai/bytedance/seedream/v4/edit",
    "fal-ai/qwen-image-edit",
    "fal-ai/bria/background/replace",
]
REMOVERS = [
    "fal-ai/birefnet/v2",
    "fal-ai/bria/background/remove",
    "fal-ai/imageutils/rembg",
]
UPSCALERS = [
    "fal-ai/seedvr/upscale/image",
    "fal-ai/clarity-upscaler",
    "fal-ai/topaz/upscale/image",
    "fal-ai/esrgan",
    "fal-ai/recraft/upscale/crisp",
]


@pytest.mark.parametrize("endpoint", EDITS)
def test_every_shape_suits_every_editor(endpoint: str) -> None:
    for ratio, resolution, seed in itertools.product(RATIOS, ["1K", "2K"], [None, 7]):
        params: dict[str, Any] = {
            "prompt": "on a shell",
            "aspect_ratio": ratio,
            "resolution": resolution,
        }
        if seed is not None:
            params["seed"] = seed
        body = body_of("instruction_edit", endpoint, params, num_images=1)
        assert_endpoint_takes(endpoint, body)
        assert body.get("seed") == seed


@pytest.mark.parametrize("endpoint", UPSCALERS)
@pytest.mark.parametrize("factor", [None, 1.5, 2, 4])
def test_every_factor_suits_every_upscaler(endpoint: str, factor: float | None) -> None:
    params = {} if factor is None else {"factor": factor, "seed": 3}
    body = body_of("upscale", endpoint, params)
    assert_endpoint_takes(endpoint, body)
    given = {name: value for name, value in body.items() if name in {"upscale_factor", "scale"}}
    wants_none = factor is None or endpoint == "fal-ai/recraft/upscale/crisp"
    assert list(given.values()) == ([] if wants_none else [factor])


@pytest.mark.parametrize("endpoint", REMOVERS)
def test_background_removal(endpoint: str) -> None:
    body = body_of("background_removal", endpoint, {"margin_percent": 8})
    assert body == {"image_url": URL}
    assert_endpoint_takes(endpoint, body)


def test_the_catalogues_defaults_are_sent_and_parameters_win() -> None:
    body = body_of(
        "upscale",
        "fal-ai/seedvr/upscale/image",
        {"factor": 3.0},
        upscale_mode="factor",
        upscale_factor=2,
        output_format="png",
    )
    assert body == {
        "image_url": URL,
        "upscale_mode": "factor",
        "upscale_factor": 3.0,
        "output_format": "png",
    }


def test_a_second_step_uses_its_own_factor() -> None:
    """The parameters of the operation are the first step's."""
    params = {"prompt": "on a shell", "aspect_ratio": "1:1", "resolution": "2K", "seed": 5}
    body = body_of("upscale", "fal-ai/seedvr/upscale/image", params, upscale_factor=2)
    assert body == {"image_url": URL, "upscale_factor": 2, "seed": 5}


def test_never_a_data_uri_for_an_answer() -> None:
    body = body_of("background_removal", "fal-ai/birefnet/v2", {}, sync_mode=True)
    assert "sync_mode" not in body
    body = body_of("background_removal", "pixelcut/background-removal", {}, output_format="rgba")
    assert body == {"image_url": URL, "output_format": "rgba", "sync_mode": False}


def test_topaz_paints_no_faces_into_metal() -> None:
    assert body_of("upscale", "fal-ai/topaz/upscale/image", {})["face_enhancement"] is False


@pytest.mark.parametrize(
    ("endpoint", "params", "shape"),
    [
        ("fal-ai/nano-banana-2/edit", ("4:5", "2K"), {"aspect_ratio": "4:5", "resolution": "2K"}),
        ("fal-ai/nano-banana/edit", ("4:5", "2K"), {"aspect_ratio": "4:5"}),
        ("fal-ai/flux-pro/kontext", ("4:5", "1K"), {"aspect_ratio": "3:4"}),
        ("fal-ai/flux-pro/kontext", ("auto", "1K"), {}),
        ("fal-ai/bytedance/seedream/v4/edit", ("auto", "1K"), {"image_size": "auto"}),
        ("fal-ai/bytedance/seedream/v4/edit", ("auto", "2K"), {"image_size": "auto_2K"}),
        (
            "fal-ai/bytedance/seedream/v4/edit",
            ("16:9", "2K"),
            {"image_size": {"width": 2720, "height": 1536}},
        ),
        ("fal-ai/qwen-image-edit", ("1:1", "1K"), {"image_size": {"width": 1024, "height": 1024}}),
        ("fal-ai/qwen-image-edit", ("auto", "1K"), {}),
        ("fal-ai/gpt-image-1/edit-image", ("9:16", "1K"), {"image_size": "1024x1536"}),
    ],
)
def test_how_each_family_is_told_the_shape(
    endpoint: str, params: tuple[str, str], shape: dict[str, Any]
) -> None:
    ratio, resolution = params
    given = {"prompt": "on a shell", "aspect_ratio": ratio, "resolution": resolution}
    body = body_of("instruction_edit", endpoint, given)
    names = {"aspect_ratio", "resolution", "image_size"}
    assert {name: value for name, value in body.items() if name in names} == shape


# --- prompts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"preset": "marble"}, "On polished white marble."),
        ({"preset": "marble", "prompt": "Add a rose"}, "On polished white marble. Add a rose."),
        (
            {"prompt": "  on a shell! "},
            "Place this exact piece of jewellery in this scene: on a shell!",
        ),
    ],
)
def test_what_the_model_is_told(params: dict[str, Any], expected: str) -> None:
    assert edit_prompt(params, PRESETS) == f"{expected} {FIDELITY}"


def test_a_preset_that_is_not_in_the_catalogue_is_our_mistake() -> None:
    with pytest.raises(AssertionError):
        edit_prompt({"preset": "moon"}, PRESETS)


@pytest.mark.parametrize(
    ("adapter", "endpoint"), [("video", "fal-ai/x/y"), ("upscale", "fal-ai/x/y")]
)
def test_an_unknown_adapter_or_upscaler_is_our_mistake(adapter: str, endpoint: str) -> None:
    with pytest.raises(AssertionError):
        body_of(adapter, endpoint, {})


# --- outputs -------------------------------------------------------------------------------------

IMAGE = {"url": "https://fal.media/a.png", "content_type": "image/png", "width": 8, "height": 9}
READ = ReadOutput(
    OutputImage(url="https://fal.media/a.png", content_type="image/png", width=8, height=9),
    is_flagged=False,
)


@pytest.mark.parametrize(
    "payload",
    [
        {"image": IMAGE},
        {"images": [IMAGE, {"url": "https://fal.media/b.png"}]},
        {"image": IMAGE, "mask_image": {"url": "https://fal.media/mask.png"}},
        {"image": None, "images": [IMAGE], "has_nsfw_concepts": [False]},
    ],
)
def test_the_first_image(payload: dict[str, Any]) -> None:
    assert read_output(payload) == READ


def test_claims_that_are_missing_or_odd() -> None:
    odd = {"url": "https://fal.media/a.png", "content_type": 7, "width": "8", "height": -1}
    expected = ReadOutput(OutputImage(url="https://fal.media/a.png"), is_flagged=False)
    assert read_output({"image": odd}) == expected
    assert read_output({"image": "https://fal.media/a.png"}) == expected


@pytest.mark.parametrize(
    ("concepts", "flagged"),
    [
        ({"has_nsfw_concepts": [True]}, True),
        ({"has_nsfw_concepts": [False, True]}, True),
        ({"has_nsfw_concepts": True}, True),
        ({"details": [{"has_nsfw_concepts": [True]}]}, True),
        ({"has_nsfw_concepts": [False]}, False),
        ({"has_nsfw_concepts": "true"}, False),
        ({}, False),
    ],
)
def test_a_safety_flag_anywhere(concepts: dict[str, Any], *, flagged: bool) -> None:
    assert read_output({"images": [IMAGE], **concepts}).is_flagged is flagged


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"images": []},
        {"images": [None]},
        {"image": {}},
        {"image": {"url": ""}},
        {"image": {"url": 7}},
        {"image": []},
        {"video": {"url": "https://fal.media/a.mp4"}},
    ],
)
def test_no_image(payload: dict[str, Any]) -> None:
    assert read_output(payload) == ReadOutput(None, is_flagged=False)


def test_no_image_because_of_a_flag() -> None:
    read = read_output({"images": [], "has_nsfw_concepts": [True]})
    assert read == ReadOutput(None, is_flagged=True)
