import pickle
import struct

import pytest
from PIL import Image

from core.pixels import sniff
from core.pixels.errors import PayloadTooLargeError, PhotoReason, UnsupportedMediaError
from core.pixels.limits import BYTES_MAX
from core.pixels.types import Note
from core.words.say import say
from tests.unit.pixels import images


def reason_of(data: bytes) -> str:
    with pytest.raises((UnsupportedMediaError, PayloadTooLargeError)) as caught:
        sniff.inspect(data)
    error = caught.value
    assert isinstance(error, UnsupportedMediaError | PayloadTooLargeError)
    assert say(f"reason.{error.reason}", **error.fields).endswith(".")
    return error.reason


@pytest.mark.parametrize("kind", images.FORMATS)
def test_each_format_is_told_by_its_bytes(kind: str) -> None:
    data = images.encode(images.photo(), kind)
    seen = sniff.inspect(data)
    assert seen == kind
    assert seen.content_type == f"image/{kind}"


def test_empty_and_tiny() -> None:
    assert reason_of(b"") == "empty_file"
    assert reason_of(images.encode(Image.new("RGB", (1, 1)), "png")) == "too_small"
    assert reason_of(images.encode(Image.new("RGB", (63, 500)), "jpeg")) == "too_small"
    sniff.inspect(images.encode(images.photo(64, 64), "jpeg"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"GIF89a" + b"\x00" * 50, "GIF"),
        (b"%PDF-1.7\n", "PDF"),
        (b"BM" + b"\x00" * 60, "bitmap"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\n<!doctype html><p>", "web page"),
        (b"PK\x03\x04" + b"\x00" * 50, "zip"),
        (b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00avifmif1miaf", "AVIF"),
        (b"\x00\x00\x00\x18ftypisom\x00\x00\x00\x00isommp42", "film"),
        (b"just some text", "not a kind of picture"),
        (b"\xff", "not a kind of picture"),
    ],
)
def test_other_types_are_named(data: bytes, said: str) -> None:
    with pytest.raises(UnsupportedMediaError) as caught:
        sniff.inspect(data)
    assert caught.value.reason == "unknown_type"
    assert said in say("reason.unknown_type", **caught.value.fields)


def test_too_many_bytes() -> None:
    jpeg = images.encode(images.photo(), "jpeg")
    padded = jpeg + b"\x00" * (BYTES_MAX - len(jpeg))
    sniff.inspect(padded)
    with pytest.raises(PayloadTooLargeError) as caught:
        sniff.inspect(padded + b"\x00")
    assert caught.value.reason == "too_many_bytes"
    assert caught.value.limit_bytes == BYTES_MAX


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_one_piece_on_white_is_no_bomb(kind: str) -> None:
    """The commonest studio photo of the trade, and the emptiest."""
    image = Image.new("RGB", (4_000, 3_000), (255, 255, 255))
    image.paste(images.decode(images.sample()).resize((700, 700)), (1_600, 1_000))
    sniff.inspect(images.encode(image, kind))


def test_too_many_pixels_and_bombs() -> None:
    assert reason_of(images.png_header(100_000, 100_000)) == "too_many_pixels"
    assert reason_of(images.png_header(8_063, 8_063)) == "too_many_pixels"
    assert reason_of(images.png_header(200, 40_000)) == "too_many_pixels"
    assert reason_of(images.encode(Image.new("L", (7_000, 7_000)), "png")) == "decompression_bomb"
    solid = Image.new("RGB", (4_000, 3_000))
    assert reason_of(images.encode(solid, "webp", lossless=True)) == "decompression_bomb"
    jpeg = images.encode(images.photo(), "jpeg")
    at = jpeg.index(b"\xff\xc0") + 5
    swollen = jpeg[:at] + struct.pack(">HH", 7_000, 7_000) + jpeg[at + 4 :]
    assert reason_of(swollen) == "decompression_bomb"


@pytest.mark.parametrize("kind", ["png", "webp"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.98])
def test_cut_off_files(kind: str, share: float) -> None:
    """Of a JPEG decoding tells, because its end marker decides nothing."""
    data = images.encode(images.photo(), kind)
    assert reason_of(data[: int(len(data) * share)]) in {"truncated", "corrupt"}


def test_animations_and_pages() -> None:
    frames = [images.photo(seed=seed) for seed in range(3)]
    for kind in ("png", "webp"):
        data = images.encode(frames[0], kind, save_all=True, append_images=frames[1:])
        assert reason_of(data) == "animated"
    gif = images.encode(frames[0], "gif", save_all=True, append_images=frames[1:])
    assert reason_of(gif) == "unknown_type"


def test_deep_colour() -> None:
    assert reason_of(images.png_sixteen_bit()) == "sixteen_bit"
    deep = Image.new("I;16", (80, 80))
    assert reason_of(images.encode(deep, "png")) == "sixteen_bit"
    jpeg = images.encode(images.photo(), "jpeg")
    at = jpeg.index(b"\xff\xc0") + 4
    assert reason_of(jpeg[:at] + b"\x0c" + jpeg[at + 1 :]) == "sixteen_bit"


def test_print_colours() -> None:
    cmyk = images.photo().convert("CMYK")
    assert reason_of(images.encode(cmyk, "jpeg")) == "cmyk"


def test_hdr_is_refused() -> None:
    png = images.encode(images.photo(), "png")
    assert reason_of(images.insert_chunk(png, b"cICP", bytes((9, 16, 0, 1)))) == "hdr"
    sniff.inspect(images.insert_chunk(png, b"cICP", bytes((12, 13, 0, 1))))


def test_endless_scans_are_refused() -> None:
    jpeg = images.encode(images.photo(), "jpeg", progressive=True)
    scan = jpeg.rindex(b"\xff\xda")
    assert reason_of(jpeg[:scan] + jpeg[scan:-2] * 120 + b"\xff\xd9") == "too_complex"


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("tail", images.FOREIGN_TAILS)
def test_appended_files(kind: str, tail: bytes) -> None:
    data = images.encode(images.photo(), kind)
    assert reason_of(data + tail) == "polyglot"


def test_files_that_are_two_things_inside() -> None:
    jpeg = images.encode(images.photo(), "jpeg")
    assert reason_of(images.insert_segment(jpeg, 0xFE, b"%PDF-1.4")) == "polyglot"
    script = b"/=1;alert(1);/*".ljust(0x2F2A - 4, b"*") + b"*/"
    assert reason_of(images.insert_segment(jpeg, 0xFE, script)) == "polyglot"


def test_what_a_description_says_is_dropped_and_no_reason_to_refuse() -> None:
    """Photoshop on a Mac describes its printer in XML, and content credentials may quote a page."""
    jpeg = images.encode(images.photo(), "jpeg")
    sniff.inspect(images.insert_segment(jpeg, 0xED, b"<!DOCTYPE plist PUBLIC>"))
    sniff.inspect(images.insert_segment(jpeg, 0xEB, b"JP c2pa <html> <script src=x>"))
    png = images.encode(images.photo(), "png")
    sniff.inspect(images.insert_chunk(png, b"tEXt", b"Comment\x00<script>alert(1)</script>"))


@pytest.mark.parametrize(
    "tail",
    [
        b'{"maker": "x", "scene": 4}',
        b"\x01\x02\x03\x04\x05\x06\x07\x08",
        b"<focus><distance>0.4</distance></focus>",
        b"x<html>in the middle",
        bytes(range(256)) * 90,
    ],
)
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_records_behind_the_picture_are_cut(kind: str, tail: bytes) -> None:
    """One camera's photo in eight was refused for them."""
    assert trailer_of(images.encode(images.photo(), kind) + tail) == Note.TRAILER_REMOVED


def test_four_bytes_make_no_archive() -> None:
    jpeg = images.encode(images.photo(), "jpeg")
    sniff.inspect(images.insert_segment(jpeg, 0xE1, b"Maker" + b"PK\x05\x06" + bytes(30)))
    sniff.inspect(jpeg + b"\x01PK\x05\x06" + bytes(16) + b"\x00\x00")
    hidden = jpeg + b"\x01\x02\x03" + images.FOREIGN_TAILS[0]
    assert reason_of(hidden) == "polyglot", "a real one is found from the end"


def trailer_of(data: bytes) -> str | None:
    return sniff.check_layout(data, sniff.parse(data, sniff.detect(data)))


def test_phone_trailers_pass() -> None:
    jpeg = images.encode(images.photo(), "jpeg")
    film = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00isommp42" + b"\x00" * 500
    samsung = b"\x00\x00\x01\x0a\x0e\x00\x00\x00Image_UTC_Data1700000000000SEFH" + b"\x01SEFT"
    assert trailer_of(jpeg + jpeg) == Note.SECOND_PICTURE_REMOVED
    assert trailer_of(jpeg + b"\x00" * 32 + jpeg + film) == Note.MOTION_PHOTO_REMOVED
    assert trailer_of(jpeg + film) == Note.MOTION_PHOTO_REMOVED
    assert trailer_of(jpeg + samsung) == Note.MAKER_DATA_REMOVED
    assert trailer_of(jpeg + b"\x00" * 100) is None
    assert reason_of(jpeg + jpeg + b"<html>") == "polyglot"


def test_bare_xmp_is_no_script() -> None:
    jpeg = images.encode(images.photo(), "jpeg", xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
    assert sniff.inspect(jpeg) == "jpeg"


def test_refusals_cross_processes() -> None:
    error = UnsupportedMediaError(reason=PhotoReason.CMYK)
    assert pickle.loads(pickle.dumps(error)) == error
