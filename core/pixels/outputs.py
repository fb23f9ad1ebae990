"""What is done with a provider's result before it may be delivered: the catalogue's output rules.

Pure and picklable: runs in a pixel process. A rule whose picture does not pass raises
`OutputRuleError`; the generation then fails and its credits go back.
"""

from typing import Annotated, Any, TypeVar

import msgspec
from PIL import Image

from core.pixels import label, locked, raster, rendered
from core.pixels.faults import OutputFault
from core.pixels.formats.base import ImageFormat
from core.pixels.limits import OUTPUT_BYTES_MAX, OUTPUT_PIXELS_MAX
from core.pixels.rendered import Opened
from core.pixels.types import RULES, DecodedInfo, OutputRuleError, RenderedOutput

T = TypeVar("T")

_ENLARGED_ASPECT_TOLERANCE = 0.03
# Upscalers round to their own block sizes and cap large outputs; below this share of the ordered
# size it is not what was ordered.
_ENLARGED_SHARE_MIN = 0.75


class DeliveredParams(msgspec.Struct, frozen=True):
    upscale_factor: Annotated[float, msgspec.Meta(ge=1, le=8)] | None = None
    """Set by operations that enlarge: the result must then be the same picture, larger."""


def verify_output(
    data: bytes, *, max_bytes: int = OUTPUT_BYTES_MAX, max_pixels: int = OUTPUT_PIXELS_MAX
) -> DecodedInfo:
    """Raises: OutputRuleError (empty_output, too_many_bytes, wrong_type, undecodable,
    absurd_size, blank)."""
    return rendered.open_output(data, max_bytes=max_bytes, max_pixels=max_pixels).info


def apply_rule(
    rule: str,
    *,
    source: bytes | tuple[int, int],
    result: bytes,
    params: dict[str, Any],
    max_bytes: int = OUTPUT_BYTES_MAX,
    max_pixels: int = OUTPUT_PIXELS_MAX,
) -> RenderedOutput:
    """Turn the provider's `result` for the normalised `source` into what is delivered.

    A size may stand for the source, except with RULES_OF_OWN_PIXELS.
    Parameters that a rule does not know are ignored: an operation's parameters also hold the
    provider's. Raises: OutputRuleError, also as `verify_output`.
    """
    assert rule in RULES, rule
    if rule == "as_delivered":
        wanted = _params(params, DeliveredParams)
        opened = rendered.open_output(result, max_bytes=max_bytes, max_pixels=max_pixels)
        return _as_delivered(opened, source=source, result=result, params=wanted)
    shot = _params(params, locked.PackshotParams) if rule == "packshot" else None
    assert isinstance(source, bytes), rule
    cutout = locked.cut_out(source, result, max_bytes=max_bytes, max_pixels=max_pixels)
    return locked.packshot(cutout, shot) if shot else locked.own_pixels_cutout(cutout)


def _params(params: dict[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(params, kind)
    except msgspec.ValidationError as error:
        raise OutputRuleError(OutputFault.BAD_PARAMETERS, str(error)) from error


def _as_delivered(
    opened: Opened, *, source: bytes | tuple[int, int], result: bytes, params: DeliveredParams
) -> RenderedOutput:
    """The model's own picture, in sRGB, with one label and no other metadata."""
    own = rendered.source_size(source) if isinstance(source, bytes) else source
    scale = (opened.info.width / own[0], opened.info.height / own[1])
    if params.upscale_factor is not None:
        check_enlarged(scale, params.upscale_factor)
    turned = raster.orientation(opened.image)
    odd_mode = opened.image.mode not in {"RGB", "RGBA", "P", "L", "LA"}
    was_deep = opened.layout.bit_depth > 8
    upright, _ = raster.turn_upright(opened.image, turned)
    image, recoloured = rendered.to_srgb(msgspec.structs.replace(opened, image=upright))
    image.info = {}
    xmp = label.packet()
    data = None
    if not (recoloured or odd_mode or was_deep) and turned == 1:
        data = label.strip_and_label(result, opened.layout, xmp)
    kept = data is not None
    if data is None:
        data, image = _encode(image, opened.info.format, opened.layout.lossless, xmp)
    facts = {
        "own_pixels": False,
        "digital_source_type": label.EDITED_WITH_AI,
        "reencoded": not kept,
        "converted_to_srgb": recoloured,
        "source_width": own[0],
        "source_height": own[1],
        "scale": [round(scale[0], 4), round(scale[1], 4)],
    }
    return rendered.render(data, image, opened.info.format, facts)


def check_enlarged(scale: tuple[float, float], factor: float) -> None:
    if abs(scale[0] / scale[1] - 1) > _ENLARGED_ASPECT_TOLERANCE:
        raise OutputRuleError(OutputFault.ASPECT_CHANGED, "The enlarged picture has another shape.")
    if min(scale) < max(1.0, factor * _ENLARGED_SHARE_MIN):
        raise OutputRuleError(
            OutputFault.NOT_ENLARGED, "The picture came back smaller than ordered."
        )


def _encode(
    image: Image.Image, kind: ImageFormat, lossless: bool, xmp: bytes
) -> tuple[bytes, Image.Image]:
    """In its own format, labelled, and what that decodes to."""
    if kind is ImageFormat.JPEG:
        data = raster.encode_jpeg(image)
    elif kind is ImageFormat.PNG:
        data = raster.encode_png(image)
    else:
        data = raster.encode_webp(image, lossless=lossless)
    labelled = label.strip_and_label(data, rendered.layout_of(data), xmp)
    assert labelled is not None, "our own encoders write plain files"
    return labelled, raster.flatten_modes(raster.decode(labelled, kind))
