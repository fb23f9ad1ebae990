"""A provider's result, checked when it is opened, and the struct of what is delivered."""

from typing import Any

import msgspec
from PIL import Image

from core.pixels import colour, raster, sniff
from core.pixels.errors import UnsupportedMediaError
from core.pixels.faults import OutputFault
from core.pixels.formats.base import Colour, ImageFormat, Layout
from core.pixels.limits import OUTPUT_BYTES_MAX, OUTPUT_PIXELS_MAX, SIDE_MAX, SIDE_MIN
from core.pixels.types import DecodedInfo, OutputRuleError, RenderedOutput

_DELIVERABLE = frozenset({ImageFormat.JPEG, ImageFormat.PNG, ImageFormat.WEBP})
# A flat picture differs by this much at most after JPEG; any real one by far more.
_BLANK_RANGE = 2


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded result. `image` keeps the file's own mode and colour profile."""

    info: DecodedInfo
    layout: Layout
    image: Image.Image


def open_output(
    data: bytes, *, max_bytes: int = OUTPUT_BYTES_MAX, max_pixels: int = OUTPUT_PIXELS_MAX
) -> Opened:
    """Raises: OutputRuleError (empty_output, too_many_bytes, wrong_type, undecodable,
    absurd_size, blank)."""
    if not data:
        raise OutputRuleError(OutputFault.EMPTY_OUTPUT, "The result is empty.")
    if len(data) > max_bytes:
        raise OutputRuleError(
            OutputFault.TOO_MANY_BYTES, f"The result has more than {max_bytes} bytes."
        )
    layout = _parse(data)
    width, height = layout.width, layout.height
    if (
        min(width, height) < SIDE_MIN
        or max(width, height) > SIDE_MAX
        or width * height > max_pixels
    ):
        raise OutputRuleError(OutputFault.ABSURD_SIZE, f"The result is {width} x {height} pixels.")
    try:
        image = raster.decode(data[: layout.end], layout.format)
    except UnsupportedMediaError as error:
        raise OutputRuleError(OutputFault.UNDECODABLE, "The result cannot be decoded.") from error
    if image.size != (width, height):
        raise OutputRuleError(
            OutputFault.UNDECODABLE, "The result's header and pixels differ in size."
        )
    _refuse_blank(image)
    info = DecodedInfo(
        format=layout.format,
        width=width,
        height=height,
        has_alpha=has_alpha(image),
        size_bytes=len(data),
    )
    return Opened(info=info, layout=layout, image=image)


def has_alpha(image: Image.Image) -> bool:
    return image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info


def to_srgb(opened: Opened) -> tuple[Image.Image, bool]:
    """RGB or RGBA in sRGB, and whether that moved any colour."""
    icc = opened.image.info.get("icc_profile")
    if opened.image.mode == "L" and icc and colour.is_gray_profile(icc):
        return colour.gray_to_srgb(opened.image, icc), True
    flat = _flatten(opened.image)
    converted = colour.to_srgb(flat, icc=icc, cicp=opened.layout.cicp)
    return converted.image, converted.changed


def open_source(data: bytes) -> Image.Image:
    """A normalised upload as RGB or RGBA."""
    image = raster.decode(data, sniff.detect(data))
    return raster.flatten_modes(image)


def source_size(data: bytes) -> tuple[int, int]:
    layout = layout_of(data)
    return layout.width, layout.height


def layout_of(data: bytes) -> Layout:
    """Of a file that we wrote ourselves."""
    return sniff.parse(data, sniff.detect(data))


def render(
    data: bytes, image: Image.Image, kind: ImageFormat, facts: dict[str, Any]
) -> RenderedOutput:
    """`image` must be what `data` decodes to."""
    small, small_format = raster.thumbnail(image)
    return RenderedOutput(
        data=data,
        format=kind,
        width=image.width,
        height=image.height,
        pixel_sha256=raster.pixel_sha256(image),
        thumbnail=small,
        thumbnail_format=small_format,
        facts=facts,
    )


def _parse(data: bytes) -> Layout:
    try:
        kind = sniff.detect(data)
        if kind not in _DELIVERABLE:
            raise _wrong_type()
        layout = sniff.parse(data, kind)
    except UnsupportedMediaError as error:
        is_unknown = error.reason == "unknown_type"
        fault = OutputFault.WRONG_TYPE if is_unknown else OutputFault.UNDECODABLE
        raise OutputRuleError(fault, "The result is not a picture that opens.") from error
    if layout.colour is Colour.CMYK or layout.frames > 1:
        raise _wrong_type()
    return layout


def _wrong_type() -> OutputRuleError:
    return OutputRuleError(
        OutputFault.WRONG_TYPE, "The result is not a still JPEG, PNG or WebP in RGB."
    )


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit gray: Pillow's own conversion clips at 255 instead of scaling.
        return image.convert("I").point(lambda value: value / 257).convert("L").convert("RGB")
    try:
        return raster.flatten_modes(image)
    except UnsupportedMediaError as error:
        raise OutputRuleError(
            OutputFault.WRONG_TYPE, "The result's pixels are of an odd kind."
        ) from error


def _refuse_blank(image: Image.Image) -> None:
    extrema = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    if all(high - low <= _BLANK_RANGE for low, high in bands):
        raise OutputRuleError(OutputFault.BLANK, "The result is a single colour.")
