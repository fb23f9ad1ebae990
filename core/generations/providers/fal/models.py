"""Input and output of fal's endpoints: the body of a step, and the image in an output.

fal's endpoints differ in names for the same thing (image_url or image_urls, aspect_ratio or
image_size, upscale_factor or scale); the catalogue's parameters do not.
Source: the model pages under https://fal.ai/models
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from core.catalog.types import Preset, Step
from core.generations.providers.types import OutputImage

Body = dict[str, Any]
Params = Mapping[str, Any]
Presets = Sequence[Preset]

_DEPTH_MAX = 6
_URL_CHARS_MAX = 64 * 1024 * 1024
# Endpoints whose own default is to answer with a data URI.
_SYNC_BY_DEFAULT = ("pixelcut/",)


class ReadOutput(msgspec.Struct, frozen=True):
    """The first image of an output, if it has one."""

    image: OutputImage | None
    is_flagged: bool


class Adapter(Protocol):
    """One family of endpoints."""

    def build_body(self, step: Step, params: Params, presets: Presets, image_url: str) -> Body: ...


def build_body(*, step: Step, params: Params, presets: Presets, image_url: str) -> Body:
    """The input of a step's endpoint. `params` are checked and have their defaults."""
    body = {
        **step.defaults,
        **_adapter_of(step).build_body(step, params, presets, image_url),
    }
    # A data URI in the queue's answer would be kept nowhere and have no size limit.
    body.pop("sync_mode", None)
    if step.endpoint.startswith(_SYNC_BY_DEFAULT):
        body["sync_mode"] = False
    return body


def _adapter_of(step: Step) -> Adapter:
    assert step.adapter in ADAPTERS, f"the catalogue names an unknown adapter {step.adapter!r}"
    return ADAPTERS[step.adapter]


# --- reading -------------------------------------------------------------------------------------


def read_output(payload: Mapping[str, Any]) -> ReadOutput:
    """Every endpoint gives `image` or `images`, as an object or as a URL alone."""
    flagged = _is_flagged(payload)
    image = payload.get("image")
    many = payload.get("images")
    if image is None and isinstance(many, list) and many:
        image = many[0]
    if isinstance(image, str):
        image = {"url": image}
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(url, str) or not url or len(url) > _URL_CHARS_MAX:
        return ReadOutput(None, is_flagged=flagged)
    assert isinstance(image, dict)
    content_type = image.get("content_type")
    found = OutputImage(
        url=url,
        content_type=content_type if isinstance(content_type, str) else None,
        width=_pixels(image.get("width")),
        height=_pixels(image.get("height")),
    )
    return ReadOutput(found, is_flagged=flagged)


def _pixels(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _is_flagged(value: object, depth: int = 0) -> bool:
    """Whether `has_nsfw_concepts` is true anywhere in an output."""
    if depth > _DEPTH_MAX:
        return False
    if isinstance(value, dict):
        flags = value.get("has_nsfw_concepts")
        if flags is True or (isinstance(flags, list) and any(flag is True for flag in flags)):
            return True
        return any(_is_flagged(item, depth + 1) for item in value.values())
    if isinstance(value, list):
        return any(_is_flagged(item, depth + 1) for item in value)
    return False


# --- background removal --------------------------------------------------------------------------


class BackgroundRemoval:
    """birefnet, rembg, bria: a photo in, the piece on transparency out."""

    def build_body(self, step: Step, params: Params, presets: Presets, image_url: str) -> Body:
        del step, params, presets  # nothing of a cut-out is the user's to choose
        return {"image_url": image_url}


# --- instruction edit ----------------------------------------------------------------------------

# Part of every prompt, because models otherwise change stones and prongs.
FIDELITY = (
    "Keep the piece itself exactly as it is: same shape, proportions, stones, settings, metal"
    " colour, engravings and hallmarks. Do not add, remove or repair anything on it."
)

# About one megapixel, sides that are multiples of 16.
_SIZES_1K = {
    "1:1": (1024, 1024),
    "4:5": (912, 1136),
    "3:4": (880, 1184),
    "4:3": (1184, 880),
    "16:9": (1360, 768),
    "9:16": (768, 1360),
}
_KONTEXT_RATIOS = {"4:5": "3:4"}  # the nearest one it takes
_GPT_SIZES = {
    "auto": "auto",
    "1:1": "1024x1024",
    "4:5": "1024x1536",
    "3:4": "1024x1536",
    "9:16": "1024x1536",
    "4:3": "1536x1024",
    "16:9": "1536x1024",
}


def edit_prompt(params: Params, presets: Presets) -> str:
    """The preset's words, the user's, and what must not change, in that order."""
    own = str(params.get("prompt") or "").strip()
    slug = params.get("preset")
    preset = next((item.prompt for item in presets if item.slug == slug), None)
    assert slug is None or preset is not None, f"the catalogue has no preset {slug!r}"
    if preset is None:
        scene = f"Place this exact piece of jewellery in this scene: {own}"
    else:
        scene = f"{preset} {own}"
    scene = scene.strip()
    if not scene.endswith((".", "!", "?")):
        scene += "."
    return f"{scene} {FIDELITY}"


class InstructionEdit:
    """Models that redraw a photo as a prompt says."""

    def build_body(self, step: Step, params: Params, presets: Presets, image_url: str) -> Body:
        body: Body = {"prompt": edit_prompt(params, presets)}
        if params.get("seed") is not None:
            body["seed"] = params["seed"]
        ratio = params.get("aspect_ratio", "auto")
        resolution = params.get("resolution", "1K")
        body.update(_shape_of(step.endpoint, ratio, resolution))
        if _takes_one_image(step.endpoint):
            body["image_url"] = image_url
        else:
            body["image_urls"] = [image_url]
        return body


def _takes_one_image(endpoint: str) -> bool:
    return endpoint in {
        "fal-ai/flux-pro/kontext",
        "fal-ai/flux-pro/kontext/max",
        "fal-ai/qwen-image-edit",
        "fal-ai/bria/background/replace",
    }


def _shape_of(endpoint: str, ratio: str, resolution: str) -> Body:
    """The parameters by which an endpoint takes the shape of the output."""
    family = endpoint.removeprefix("fal-ai/")
    if family.startswith("nano-banana"):
        # The first generation has no resolution.
        sized = {} if family == "nano-banana/edit" else {"resolution": resolution}
        return {"aspect_ratio": ratio, **sized}
    if family.startswith("flux-pro/kontext"):
        return {} if ratio == "auto" else {"aspect_ratio": _KONTEXT_RATIOS.get(ratio, ratio)}
    if "seedream" in family:
        # Its smallest output is 921,600 pixels; its auto sizes follow the photo.
        return {
            "image_size": f"auto_{resolution}"
            if ratio == "auto" and resolution != "1K"
            else "auto"
            if ratio == "auto"
            else _image_size(ratio, resolution)
        }
    if family.startswith("qwen-image-edit"):
        return {} if ratio == "auto" else {"image_size": _image_size(ratio, resolution)}
    if family.startswith("gpt-image"):
        return {"image_size": _GPT_SIZES[ratio]}
    return {}


def _image_size(ratio: str, resolution: str) -> dict[str, int]:
    width, height = _SIZES_1K[ratio]
    factor = {"1K": 1, "2K": 2, "4K": 4}[resolution]
    return {"width": width * factor, "height": height * factor}


# --- upscale -------------------------------------------------------------------------------------

# Endpoint → the name of its factor; None has a fixed one.
_FACTOR_NAMES: Mapping[str, str | None] = {
    "fal-ai/seedvr/upscale/image": "upscale_factor",
    "fal-ai/clarity-upscaler": "upscale_factor",
    "fal-ai/topaz/upscale/image": "upscale_factor",
    "fal-ai/esrgan": "scale",
    "clarityai/crystal-upscaler": "scale_factor",
    "fal-ai/recraft/upscale/crisp": None,
}
_SEEDED_UPSCALERS = frozenset({"fal-ai/seedvr/upscale/image", "fal-ai/clarity-upscaler"})


class Upscale:
    """Models that enlarge by a factor."""

    def build_body(self, step: Step, params: Params, presets: Presets, image_url: str) -> Body:
        del presets
        assert step.endpoint in _FACTOR_NAMES, f"no upscaler is called {step.endpoint!r}"
        body: Body = {"image_url": image_url}
        name = _FACTOR_NAMES[step.endpoint]
        if name is not None and params.get("factor") is not None:
            body[name] = params["factor"]
        if step.endpoint == "fal-ai/topaz/upscale/image":
            body["face_enhancement"] = False  # on by default, and it paints skin into metal
        if step.endpoint in _SEEDED_UPSCALERS and params.get("seed") is not None:
            body["seed"] = params["seed"]
        return body


ADAPTERS: Mapping[str, Adapter] = {
    "background_removal": BackgroundRemoval(),
    "instruction_edit": InstructionEdit(),
    "upscale": Upscale(),
}
