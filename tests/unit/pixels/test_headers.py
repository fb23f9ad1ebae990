"""What each kind of file says of itself, and that HEIC and TIFF are judged before they are decoded.

The API lets HEIC and TIFF pass by their first bytes, so all of this holds in `normalise`.
"""

import io
import struct
import time

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from core.pixels import headers, sniff
from core.pixels.errors import Found, PayloadTooLargeError, UnsupportedMediaError
from core.pixels.formats.base import Layout
from core.pixels.normalise import normalise
from core.words.say import say
from tests.unit.pixels import images


def layout_of(data: bytes) -> Layout:
    return headers.read(data, sniff.detect(data))


def reason_of(data: bytes) -> str:
    sniff.inspect(data)
    with pytest.raises((UnsupportedMediaError, PayloadTooLargeError)) as caught:
        normalise(data)
    error = caught.value
    assert isinstance(error, UnsupportedMediaError | PayloadTooLargeError)
    assert say(f"reason.{error.reason}", **error.fields).endswith(".")
    return error.reason


@pytest.mark.parametrize("kind", images.FORMATS)
def test_header_of_each_format(kind: str) -> None:
    layout = layout_of(images.encode(images.photo(160, 120), kind))
    assert (layout.format, layout.width, layout.height) == (kind, 160, 120)
    assert (layout.bit_depth, layout.colour, layout.has_alpha) == (8, "rgb", False)
    assert (layout.frames, layout.orientation) == (1, 1)
    assert (layout.has_exif, layout.has_gps) == (False, False)


@pytest.mark.parametrize("kind", ["png", "webp", "tiff", "heic"])
def test_alpha_is_seen(kind: str) -> None:
    image = images.photo()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    assert layout_of(images.encode(image, kind)).has_alpha


def test_palette_and_gray() -> None:
    palette = images.photo().quantize(16)
    assert layout_of(images.encode(palette, "png")).colour == "palette"
    assert layout_of(images.encode(palette, "tiff")).colour == "palette"
    gray = images.photo().convert("L")
    for kind in ("jpeg", "tiff", "heic"):
        assert layout_of(images.encode(gray, kind)).colour == "gray"


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "heic", "tiff"])
def test_location_and_orientation_are_seen(kind: str) -> None:
    located = layout_of(images.encode(images.photo(), kind, exif=images.exif_with_location()))
    assert located.has_gps
    assert located.has_exif or kind == "tiff"  # there it stands in the file's own directory
    for orientation in range(1, 9):
        assert layout_of(images.oriented(kind, orientation)).orientation == orientation


def test_ten_bit_heic_passes() -> None:
    deep = pillow_heif.from_bytes("RGB;16", (128, 96), b"\x10\x80" * 128 * 96 * 3)
    target = io.BytesIO()
    deep.save(target, quality=80)
    assert layout_of(target.getvalue()).bit_depth in {10, 12}


def test_cropped_heic_has_its_own_size() -> None:
    """Coded in whole blocks, with a clean aperture that says what of it is the picture."""
    result = normalise(images.encode(images.photo(301, 227), "heic"))
    assert (result.width, result.height) == (301, 227)
    assert images.decode(result.data).size == (301, 227)


def test_only_the_primary_picture_of_a_heic_is_decoded() -> None:
    """Others in the file, a burst or a stranger's fifty, cost nothing."""
    several = pillow_heif.from_pillow(images.photo(160, 120, seed=0))
    for seed in (1, 2):
        several.add_from_pillow(images.photo(160, 120, seed=seed))
    target = io.BytesIO()
    several.save(target, primary_index=1, quality=90)
    expected = images.pixels(images.photo(160, 120, seed=1))
    seen = images.pixels(normalise(target.getvalue()).data)
    assert np.abs(seen - expected).mean() < 4
    damaged = bytearray(target.getvalue())
    damaged[-500:] = b"\x00" * 500  # in the last of the three
    normalise(bytes(damaged))


def _swollen(kind: str, width: int, height: int) -> bytes:
    """A small picture whose header claims another size."""
    data = images.encode(images.photo(), kind)
    if kind == "heic":
        at = data.index(b"ispe") + 8
        return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]
    changed = bytearray(data)
    for tag, size in ((256, width), (257, height)):
        at = data.index(struct.pack("<H", tag), struct.unpack_from("<I", data, 4)[0])
        changed[at + 2 : at + 12] = struct.pack("<HII", 4, 1, size)
    return bytes(changed)


@pytest.mark.parametrize("kind", ["heic", "tiff"])
def test_size_is_judged_before_a_pixel_is_decoded(kind: str) -> None:
    """Decoding would find `corrupt` or `truncated`, or make room for them first."""
    assert reason_of(_swollen(kind, 8_100, 8_100)) == "too_many_pixels"
    assert reason_of(_swollen(kind, 64, 31_000)) == "too_many_pixels"
    assert reason_of(_swollen(kind, 7_000, 7_000)) == "decompression_bomb"
    assert reason_of(_swollen(kind, 63, 500)) == "too_small"


def test_tiff_bomb() -> None:
    solid = Image.new("L", (7_000, 7_000))
    assert (
        reason_of(images.encode(solid, "tiff", compression="tiff_adobe_deflate"))
        == "decompression_bomb"
    )


@pytest.mark.parametrize("kind", ["heic", "tiff"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.98])
def test_cut_off_files(kind: str, share: float) -> None:
    data = images.encode(images.photo(), kind)
    assert reason_of(data[: int(len(data) * share)]) in {"truncated", "corrupt"}


def test_pages_are_refused_and_previews_are_not() -> None:
    frames = [images.photo(seed=seed) for seed in range(3)]
    data = images.encode(frames[0], "tiff", save_all=True, append_images=frames[1:])
    assert reason_of(data) == "animated"
    assert reason_of(_pages(9)) == "corrupt"
    assert layout_of(_pages(2)).frames == 1


def _pages(count: int, extra: bytes = b"") -> bytes:
    """A TIFF of one pixel and `count` directories, all but the first marked as previews."""
    body = b"II*\x00" + struct.pack("<I", 8)
    for page in range(count):
        fields = [(254, 4, 1, 1)] if page else []
        fields += [(256, 4, 1, 1), (257, 4, 1, 1), (273, 4, 1, 8), (279, 4, 1, 1)]
        end = len(body) + 2 + 12 * len(fields) + 4
        body += struct.pack("<H", len(fields))
        body += b"".join(struct.pack("<HHII", *field) for field in fields)
        body += struct.pack("<I", end if page + 1 < count else 0)
    return body + extra


def test_directory_without_its_end_passes() -> None:
    """Some writers leave out the closing null when the directory is the last thing in the file."""
    data = images.encode(images.photo(), "tiff")
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    fields = bytearray(data[at + 2 : at + 2 + 12 * count])
    moved = data + data[at : at + 2] + fields
    changed = moved[:4] + struct.pack("<I", len(data)) + moved[8:]
    result = normalise(changed)
    assert (images.pixels(result.data) == images.pixels(images.photo())).all()


def test_hostile_directories_cost_little() -> None:
    """Each of eight directories claims the whole file as the values of one field."""
    size = 5_000_000
    data = bytearray(_pages(8, b"\x01" * size))
    at = 0
    while (at := data.find(struct.pack("<HHII", 254, 4, 1, 1), at)) >= 0:
        data[at : at + 12] = struct.pack("<HHII", 254, 4, size // 5, 1_000)
    began = time.process_time()
    assert reason_of(bytes(data)) == "too_small"
    assert time.process_time() - began < 5


def test_deep_colour() -> None:
    assert reason_of(images.encode(Image.new("I;16", (80, 80)), "tiff")) == "sixteen_bit"
    assert reason_of(images.encode(Image.new("F", (80, 80)), "tiff")) == "floating_point"


def test_print_colours() -> None:
    assert reason_of(images.encode(images.photo().convert("CMYK"), "tiff")) == "cmyk"
    assert reason_of(images.encode(images.photo().convert("LAB"), "tiff")) == "lab"


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_heic_is_refused(transfer: int) -> None:
    data = images.encode(images.photo(), "heic")
    at = data.index(b"nclx") + 6
    assert reason_of(data[:at] + struct.pack(">H", transfer) + data[at + 2 :]) == "hdr"


def test_camera_raw_is_named() -> None:
    raw = images.encode(images.photo(), "tiff", tiffinfo={50706: b"\x01\x04\x00\x00"})
    with pytest.raises(UnsupportedMediaError) as caught:
        normalise(raw)
    assert caught.value.found is Found.CAMERA_RAW


@pytest.mark.parametrize("tail", images.FOREIGN_TAILS)
def test_files_appended_to_heic(tail: bytes) -> None:
    assert reason_of(images.encode(images.photo(), "heic") + tail) == "polyglot"


@pytest.mark.parametrize("tail", images.FOREIGN_TAILS[:4])
def test_files_appended_to_tiff(tail: bytes) -> None:
    """A TIFF has no end of its own: unknown data behind it passes and is never kept."""
    data = images.encode(images.photo(), "tiff")
    assert reason_of(data + tail) == "polyglot"
    assert b"private" not in normalise(data + b"\x01\x02private").data


def test_motion_photo_in_heic_is_cut_off() -> None:
    film = b"\x00\x00\x00\x18mpvd" + b"\x00" * 16
    data = images.encode(images.photo(), "heic")
    assert normalise(data + film).width == 160
