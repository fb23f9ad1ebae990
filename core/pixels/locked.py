"""The locked lane: the piece keeps its own pixels. A provider only finds where the piece is.

Only the alpha of its cut-out is used, laid on the uploaded pixels. Colours at soft edges are not
decontaminated: that would change pixels of the piece, and the lane promises not to.
"""

import math
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from PIL import Image, ImageChops, ImageFilter

from core.pixels import raster, rendered, white_jpeg
from core.pixels.faults import OutputFault
from core.pixels.fidelity import Fidelity, measure_fidelity
from core.pixels.formats.base import ImageFormat
from core.pixels.types import OutputRuleError, RenderedOutput

_COVERAGE_MIN, _COVERAGE_MAX = 0.002, 0.98
# Matting models leave a veil of a few steps over the background; below this it is background, and
# as far from opaque it is piece.
_HAZE = 8
# Alpha from which a pixel counts as piece when the piece is measured.
_VISIBLE = 32
_ASPECT_TOLERANCE = 0.02
# What is taken along around the piece's box, as part of its longest side.
_PAD = 0.02
# Darkest step below white, and offset and blur as parts of the frame's longest side.
_SHADOW_DEPTH, _SHADOW_DROP, _SHADOW_BLUR = 60, 0.02, 0.02

Box = tuple[int, int, int, int]


class PackshotParams(msgspec.Struct, frozen=True):
    """Defaults are the square master that every large marketplace takes: 2,000 pixels (above
    Etsy's and Amazon's minimum for zoom, below Amazon Jewelry's 2,100), piece at 84 %."""

    margin_percent: Annotated[float, msgspec.Meta(ge=0, le=40)] = 8
    aspect_ratio: Literal["1:1", "4:5", "original"] = "1:1"
    size: Annotated[int, msgspec.Meta(ge=1024, le=3000)] = 2000
    shadow: Literal["none", "soft"] = "none"


class Cutout(NamedTuple):
    source: Image.Image
    """RGB as uploaded, everywhere."""
    alpha: Image.Image
    box: Box
    facts: dict[str, Any]


def cut_out(source: bytes, result: bytes, *, max_bytes: int, max_pixels: int) -> Cutout:
    """Raises: OutputRuleError (no_alpha, size_mismatch, nothing_found, background_not_found)."""
    own = rendered.open_source(source)
    opened = rendered.open_output(result, max_bytes=max_bytes, max_pixels=max_pixels)
    matte = _matte(opened.image)
    if abs(matte.width / matte.height * own.height / own.width - 1) > _ASPECT_TOLERANCE:
        raise OutputRuleError(
            OutputFault.SIZE_MISMATCH,
            "The cut-out has another shape than the photo, so it cannot be laid on.",
        )
    resampled = matte.size != own.size
    if resampled:
        matte = matte.resize(own.size, Image.Resampling.LANCZOS)
    alpha = matte.point([_clean(step) for step in range(256)])
    if own.mode == "RGBA":
        alpha = ImageChops.darker(alpha, own.getchannel("A"))
    coverage = _coverage(alpha)
    if coverage < _COVERAGE_MIN:
        raise OutputRuleError(OutputFault.NOTHING_FOUND, "No piece was found in the photo.")
    if coverage > _COVERAGE_MAX:
        raise OutputRuleError(
            OutputFault.BACKGROUND_NOT_FOUND, "The piece could not be told from its background."
        )
    box = _piece_box(alpha)
    facts = {
        "own_pixels": True,
        "coverage": round(coverage, 5),
        "alpha_bbox": list(box),
        "alpha_resampled": resampled,
    }
    return Cutout(own.convert("RGB"), alpha, box, facts)


def own_pixels_cutout(cutout: Cutout) -> RenderedOutput:
    """A transparent PNG: the piece's own pixels, and nothing of the background under them."""
    visible = cutout.alpha.point([0] + [255] * 255)
    image = Image.new("RGB", cutout.source.size, (255, 255, 255))
    image.paste(cutout.source, mask=visible)
    image.putalpha(cutout.alpha)
    data = raster.encode_png(image, with_profile=True)
    decoded = raster.decode(data, ImageFormat.PNG)
    fidelity = measure_fidelity(cutout.source, decoded, cutout.alpha, alpha_min=1)
    assert fidelity.max_difference == 0, "PNG is lossless"
    facts = cutout.facts | {"fidelity": fidelity.as_facts()}
    return rendered.render(data, decoded, ImageFormat.PNG, facts)


def packshot(cutout: Cutout, params: PackshotParams) -> RenderedOutput:
    """The same pixels on pure white, framed as marketplaces ask. JPEG, quality 95, 4:4:4."""
    frame = _frame_size(params, cutout.source.size)
    scale = _scale(cutout.box, frame, params.margin_percent)
    piece, matte, corner = _scaled_piece(cutout, scale, frame)
    alpha = Image.new("L", frame, 0)
    alpha.paste(matte, corner)
    composed = Image.new("RGB", frame, (255, 255, 255))
    composed.paste(piece, corner, mask=matte.point([0] + [255] * 255))
    background = np.asarray(alpha) == 0
    if params.shadow == "soft":
        composed, shaded = _with_shadow(composed, alpha)
        background &= ~shaded
    data, decoded, exact = white_jpeg.encode_exact(composed, background)
    facts = cutout.facts | _packshot_facts(cutout.box, frame, scale, params)
    facts["background_exact"] = exact
    facts["background_fraction"] = round(float(background.mean()), 5)
    facts["fidelity"] = _fidelity(composed, decoded, alpha).as_facts()
    return rendered.render(data, decoded, ImageFormat.JPEG, facts)


def _fidelity(composed: Image.Image, decoded: Image.Image, alpha: Image.Image) -> Fidelity:
    """Against the uploaded pixels as scaled into the frame: what encoding did to them."""
    return measure_fidelity(composed, decoded, alpha)


def _packshot_facts(
    box: Box, frame: tuple[int, int], scale: float, params: PackshotParams
) -> dict[str, Any]:
    width, height = box[2] - box[0], box[3] - box[1]
    return {
        "background": "#FFFFFF",
        "shadow": params.shadow,
        "margin_percent": params.margin_percent,
        "aspect_ratio": params.aspect_ratio,
        "scale": round(scale, 4),
        "enlarged": scale > 1,
        # Marketplaces do not define "fill"; this is the longer side of the piece's box.
        "fill_percent": round(100 * max(width * scale / frame[0], height * scale / frame[1]), 1),
    }


def _matte(image: Image.Image) -> Image.Image:
    """The alpha channel, or a gray picture that is itself the mask."""
    if rendered.has_alpha(image):
        return image.convert("RGBA").getchannel("A")
    if image.mode in {"L", "1"}:
        return image.convert("L")
    raise OutputRuleError(OutputFault.NO_ALPHA, "The cut-out came back without transparency.")


def _clean(step: int) -> int:
    if step < _HAZE:
        return 0
    return 255 if step > 255 - _HAZE else step


def _coverage(alpha: Image.Image) -> float:
    histogram = alpha.histogram()
    return sum(step * count for step, count in enumerate(histogram)) / (
        255 * alpha.width * alpha.height
    )


def _piece_box(alpha: Image.Image) -> Box:
    """Where the piece stands; a few lost pixels far from it do not count."""
    visible = np.asarray(alpha) >= _VISIBLE
    needed = max(2, max(alpha.size) // 1000)
    columns = np.flatnonzero(visible.sum(axis=0) >= needed)
    rows = np.flatnonzero(visible.sum(axis=1) >= needed)
    if not columns.size or not rows.size:
        raise OutputRuleError(OutputFault.NOTHING_FOUND, "No piece was found in the photo.")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _frame_size(params: PackshotParams, source: tuple[int, int]) -> tuple[int, int]:
    """`size` is the longest side."""
    if params.aspect_ratio == "1:1":
        return params.size, params.size
    if params.aspect_ratio == "4:5":
        return round(params.size * 4 / 5), params.size
    ratio = params.size / max(source)
    return max(1, round(source[0] * ratio)), max(1, round(source[1] * ratio))


def _scale(box: Box, frame: tuple[int, int], margin_percent: float) -> float:
    room = 1 - 2 * margin_percent / 100
    return min(frame[0] * room / (box[2] - box[0]), frame[1] * room / (box[3] - box[1]))


def _scaled_piece(
    cutout: Cutout, scale: float, frame: tuple[int, int]
) -> tuple[Image.Image, Image.Image, tuple[int, int]]:
    """The piece on white and its alpha, scaled, and the corner that centres its box.

    Laid on white first and then scaled, which equals scaling with premultiplied alpha: no colour
    of the old background is drawn in over the edge. The centre of the box falls exactly on the
    centre of the frame, between pixels where need be.
    """
    left, top, right, bottom = cutout.box
    pad = round(_PAD * max(right - left, bottom - top)) + 4
    # Wide enough that rounding outwards in the frame stays inside; beyond the photo it is white.
    slack = pad + 2 + math.ceil(1 / scale)
    crop = left - slack, top - slack, right + slack, bottom + slack
    matte = cutout.alpha.crop(crop)
    on_white = Image.new("RGB", matte.size, (255, 255, 255))
    on_white.paste(cutout.source.crop(crop), mask=matte)
    spans = [
        _span(frame[axis], (cutout.box[axis] + cutout.box[axis + 2]) / 2, scale, crop[axis],
              (cutout.box[axis] - pad, cutout.box[axis + 2] + pad))
        for axis in (0, 1)
    ]  # fmt: skip
    (x, width, from_x, to_x), (y, height, from_y, to_y) = spans
    box = (from_x, from_y, to_x, to_y)
    piece = on_white.resize((width, height), Image.Resampling.LANCZOS, box=box)
    # Lanczos echoes an edge a few pixels further out; a bilinear outline cuts the echo off.
    alpha = matte.resize((width, height), Image.Resampling.BILINEAR, box=box)
    return piece, alpha.point([_clean(step) for step in range(256)]), (x, y)


def _span(
    side: int, centre: float, scale: float, crop_start: int, wanted: tuple[int, int]
) -> tuple[int, int, float, float]:
    """Along one axis: whole pixels of the frame, and what part of the crop belongs there."""
    first = math.floor(side / 2 + (wanted[0] - centre) * scale)
    last = math.ceil(side / 2 + (wanted[1] - centre) * scale)

    def back(at: int) -> float:
        return centre + (at - side / 2) / scale - crop_start

    return first, last - first, back(first), back(last)


def _with_shadow(composed: Image.Image, alpha: Image.Image) -> tuple[Image.Image, Any]:
    """A soft drop shadow around the piece, which stays as it is, and where it lies (bools)."""
    longest = max(alpha.size)
    dropped = ImageChops.offset(alpha, 0, round(longest * _SHADOW_DROP))
    dropped.paste(0, (0, 0, alpha.width, round(longest * _SHADOW_DROP)))
    soft = dropped.filter(ImageFilter.GaussianBlur(longest * _SHADOW_BLUR))
    free = ImageChops.multiply(soft, ImageChops.invert(alpha))
    depth = free.point([round(step * _SHADOW_DEPTH / 255) for step in range(256)])
    shaded = ImageChops.subtract(composed, Image.merge("RGB", (depth, depth, depth)))
    return shaded, np.asarray(depth) > 0
