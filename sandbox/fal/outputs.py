"""Turns input bytes and parameters into output images; runs in the pool's processes.

Knows pixels only: no HTTP, no queue. The same input and parameters give the same bytes.
"""

import functools
import io
import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import msgspec
import numpy as np
from PIL import Image, ImageFilter, ImageOps

from sandbox.fal.cutout import Coverage, Pixels, clean_edges, find_piece
from sandbox.fal.scenes import compose

INPUT_SIDE_MIN = 8
INPUT_PIXELS_MAX = 66_000_000
OUTPUT_SIDE_MAX = 2048  # scenes: 4K would cost CPU without testing anything more
UPSCALE_FACTOR_MAX = 4.0
UPSCALE_PIXELS_MAX = 16_000_000
SUPPORTED_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")

PRESET_SIZES = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
RESOLUTION_SIDES = {"0.5K": 512, "1K": 1024, "2K": 2048, "4K": 2048}
TARGET_SIDES = {"720p": 720, "1080p": 1080, "1440p": 1440, "2160p": 2160}


class RenderJob(msgspec.Struct, frozen=True, kw_only=True):
    renderer: str
    endpoint_id: str
    images: tuple[bytes, ...]
    params: dict[str, Any]


class RenderedImage(msgspec.Struct, frozen=True, kw_only=True):
    content: bytes
    content_type: str
    width: int
    height: int
    role: str = "image"


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """The model cannot take this input: `type` and `ctx` as in fal's error list."""

    type: str
    message: str | None = None
    ctx: dict[str, Any] = {}


class RenderResult(msgspec.Struct, frozen=True, kw_only=True):
    images: tuple[RenderedImage, ...] = ()
    refusal: Refusal | None = None

    @property
    def size_bytes(self) -> int:
        return sum(len(image.content) for image in self.images)


class UnusableImageError(Exception):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.type)
        self.refusal = refusal


def prepare_process() -> None:
    """Low priority: the product under test runs on the same machine."""
    cv2.setNumThreads(min(2, os.cpu_count() or 1))
    os.nice(5)
    watch = threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True)
    watch.start()


def _exit_with_parent(parent: int) -> None:
    """A killed server cannot stop its pool: each process ends when its parent has."""
    while os.getppid() == parent:
        time.sleep(2)
    os._exit(0)


def render(job: RenderJob) -> RenderResult:
    try:
        pictures = [decode(content) for content in job.images]
    except UnusableImageError as error:
        return RenderResult(refusal=error.refusal)
    if not pictures:
        return RenderResult(refusal=Refusal(type="no_media_generated"))
    return RenderResult(images=tuple(_RENDERERS[job.renderer](job, pictures)))


def decode(content: bytes) -> Image.Image:
    """Upright RGB or RGBA. Raises: UnusableImageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are checked below
            picture = Image.open(io.BytesIO(content))
            if picture.format not in SUPPORTED_FORMATS:
                raise UnusableImageError(
                    Refusal(
                        type="unsupported_image_format",
                        ctx={"supported_formats": [".jpg", ".jpeg", ".png", ".webp", ".gif"]},
                    )
                )
            _check_size(picture)
            picture.load()
            upright = ImageOps.exif_transpose(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise UnusableImageError(Refusal(type="image_load_error")) from None
    has_alpha = "A" in upright.getbands() or "transparency" in upright.info
    return upright.convert("RGBA" if has_alpha else "RGB")


def _check_size(picture: Image.Image) -> None:
    width, height = picture.size
    if min(width, height) < INPUT_SIDE_MIN:
        raise UnusableImageError(
            Refusal(
                type="image_too_small",
                ctx={"min_height": INPUT_SIDE_MIN, "min_width": INPUT_SIDE_MIN},
            )
        )
    if width * height > INPUT_PIXELS_MAX:
        side = math.isqrt(INPUT_PIXELS_MAX)
        raise UnusableImageError(
            Refusal(type="image_too_large", ctx={"max_height": side, "max_width": side})
        )


# -- the models -------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def _piece_of(size: tuple[int, int], pixels: bytes) -> Coverage:
    width, height = size
    return find_piece(np.frombuffer(pixels, np.uint8).reshape(height, width, 3))


def coverage_of(picture: Image.Image) -> Coverage:
    """Where the piece is: the alpha channel of an input that is already cut out, else found."""
    if picture.mode == "RGBA":
        alpha: Coverage = np.asarray(picture.getchannel("A"), np.float32) / np.float32(255)
        if alpha.min() < 0.5:
            return alpha
    pixels = picture.convert("RGB").tobytes()
    return _piece_of(picture.size, pixels)


def _rgb(picture: Image.Image) -> Pixels:
    return np.asarray(picture.convert("RGB"))


def cut_out(job: RenderJob, pictures: list[Image.Image]) -> list[RenderedImage]:
    picture = pictures[0]
    coverage = coverage_of(picture)
    alpha = Image.fromarray(np.round(coverage * 255).astype(np.uint8))
    file_format = job.params.get("output_format", "png")
    if job.params.get("mask_only"):
        return [_encode(alpha.convert("RGB"), file_format)]
    pixels = (
        clean_edges(_rgb(picture), coverage)
        if job.params.get("refine_foreground", True)
        else _rgb(picture)
    )
    piece = Image.fromarray(pixels).convert("RGBA")
    piece.putalpha(alpha)
    box = alpha.getbbox()
    if job.params.get("crop_to_bbox") and box is not None:
        piece = piece.crop(box)
    made = [_encode(piece, file_format)]
    if job.params.get("output_mask"):
        mask = _encode(alpha.convert("RGB"), file_format)
        made.append(msgspec.structs.replace(mask, role="mask"))
    return made


def draw_scene(job: RenderJob, pictures: list[Image.Image]) -> list[RenderedImage]:
    params = job.params
    picture = pictures[0]
    coverage = coverage_of(picture)
    prompt = str(params.get("prompt") or params.get("scene_description") or "")
    count = int(params.get("num_images") or params.get("num_results") or 1)
    seed = params.get("seed")
    size = scene_size(params, picture.size)
    default = "jpeg" if "output_format" not in params else "png"
    made = []
    for number in range(count):
        drawn = compose(
            _rgb(picture),
            coverage,
            size=size,
            prompt=prompt,
            seed=(42 if seed is None else int(seed)) + number,
        )
        made.append(_encode(Image.fromarray(drawn), params.get("output_format") or default))
    return made


def scene_size(params: Mapping[str, Any], source: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the output as the endpoint's own parameters ask for it."""
    wanted = params.get("image_size")
    if isinstance(wanted, dict):
        return _capped(wanted["width"], wanted["height"])
    if wanted in PRESET_SIZES:
        return PRESET_SIZES[wanted]
    shot = params.get("shot_size")
    if shot is not None:
        return _capped(shot[0], shot[1])
    side = RESOLUTION_SIDES.get(params.get("resolution", "1K"), 1024)
    if wanted in {"auto_2K", "auto_4K"}:
        side = OUTPUT_SIDE_MAX
    ratio = params.get("aspect_ratio")
    if ratio in {None, "auto"}:
        share = source[0] / source[1]
    else:
        across, down = str(ratio).split(":")
        share = int(across) / int(down)
    share = min(max(share, 1 / 8), 8)
    return _capped(round(side * math.sqrt(share)), round(side / math.sqrt(share)))


def _capped(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, OUTPUT_SIDE_MAX / max(width, height))
    return max(64, round(width * scale)), max(64, round(height * scale))


def enlarge(job: RenderJob, pictures: list[Image.Image]) -> list[RenderedImage]:
    picture = pictures[0]
    size = enlarged_size(picture.size, job.params)
    factor = size[0] / picture.width
    larger = picture.resize(size, Image.Resampling.LANCZOS)
    sharper = larger.filter(ImageFilter.UnsharpMask(radius=1.2 * factor, percent=60, threshold=2))
    return [_encode(sharper, str(job.params.get("output_format") or "png"))]


def enlarged_size(size: tuple[int, int], params: Mapping[str, Any]) -> tuple[int, int]:
    """What comes back: as ordered, but never more than the model makes."""
    width, height = size
    factor = min(_factor(params, size), UPSCALE_FACTOR_MAX)
    factor = max(1.0, min(factor, math.sqrt(UPSCALE_PIXELS_MAX / (width * height))))
    return round(width * factor), round(height * factor)


def _factor(params: Mapping[str, Any], size: tuple[int, int]) -> float:
    if params.get("upscale_mode") == "target":
        return TARGET_SIDES[params["target_resolution"]] / min(size)
    return float(params.get("upscale_factor") or params.get("scale") or 2.0)


def _encode(picture: Image.Image, file_format: str) -> RenderedImage:
    name = "jpeg" if file_format == "jpg" else file_format
    out = io.BytesIO()
    match name:
        case "jpeg":
            picture.convert("RGB").save(out, "JPEG", quality=92)
        case "png":
            picture.save(out, "PNG", compress_level=3)
        case "webp":
            picture.save(out, "WEBP", quality=92)
        case _:
            picture.save(out, "GIF")
    return RenderedImage(
        content=out.getvalue(),
        content_type=f"image/{name}",
        width=picture.width,
        height=picture.height,
    )


_RENDERERS: Mapping[str, Callable[[RenderJob, list[Image.Image]], list[RenderedImage]]] = {
    "cutout": cut_out,
    "scene": draw_scene,
    "upscale": enlarge,
}


@functools.cache
def prerendered(renderer: str, *, png: bool, side: int) -> RenderedImage:
    """A fixed picture for load tests: a ring, cut out or in a scene, `side` pixels square."""
    cover = np.zeros((side, side), np.float32)
    cv2.circle(cover, (side // 2, side // 2), side // 3, 1.0, side // 20, cv2.LINE_AA)
    shades = np.linspace(90, 235, side, dtype=np.float32)[:, None, None]
    gold = np.array([1.0, 0.84, 0.5], np.float32)
    pixels = np.broadcast_to(np.clip(shades * gold, 0, 255), (side, side, 3)).astype(np.uint8)
    if renderer == "cutout":
        piece = Image.fromarray(pixels).convert("RGBA")
        piece.putalpha(Image.fromarray((cover * 255).astype(np.uint8)))
        return _encode(piece, "png")
    scene = compose(pixels, cover, size=(side, side), prompt="marble", seed=1)
    return _encode(Image.fromarray(scene), "png" if png else "jpeg")
