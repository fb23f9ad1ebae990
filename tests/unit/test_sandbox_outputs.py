"""The sandbox's pixels: cut-outs measured against exact masks, scenes, upscales, input checks."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sandbox.fal.cutout import find_piece
from sandbox.fal.models import ENDPOINTS
from sandbox.fal.outputs import (
    OUTPUT_SIDE_MAX,
    RenderJob,
    UnusableImageError,
    decode,
    prerendered,
    render,
    scene_size,
)

SAMPLES = Path(__file__).parents[1] / "data" / "samples"


def png(picture: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, file_format, **options)
    return out.getvalue()


def cut_piece(size: tuple[int, int] = (60, 40)) -> Image.Image:
    """A piece that is cut out already: its alpha needs no finding."""
    picture = Image.new("RGBA", size, (0, 0, 0, 0))
    picture.paste((200, 150, 40, 255), (size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2))
    return picture


def run(renderer: str, content: bytes, **params: Any) -> list[Image.Image]:
    job = RenderJob(renderer=renderer, endpoint_id="any", images=(content,), params=params)
    result = render(job)
    assert result.refusal is None
    for image in result.images:
        assert Image.open(io.BytesIO(image.content)).size == (image.width, image.height)
    return [Image.open(io.BytesIO(image.content)) for image in result.images]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ring", "earrings"])
def test_cutout_matches_the_exact_mask(name: str) -> None:
    (piece,) = run("cutout", (SAMPLES / f"{name}.jpg").read_bytes())

    exact = np.asarray(Image.open(SAMPLES / f"{name}.mask.png").convert("L")) > 127
    alpha = np.asarray(piece.getchannel("A"))
    found = alpha > 127
    overlap = (found & exact).sum() / (found | exact).sum()
    assert overlap >= 0.93  # measured 0.960 and 0.976, 2026-11
    soft = ((alpha > 0) & (alpha < 255)).sum()
    assert 0 < soft < 0.25 * exact.sum()


def test_no_piece_at_all_gives_a_picture_all_the_same() -> None:
    coverage = find_piece(np.full((64, 64, 3), 128, np.uint8))

    assert coverage.shape == (64, 64)
    assert 0 <= coverage.min() <= coverage.max() <= 1


@pytest.mark.parametrize("file_format", ["png", "webp", "gif"])
def test_cutout_formats_and_mask(file_format: str) -> None:
    piece, mask = run("cutout", png(cut_piece()), output_format=file_format, output_mask=True)

    assert piece.format == mask.format == file_format.upper()
    assert np.asarray(mask.convert("L")).max() == 255


def test_cutout_mask_only_and_crop() -> None:
    (mask,) = run("cutout", png(cut_piece()), mask_only=True)
    (cropped,) = run("cutout", png(cut_piece()), crop_to_bbox=True)

    assert mask.mode == "RGB"
    assert cropped.size == (15, 10)


def test_scene_puts_the_piece_in_the_lower_middle() -> None:
    (scene,) = run("scene", png(cut_piece()), prompt="plain white", aspect_ratio="1:1")

    pixels = np.asarray(scene.convert("RGB")).astype(int)
    gold = (pixels[..., 0] - pixels[..., 2]) > 80
    rows, columns = np.flatnonzero(gold.any(axis=1)), np.flatnonzero(gold.any(axis=0))
    assert scene.size == (1024, 1024)
    assert 0.5 < rows.mean() / 1024 < 0.8
    assert 0.45 < columns.mean() / 1024 < 0.55


def test_scene_makes_as_many_as_asked_each_another() -> None:
    first, second = run("scene", png(cut_piece()), prompt="oak", num_images=2)

    assert first.tobytes() != second.tobytes()


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, (1182, 887)),
        ({"aspect_ratio": "1:1", "resolution": "2K"}, (2048, 2048)),
        ({"aspect_ratio": "9:16"}, (768, 1365)),
        ({"image_size": "portrait_4_3"}, (768, 1024)),
        ({"image_size": {"width": 1500, "height": 900}}, (1500, 900)),
        ({"image_size": {"width": 9000, "height": 4500}}, (2048, 1024)),
        ({"image_size": "auto_4K", "aspect_ratio": "1:1"}, (2048, 2048)),
        ({"shot_size": [1000, 800]}, (1000, 800)),
    ],
)
def test_scene_size(params: dict[str, Any], expected: tuple[int, int]) -> None:
    size = scene_size(params, (400, 300))

    assert size == expected
    assert max(size) <= OUTPUT_SIDE_MAX


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, (120, 80)),
        ({"upscale_factor": 4}, (240, 160)),
        ({"scale": 8}, (240, 160)),
        ({"upscale_mode": "target", "target_resolution": "720p"}, (240, 160)),
        ({"scale": 1}, (60, 40)),
    ],
)
def test_upscale_factor_is_capped(params: dict[str, Any], expected: tuple[int, int]) -> None:
    (larger,) = run("upscale", png(Image.new("RGB", (60, 40), "gold")), **params)

    assert larger.size == expected


def test_upscale_is_capped_by_pixels() -> None:
    (larger,) = run("upscale", png(Image.new("L", (3000, 2500)), "JPEG"), upscale_factor=4)

    assert 15_000_000 < larger.width * larger.height <= 16_100_000


def test_orientation_of_the_camera_is_followed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = decode(png(Image.new("RGB", (60, 40)), "JPEG", exif=exif.tobytes()))

    assert picture.size == (40, 60)


@pytest.mark.parametrize(
    ("content", "error_type"),
    [
        (b"", "image_load_error"),
        (b"GIF89a", "image_load_error"),
        (png(Image.new("RGB", (4, 4))), "image_too_small"),
        (png(Image.new("RGB", (40, 40)), "PPM"), "unsupported_image_format"),
        (png(Image.new("1", (9000, 9000))), "image_too_large"),
    ],
)
def test_unusable_inputs(content: bytes, error_type: str) -> None:
    with pytest.raises(UnusableImageError) as caught:
        decode(content)
    assert caught.value.refusal.type == error_type


@pytest.mark.parametrize("renderer", ["cutout", "scene", "upscale"])
def test_prerendered_is_a_square_picture(renderer: str) -> None:
    image = prerendered(renderer, png=False, side=1024)

    picture = Image.open(io.BytesIO(image.content))
    assert picture.size == (image.width, image.height) == (1024, 1024)
    assert picture.mode == ("RGBA" if renderer == "cutout" else "RGB")
    assert prerendered(renderer, png=False, side=1024) is image


def test_every_endpoint_prices_its_own_output() -> None:
    assert len(ENDPOINTS) == 16
    assert all(endpoint.unit_price > 0 for endpoint in ENDPOINTS.values())
