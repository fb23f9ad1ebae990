import pickle
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.pixels import label
from core.pixels.colour import Space, icc_of
from core.pixels.faults import OutputFault
from core.pixels.fidelity import measure_fidelity
from core.pixels.normalise import normalise
from core.pixels.outputs import apply_rule, verify_output
from core.pixels.types import OutputRuleError, RenderedOutput
from tests.unit.pixels import images

NAMES = ("ring", "earrings")


def apply(
    rule: str, name: str = "ring", result: bytes | None = None, **params: Any
) -> RenderedOutput:
    source = images.sample(f"{name}.jpg")
    return apply_rule(rule, source=source, result=result or images.cut_out_of(name), params=params)


def refusal(rule: str, source: bytes, result: bytes, **params: Any) -> str:
    with pytest.raises(OutputRuleError) as caught:
        apply_rule(rule, source=source, result=result, params=params)
    return caught.value.reason


def true_alpha(name: str) -> Any:
    return images.pixels(Image.open(images.SAMPLES / f"{name}.mask.png").convert("L"))


# verification


def test_verify_accepts_what_providers_send() -> None:
    for kind in ("jpeg", "png", "webp"):
        info = verify_output(images.encode(images.photo(), kind))
        assert (info.format, info.width, info.height, info.has_alpha) == (kind, 160, 120, False)
    assert verify_output(images.cut_out_of(size=(256, 256))).has_alpha


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_output"),
        (b"<html>502 Bad Gateway</html>", "wrong_type"),
        (b'{"detail": "oops"}', "wrong_type"),
        (images.encode(images.photo(), "gif"), "wrong_type"),
        (images.encode(images.photo(), "tiff"), "wrong_type"),
        (images.encode(images.photo().convert("CMYK"), "jpeg"), "wrong_type"),
        (images.encode(images.photo(), "png")[:2000], "undecodable"),
        (images.png_header(300, 300), "undecodable"),
        (images.encode(Image.new("RGB", (300, 300), (7, 7, 7)), "jpeg"), "blank"),
        (images.encode(Image.new("RGBA", (300, 300)), "png"), "blank"),
        (images.encode(Image.new("L", (300, 300), 255), "png"), "blank"),
        (images.encode(images.photo(16, 16), "png"), "absurd_size"),
        (images.png_header(60_000, 60_000), "absurd_size"),
        (images.encode(images.photo(400, 300), "png"), "too_many_bytes"),
    ],
)
def test_verify_refuses(data: bytes, reason: str) -> None:
    with pytest.raises(OutputRuleError) as caught:
        verify_output(data, max_bytes=200_000, max_pixels=1_000_000)
    assert caught.value.reason == reason


def test_rule_error_crosses_processes() -> None:
    copy = pickle.loads(pickle.dumps(OutputRuleError(OutputFault.BLANK, "One colour.")))
    assert (copy.reason, copy.detail) == ("blank", "One colour.")


# cut-out


@pytest.mark.parametrize("name", NAMES)
def test_cutout_has_exactly_the_uploaded_pixels(name: str) -> None:
    output = apply("own_pixels_cutout", name)
    source, seen = images.pixels(images.sample(f"{name}.jpg")), images.pixels(output.data)
    inside = seen[..., 3] > 0
    assert (seen[..., :3][inside] == source[inside]).all()
    assert (seen[..., :3][~inside] == 255).all()
    assert np.abs(seen[..., 3] - true_alpha(name)).max() < 8
    assert output.format.content_type == "image/png"
    assert output.facts["own_pixels"] is True
    assert output.facts["fidelity"]["max_difference"] == 0
    assert output.facts["coverage"] == pytest.approx(true_alpha(name).mean() / 255, abs=0.001)


def test_cutout_box_is_the_pieces() -> None:
    output = apply("own_pixels_cutout")
    rows, columns = np.nonzero(true_alpha("ring") >= 32)
    left, top, right, bottom = output.facts["alpha_bbox"]
    expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert np.abs(np.array((left, top, right, bottom)) - expected).max() <= 2


@pytest.mark.parametrize("size", [(700, 700), (1024, 1024), (2048, 2048)])
def test_cutout_of_another_size_is_resampled(size: tuple[int, int]) -> None:
    output = apply("own_pixels_cutout", result=images.cut_out_of("ring", size))
    seen = images.pixels(output.data)
    assert output.facts["alpha_resampled"] is True
    assert (output.width, output.height) == (1400, 1400)
    source = images.pixels(images.sample())
    assert (seen[..., :3][seen[..., 3] > 0] == source[seen[..., 3] > 0]).all()
    ours, truth = seen[..., 3] > 127, true_alpha("ring") > 127
    assert (ours & truth).sum() / (ours | truth).sum() > 0.98


def test_cutout_from_a_gray_mask_or_webp() -> None:
    mask = (images.SAMPLES / "ring.mask.png").read_bytes()
    webp = images.encode(images.decode(images.cut_out_of()), "webp", lossless=True)
    expected = apply("own_pixels_cutout").pixel_sha256
    assert apply("own_pixels_cutout", result=mask).pixel_sha256 == expected
    assert apply("own_pixels_cutout", result=webp).pixel_sha256 == expected


def test_cutout_keeps_the_uploads_own_transparency() -> None:
    source = images.photo(300, 300)
    hole = Image.new("L", source.size, 255)
    hole.paste(0, (100, 100, 150, 150))
    source.putalpha(hole)
    matte = Image.new("L", source.size, 0)
    matte.paste(255, (80, 80, 220, 220))
    result = images.photo(300, 300, seed=3)
    result.putalpha(matte)
    output = apply_rule(
        "own_pixels_cutout",
        source=normalise(images.encode(source, "png")).data,
        result=images.encode(result, "png"),
        params={},
    )
    alpha = images.pixels(output.data)[..., 3]
    assert alpha[125, 125] == 0
    assert alpha[90, 90] == 255


def test_cutouts_that_found_nothing_or_everything() -> None:
    source = images.sample()
    picture = images.quadrants(1400, 1400)

    def with_alpha(box: tuple[int, int, int, int], value: int = 255) -> bytes:
        matte = Image.new("L", (1400, 1400), 0)
        matte.paste(value, box)
        picture.putalpha(matte)
        return images.encode(picture, "png", compress_level=1)

    for rule in ("own_pixels_cutout", "packshot"):
        assert refusal(rule, source, with_alpha((0, 0, 0, 0))) == "nothing_found"
        assert refusal(rule, source, with_alpha((700, 700, 740, 740))) == "nothing_found"
        # A veil over everything is no piece.
        assert refusal(rule, source, with_alpha((0, 0, 1400, 1400), 5)) == "nothing_found"
        assert refusal(rule, source, with_alpha((0, 0, 1400, 1395))) == "background_not_found"
    plain = images.encode(images.photo(1400, 1400), "png", compress_level=1)
    assert refusal("own_pixels_cutout", source, plain) == "no_alpha"
    cropped = images.encode(images.decode(images.cut_out_of()).crop((0, 0, 900, 700)), "png")
    assert refusal("own_pixels_cutout", source, cropped) == "size_mismatch"
    assert refusal("own_pixels_cutout", source, b"nonsense") == "wrong_type"


# packshot


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("params", "size"),
    [
        ({}, (2000, 2000)),
        ({"aspect_ratio": "4:5", "size": 1500}, (1200, 1500)),
        ({"aspect_ratio": "original", "size": 1024, "margin_percent": 5}, (1024, 1024)),
    ],
)
def test_packshot_is_pure_white_up_to_the_outline(
    name: str, params: dict[str, Any], size: tuple[int, int]
) -> None:
    output = apply("packshot", name, **params)
    assert (output.width, output.height) == size
    assert output.format.content_type == "image/jpeg"
    seen = images.pixels(output.data)
    facts = output.facts
    assert facts["background_exact"] is True
    assert (seen == 255).all(axis=2).mean() >= facts["background_fraction"]
    # Told independently of the code: the true mask, framed as the facts say, and 2 pixels of air.
    near = _grow(_framed_mask(name, facts, size) > 0, 2)
    assert (seen[~near] == 255).all()
    assert (seen[near] < 250).mean() > 0.3
    border = np.concatenate([seen[0], seen[-1], seen[:, 0], seen[:, -1]])
    assert (border == 255).all()


def _framed_mask(name: str, facts: dict[str, Any], size: tuple[int, int]) -> Any:
    mask = Image.open(images.SAMPLES / f"{name}.mask.png").convert("L")
    left, top, right, bottom = facts["alpha_bbox"]
    scale = facts["scale"]
    # Where the frame's corners lie in the photo.
    centre = (left + right) / 2, (top + bottom) / 2
    x, y = centre[0] - size[0] / 2 / scale, centre[1] - size[1] / 2 / scale
    framed = mask.transform(
        size, Image.Transform.AFFINE, (1 / scale, 0, x, 0, 1 / scale, y), Image.Resampling.BILINEAR
    )
    return np.asarray(framed)


def _grow(area: Any, steps: int) -> Any:
    for _ in range(steps):
        shifted = [np.roll(area, step, axis) for step in (1, -1) for axis in (0, 1)]
        area = np.logical_or.reduce([area, *shifted])
    return area


@pytest.mark.parametrize("margin", [0, 8, 20])
def test_packshot_fills_and_centres(margin: int) -> None:
    output = apply("packshot", "earrings", margin_percent=margin, size=1200)
    rows, columns = np.nonzero((images.pixels(output.data) < 250).any(axis=2))
    width = (columns.max() + 1 - columns.min()) / 1200
    assert width == pytest.approx(1 - 2 * margin / 100, abs=0.01)
    assert output.facts["fill_percent"] == pytest.approx(100 - 2 * margin, abs=0.5)
    assert (columns.max() + columns.min()) / 2 == pytest.approx(600, abs=4)
    assert (rows.max() + rows.min()) / 2 == pytest.approx(600, abs=4)


@pytest.mark.parametrize("name", NAMES)
def test_packshot_keeps_the_pieces_colours(name: str) -> None:
    output = apply("packshot", name)
    fidelity = output.facts["fidelity"]
    assert fidelity["max_difference"] <= 16
    assert fidelity["mean_difference"] < 1
    # Against the source itself, sampled where each frame pixel comes from.
    box, scale = output.facts["alpha_bbox"], output.facts["scale"]
    source = Image.open(images.SAMPLES / f"{name}.jpg")
    centre = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    x, y = centre[0] - 1000 / scale, centre[1] - 1000 / scale
    framed = source.transform(
        (2000, 2000),
        Image.Transform.AFFINE,
        (1 / scale, 0, x, 0, 1 / scale, y),
        Image.Resampling.BICUBIC,
    )
    inside = ~_grow(_framed_mask(name, output.facts, (2000, 2000)) < 255, 4)
    core = Image.fromarray((inside * 255).astype(np.uint8))
    measured = measure_fidelity(framed, images.decode(output.data), core)
    assert measured.pixels > 10_000
    assert measured.mean_difference < 1.5


def test_packshot_has_profile_and_no_subsampling() -> None:
    output = apply("packshot", size=1024)
    opened = images.decode(output.data)
    assert opened.mode == "RGB"
    assert opened.info["icc_profile"] == icc_of(Space.SRGB)
    frame = output.data.index(b"\xff\xc0")
    assert output.data[frame + 9 : frame + 19] == b"\x03R\x11\x00G\x11\x00B\x11\x00"


def test_soft_shadow_leaves_the_piece_and_the_border_alone() -> None:
    bare = apply("packshot", size=1200)
    shaded = apply("packshot", size=1200, shadow="soft")
    before, after = images.pixels(bare.data), images.pixels(shaded.data)
    assert shaded.facts["background_exact"] is True
    assert (before != after).any(axis=2).mean() > 0.05
    near = _grow(_framed_mask("ring", bare.facts, (1200, 1200)) > 0, 2)
    shadow = after[~near]
    assert shadow.min() >= 255 - 70
    assert (shadow.max(axis=1) - shadow.min(axis=1)).max() <= 12
    assert (after[:20] == 255).all()
    core = images.pixels(images.decode(bare.data)).max(axis=2) < 150
    assert np.abs(before - after)[core].mean() < 1


def test_packshot_parameters() -> None:
    source, result = images.sample(), images.cut_out_of()
    for bad in ({"size": 500}, {"size": 3001}, {"aspect_ratio": "2:1"}, {"margin_percent": 60}):
        assert refusal("packshot", source, result, **bad) == "bad_parameters"
    assert apply("packshot", size=1024, prompt="ignored").width == 1024


def test_packshot_frames_the_piece_not_the_specks() -> None:
    cutout = images.decode(images.cut_out_of())
    alpha = cutout.getchannel("A")
    alpha.paste(255, (3, 3, 4, 4))
    cutout.putalpha(alpha)
    output = apply("packshot", result=images.encode(cutout, "png"), size=1024)
    assert output.facts["fill_percent"] == apply("packshot", size=1024).facts["fill_percent"]


# as delivered


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_delivered_pixels_stay_and_metadata_goes(kind: str) -> None:
    secret: dict[str, Any] = {
        "exif": images.exif_with_location("SECRET"),
        "xmp": b"<x:xmpmeta>SECRET</x:xmpmeta>",
    }
    if kind == "png":
        del secret["xmp"]
    data = images.encode(images.photo(300, 200), kind, **secret)
    output = apply("as_delivered", result=data)
    assert (images.pixels(output.data) == images.pixels(data)).all()
    assert b"SECRET" not in output.data
    assert output.format.content_type == f"image/{kind}"
    assert output.facts["reencoded"] is False
    assert output.facts["own_pixels"] is False
    assert output.data.count(label.EDITED_WITH_AI.encode()) == 1
    assert not images.decode(output.data).getexif()


@pytest.mark.parametrize("kind", ["png", "webp"])
@pytest.mark.parametrize("lossless", [True, False])
def test_delivered_alpha_stays(kind: str, *, lossless: bool) -> None:
    image = images.photo()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    data = images.encode(image, kind, **({"lossless": lossless} if kind == "webp" else {}))
    output = apply("as_delivered", result=data)
    assert images.decode(output.data).mode == "RGBA"
    assert (images.pixels(output.data) == images.pixels(data)).all()


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_delivered_in_another_colour_space_is_converted(kind: str) -> None:
    profile = icc_of(Space.DISPLAY_P3)
    options: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
    data = images.encode(images.photo(300, 200), kind, icc_profile=profile, **options)
    output = apply("as_delivered", result=data)
    assert output.facts["reencoded"] is True
    assert output.facts["converted_to_srgb"] is True
    assert output.format.content_type == f"image/{kind}"
    assert (images.pixels(output.data) != images.pixels(data)).any()
    assert label.EDITED_WITH_AI.encode() in output.data


def test_delivered_sideways_or_deep() -> None:
    output = apply("as_delivered", result=images.oriented("jpeg", 6))
    assert (output.width, output.height) == (192, 128)
    deep = images.png_sixteen_bit()
    output = apply(
        "as_delivered", result=images.insert_chunk(deep, b"tIME", b"\x07\xe8" + b"\x01" * 5)
    )
    assert output.facts["reencoded"] is True
    assert images.decode(output.data).mode == "RGB"


def test_enlarged_results_must_be_larger() -> None:
    source = images.encode(images.photo(400, 300), "jpeg")

    def result(width: int, height: int) -> bytes:
        return images.encode(images.photo(width, height), "jpeg")

    output = apply_rule(
        "as_delivered", source=source, result=result(800, 600), params={"upscale_factor": 2}
    )
    assert output.facts["scale"] == [2.0, 2.0]
    assert refusal("as_delivered", source, result(400, 300), upscale_factor=2) == "not_enlarged"
    assert refusal("as_delivered", source, result(800, 800), upscale_factor=2) == "aspect_changed"
    apply_rule("as_delivered", source=source, result=result(800, 800), params={})


@pytest.mark.parametrize("rule", ["own_pixels_cutout", "packshot", "as_delivered"])
def test_every_rule_gives_thumbnail_hash_and_plain_facts(rule: str) -> None:
    output = apply(rule)
    assert max(images.decode(output.thumbnail).size) == 512
    assert output.format.extension in output.format.content_type.replace("jpeg", "jpg")
    assert pickle.loads(pickle.dumps(output)) == output
    image = images.decode(output.data)
    assert (image.width, image.height) == (output.width, output.height)


def test_fidelity_counts_what_changed() -> None:
    before = images.photo()
    after = before.copy()
    after.paste((0, 0, 0), (0, 0, 16, 120))
    alpha = Image.new("L", before.size, 255)
    measured = measure_fidelity(before, after, alpha)
    assert measured.changed_fraction == pytest.approx(0.1, abs=0.001)
    assert measured.max_difference > 20
    alpha.paste(0, (0, 0, 16, 120))
    assert measure_fidelity(before, after, alpha).max_difference == 0
