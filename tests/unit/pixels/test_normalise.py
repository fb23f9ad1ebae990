import hashlib
import io
import pickle
import struct

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from core.pixels.colour import Space, icc_of
from core.pixels.errors import UnsupportedMediaError
from core.pixels.formats import jpeg
from core.pixels.normalise import normalise
from core.pixels.types import Note
from core.words.remark import Remark
from tests.unit.pixels import images

UPRIGHT = images.pixels(images.quadrants())


TURNS = {
    *(Note.MIRRORED, Note.MIRRORED_AND_ROTATED, Note.FLIPPED),
    *(Note.ROTATED_90, Note.ROTATED_180, Note.ROTATED_270),
}


@pytest.mark.parametrize("kind", images.FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_exactly_once(kind: str, orientation: int) -> None:
    result = normalise(images.oriented(kind, orientation))
    assert (result.width, result.height) == (192, 128)
    seen = images.pixels(result.data)
    for y, x in ((32, 48), (32, 144), (96, 48), (96, 144)):
        assert np.abs(seen[y, x] - UPRIGHT[y, x]).max() <= 12
    assert normalise(result.data).pixel_sha256 == result.pixel_sha256
    assert bool({note.code for note in result.notes} & TURNS) == (orientation != 1)


def test_heic_with_exif_orientation_only_is_not_turned() -> None:
    """ISO/IEC 23008-12: only the item's own properties turn it, EXIF must be ignored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = images.encode(images.quadrants(), "heic", exif=exif.tobytes())
    at = data.index(b"irot") + 4
    result = normalise(data[:at] + b"\x00" + data[at + 1 :])
    assert (result.width, result.height) == (192, 128)


def test_plain_jpeg_keeps_its_compressed_pixels() -> None:
    for name in ("ring.jpg", "earrings.jpg"):
        data = images.sample(name)
        result = normalise(data)
        assert result.data == data
        assert result.notes == ()
        assert result.format.content_type == "image/jpeg"
        assert result.format.extension == "jpg"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:2:0"}])
def test_lossless_strip(options: dict[str, object]) -> None:
    private = images.encode(
        images.photo(),
        "jpeg",
        exif=images.exif_with_location("SECRET-EXIF"),
        comment=b"SECRET-COMMENT",
        xmp=b"<x:xmpmeta>SECRET-XMP</x:xmpmeta>",
        icc_profile=icc_of(Space.SRGB),
        **options,
    )
    private = images.insert_segment(private, 0xED, b"Photoshop 3.0\x008BIM SECRET-IPTC")
    film = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00isommp42 SECRET-FILM"
    result = normalise(private + images.encode(images.photo(), "jpeg") + film)
    assert (images.pixels(result.data) == images.pixels(private)).all()
    assert b"SECRET" not in result.data + result.thumbnail
    markers = {segment.marker for segment in jpeg.parse(result.data).segments}
    assert not markers & ({*range(0xE1, 0xF0), 0xFE})
    assert result.notes[0] == Remark(Note.LOCATION_REMOVED)
    assert Remark(Note.MOTION_PHOTO_REMOVED) in result.notes


def test_adobe_rgb_jpeg_without_transform_keeps_its_colours() -> None:
    """Stored as RGB, not YCbCr: without Adobe's marker a decoder would turn it to mud."""
    data = images.encode(images.photo(), "jpeg", keep_rgb=True)
    assert b"Adobe" in data
    result = normalise(data)
    assert (images.pixels(result.data) == images.pixels(data)).all()


@pytest.mark.parametrize("kind", images.FORMATS)
def test_nothing_private_is_left(kind: str) -> None:
    exif = images.exif_with_location("SECRET-EXIF")
    options = {"tiffinfo": {0x010F: "SECRET-EXIF"}} if kind == "tiff" else {"exif": exif}
    result = normalise(images.encode(images.photo(), kind, **options))
    for output in (result.data, result.thumbnail):
        assert b"SECRET" not in output
        assert not images.decode(output).getexif()
        assert set(images.decode(output).info) <= {
            "jfif",
            "jfif_version",
            "jfif_unit",
            "jfif_density",
        }
    if kind != "tiff":
        assert result.notes[:2] == (
            Remark(Note.LOCATION_REMOVED),
            Remark(Note.CAMERA_DATA_REMOVED),
        )


def test_location_in_tiff_is_removed() -> None:
    result = normalise(images.encode(images.photo(), "tiff", exif=images.exif_with_location()))
    assert result.notes[0] == Remark(Note.LOCATION_REMOVED)


def _p3_to_srgb(pixel: tuple[int, int, int]) -> list[float]:
    """Independent of ICC: IEC 61966-2-1's curve and the published P3 and sRGB matrices."""
    encoded = np.array(pixel) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    p3_to_xyz = np.array(
        [
            [0.48657095, 0.26566769, 0.19821729],
            [0.22897456, 0.69173852, 0.07928691],
            [0.0, 0.04511338, 1.04394437],
        ]
    )
    xyz_to_srgb = np.array(
        [
            [3.24096994, -1.53738318, -0.49861076],
            [-0.96924364, 1.8759675, 0.04155506],
            [0.05563008, -0.20397696, 1.05697151],
        ]
    )
    moved = np.clip(xyz_to_srgb @ p3_to_xyz @ linear, 0, 1)
    back = np.where(moved <= 0.0031308, moved * 12.92, 1.055 * moved ** (1 / 2.4) - 0.055)
    return [float(value) * 255 for value in back]


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "webp", "heic"])
@pytest.mark.parametrize("pixel", [(200, 150, 60), (120, 125, 130), (90, 60, 150)])
def test_display_p3_is_converted(kind: str, pixel: tuple[int, int, int]) -> None:
    profile = icc_of(Space.DISPLAY_P3)
    options = {"lossless": True} if kind == "webp" else {}
    flat = Image.new("RGB", (96, 96), pixel)
    result = normalise(images.encode(flat, kind, icc_profile=profile, **options))
    assert Remark(Note.PROFILE_CONVERTED, {"profile": "Display P3"}) in result.notes
    seen = images.pixels(result.data)[48, 48]
    tolerance = 4 if kind in {"jpeg", "heic"} else 1
    assert np.abs(seen - np.array(_p3_to_srgb(pixel))).max() <= tolerance


def test_p3_with_alpha_keeps_the_alpha() -> None:
    image = images.photo()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    data = images.encode(image, "png", icc_profile=icc_of(Space.DISPLAY_P3))
    result = normalise(data)
    assert result.has_alpha
    assert (images.pixels(result.data)[..., 3] == images.pixels(image)[..., 3]).all()
    assert (images.pixels(result.data)[..., :3] != images.pixels(image)[..., :3]).any()


def test_stated_colour_without_profile() -> None:
    png = images.encode(Image.new("RGB", (96, 96), (200, 150, 60)), "png")
    result = normalise(images.insert_chunk(png, b"cICP", bytes((12, 13, 0, 1))))
    assert np.abs(images.pixels(result.data)[9, 9] - _p3_to_srgb((200, 150, 60))).max() <= 1


def test_camera_jpeg_in_adobe_rgb_without_profile() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 0xFFFF
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    result = normalise(images.encode(images.photo(), "jpeg", exif=exif.tobytes()))
    assert Remark(Note.PROFILE_CONVERTED, {"profile": "Adobe RGB"}) in result.notes


@pytest.mark.parametrize("junk", [b"not a profile", b"\x00" * 200])
def test_broken_profile_is_ignored(junk: bytes) -> None:
    data = images.encode(images.photo(), "jpeg", icc_profile=junk)
    result = normalise(data)
    assert (images.pixels(result.data) == images.pixels(data)).all()


def test_gray_becomes_rgb() -> None:
    gray = images.photo().convert("L")
    result = normalise(images.encode(gray, "png"))
    assert images.decode(result.data).mode == "RGB"
    assert (images.pixels(result.data)[..., 1] == images.pixels(gray)).all()
    assert images.decode(normalise(images.encode(gray, "jpeg")).data).mode == "RGB"


def test_lossless_sources_stay_lossless() -> None:
    for kind, options in (("png", {}), ("tiff", {}), ("webp", {"lossless": True})):
        result = normalise(images.encode(images.photo(), kind, **options))
        assert result.format.content_type == "image/png"
        assert (images.pixels(result.data) == images.pixels(images.photo())).all()


def test_lossy_sources_become_jpeg_without_subsampling() -> None:
    for kind in ("webp", "heic"):
        result = normalise(images.encode(images.photo(), kind))
        assert result.format.content_type == "image/jpeg"
        layout = jpeg.parse(result.data)
        frame = next(s for s in layout.segments if s.marker == layout.sof)
        assert result.data[frame.start + 11] == 0x11
        assert result.source_format == kind


def test_alpha_that_hides_nothing_is_dropped() -> None:
    opaque = images.photo()
    opaque.putalpha(255)
    result = normalise(images.encode(opaque, "png"))
    assert not result.has_alpha
    assert Remark(Note.ALPHA_REMOVED) in result.notes
    palette = images.photo().quantize(8)
    result = normalise(images.encode(palette, "png", transparency=3))
    assert result.has_alpha
    assert result.format.content_type == "image/png"


def test_ten_bit_heic_is_reduced() -> None:
    deep = pillow_heif.from_bytes("RGB;16", (128, 96), struct.pack("<H", 0x8000) * 128 * 96 * 3)
    target = io.BytesIO()
    deep.save(target, quality=90)
    result = normalise(target.getvalue())
    assert any(note.code == Note.BITS_REDUCED for note in result.notes)
    assert abs(int(images.pixels(result.data)[50, 50, 0]) - 128) <= 2


def test_hash_is_of_the_stored_pixels() -> None:
    for data in (images.sample(), images.encode(images.photo(), "webp")):
        result = normalise(data)
        image = images.decode(result.data)
        raw = f"{image.mode}:{image.width}x{image.height}:".encode() + image.tobytes()
        assert result.pixel_sha256 == hashlib.sha256(raw).hexdigest()
    tagged = images.encode(images.photo(), "jpeg", exif=images.exif_with_location())
    plain = images.encode(images.photo(), "jpeg")
    assert normalise(tagged).pixel_sha256 == normalise(plain).pixel_sha256


def test_thumbnail() -> None:
    result = normalise(images.sample())
    small = images.decode(result.thumbnail)
    assert (small.size, small.format, result.thumbnail_format.content_type) == (
        (512, 512),
        "JPEG",
        "image/jpeg",
    )
    clear = images.photo(900, 300)
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    result = normalise(images.encode(clear, "png"))
    small = images.decode(result.thumbnail)
    assert (small.size, small.mode, small.format) == ((512, 171), "RGBA", "WEBP")
    assert images.decode(normalise(images.encode(images.photo(), "png")).thumbnail).size == (
        160,
        120,
    )


@pytest.mark.parametrize("kind", ["png", "webp", "tiff", "heic"])
def test_broken_pixels(kind: str) -> None:
    """The structure is whole, so that only decoding can tell."""
    options = {"compression": "tiff_lzw"} if kind == "tiff" else {}
    data = bytearray(images.encode(images.photo(300, 200), kind, **options))
    middle, size = len(data) // 2, len(data) // 4
    if kind == "heic":
        middle = data.index(b"mdat") + 8
        size = len(data) - middle
    data[middle : middle + size] = b"\x00" * size
    if kind == "webp":
        middle -= middle % 2
        data = data[:4] + struct.pack("<I", middle - 8) + data[8:middle]
        data[16:20] = struct.pack("<I", middle - 20)
    with pytest.raises(UnsupportedMediaError) as caught:
        normalise(bytes(data))
    assert caught.value.reason in {"truncated", "corrupt"}


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"turned"}])
@pytest.mark.parametrize("missing", [0.02, 0.5, 0.95])
def test_half_a_jpeg_with_a_proper_end(options: dict[str, object], missing: float) -> None:
    """Decoders paint the missing part gray without a word; we do not sell that."""
    if "exif" in options:
        data = images.oriented("jpeg", 6)
    else:
        data = images.encode(images.photo(300, 200), "jpeg", **options)
    normalise(data)
    scan = data.rindex(b"\xff\xda")
    keep = scan + 14 + int((len(data) - scan - 16) * (1 - missing))
    if data[keep - 1] == 0xFF:
        keep += 1
    with pytest.raises(UnsupportedMediaError) as caught:
        normalise(data[:keep] + b"\xff\xd9")
    assert caught.value.reason == "truncated"


def test_result_is_picklable() -> None:
    result = normalise(images.sample())
    assert pickle.loads(pickle.dumps(result)) == result
