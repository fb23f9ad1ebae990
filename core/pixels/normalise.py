"""An upload as the rest of the product sees it: upright, sRGB, and without data about its owner.

Runs in a pixel process. A JPEG that needs neither turning nor conversion keeps its own
compressed pixels; everything else is encoded once, lossless where the source was lossless.
"""

from PIL import Image

from core.pixels import colour, emptiness, headers, raster, sniff
from core.pixels.formats import jpeg, png
from core.pixels.formats.base import Colour, ImageFormat, Layout, corrupt, truncated
from core.pixels.limits import BYTES_MAX
from core.pixels.types import NormalisedImage, Note
from core.words.remark import Remark


def normalise(data: bytes) -> NormalisedImage:
    """Every limit holds before the first pixel is decoded.

    Raises: as `sniff.inspect`, and what only decoding can find (truncated, corrupt).
    """
    sniff.check_size(len(data))
    layout = headers.read(data, sniff.detect(data))
    trailer = sniff.check_layout(data, layout)
    image = raster.decode(_picture(data, layout), layout.format)
    if image.size not in {(layout.width, layout.height), (layout.height, layout.width)}:
        raise corrupt("size")
    notes = _privacy_notes(layout, trailer)
    if isinstance(layout, jpeg.JpegLayout):
        stripped = _stripped_if_whole(data, layout, image)
        if stripped is not None and _is_upright_srgb(image, layout):
            return _result(stripped, image, layout.format, notes, ImageFormat.JPEG)
    # Handed over and not shared: of 64 MP each picture takes 260 MB, and here at most two exist.
    handed = [image]
    del image
    return _encode_anew(handed.pop(), layout, notes)


def _picture(data: bytes, layout: Layout) -> bytes:
    """What is decoded: without text and records, which decoders read to the end and may refuse."""
    emptiness.check(data, layout)
    if isinstance(layout, jpeg.JpegLayout):
        return jpeg.with_end(data, layout)
    if isinstance(layout, png.PngLayout):
        return png.strip(data, layout, with_colour=True)
    return data[: layout.end]


def _privacy_notes(layout: Layout, trailer: Note | None) -> list[Remark]:
    """Location first: it is what hurts when it leaks."""
    notes: list[Remark] = []
    if layout.has_gps:
        notes.append(Remark(Note.LOCATION_REMOVED))
    if layout.has_exif:
        notes.append(Remark(Note.CAMERA_DATA_REMOVED))
    if trailer:
        notes.append(Remark(trailer))
    return notes


def _is_upright_srgb(image: Image.Image, layout: Layout) -> bool:
    if layout.colour is not Colour.RGB or raster.orientation(image) != 1:
        return False
    return not colour.would_change(
        image.info.get("icc_profile"), cicp=layout.cicp, adobe_rgb=layout.adobe_rgb
    )


def _stripped_if_whole(data: bytes, layout: jpeg.JpegLayout, image: Image.Image) -> bytes | None:
    """Without metadata and proven to decode to the same pixels; None for rare kinds of JPEG.

    The same decoding shows whether the picture is complete. Raises: UnsupportedMediaError.
    """
    stripped = jpeg.strip(data, layout)
    again = jpeg.overfill(stripped or jpeg.with_end(data, layout))
    if raster.pixel_sha256(raster.decode(again, ImageFormat.JPEG)) != raster.pixel_sha256(image):
        raise truncated()
    return stripped


def _encode_anew(image: Image.Image, layout: Layout, notes: list[Remark]) -> NormalisedImage:
    turned = raster.orientation(image)
    icc = image.info.get("icc_profile")
    image = _to_rgb(image, icc, notes)
    image, note = raster.turn_upright(image, turned)
    notes += [Remark(note)] if note else _rotation_by_codec(layout)
    if layout.bit_depth > 8:
        notes.append(Remark(Note.BITS_REDUCED, {"bits": layout.bit_depth}))
    converted = colour.to_srgb(
        image,
        icc=None if colour.is_gray_profile(icc) else icc,
        cicp=layout.cicp,
        adobe_rgb=layout.adobe_rgb,
    )
    notes += [converted.note] if converted.note else []
    image, dropped = raster.drop_opaque_alpha(converted.image)
    del converted
    notes += [Remark(Note.ALPHA_REMOVED)] if dropped else []
    image.info = {}
    if image.mode == "RGBA" or layout.lossless:
        encoded = raster.encode_png(image)
        if image.mode == "RGBA" or len(encoded) <= BYTES_MAX:
            return _result(encoded, image, layout.format, notes, ImageFormat.PNG)
    encoded = raster.encode_jpeg(image)
    del image
    decoded = raster.decode(encoded, ImageFormat.JPEG)
    return _result(encoded, decoded, layout.format, notes, ImageFormat.JPEG)


def _to_rgb(image: Image.Image, icc: bytes | None, notes: list[Remark]) -> Image.Image:
    if image.mode == "L" and icc and colour.is_gray_profile(icc):
        notes.append(Remark(Note.GRAY_CONVERTED))
        return colour.gray_to_srgb(image, icc)
    if image.mode in {"L", "LA", "1"}:
        notes.append(Remark(Note.GRAY_CONVERTED))
    return raster.flatten_modes(image)


def _rotation_by_codec(layout: Layout) -> list[Remark]:
    """HEIC and TIFF are turned by their decoders, exactly once."""
    if layout.format not in {ImageFormat.HEIC, ImageFormat.TIFF}:
        return []
    note = raster.turn_note(layout.orientation)
    return [Remark(note)] if note else []


def _result(
    data: bytes,
    image: Image.Image,
    source: ImageFormat,
    notes: list[Remark],
    kind: ImageFormat,
) -> NormalisedImage:
    small, small_format = raster.thumbnail(image)
    return NormalisedImage(
        data=data,
        format=kind,
        width=image.width,
        height=image.height,
        has_alpha=image.mode == "RGBA",
        pixel_sha256=raster.pixel_sha256(image),
        thumbnail=small,
        thumbnail_format=small_format,
        source_format=source,
        notes=tuple(notes),
    )
