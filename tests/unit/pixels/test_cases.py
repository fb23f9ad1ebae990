"""Files as people's phones, cameras and editors write them, rebuilt by hand: tests/data/cases."""

import io
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from core.pixels import sniff
from core.pixels.errors import UnsupportedMediaError
from core.pixels.normalise import normalise
from core.pixels.types import NormalisedImage, Note
from tests.unit.pixels import images

ROOT = Path(__file__).resolve().parents[3]
CASES = images.SAMPLES.parent / "cases"
GOOD = {
    "jpeg-named-heic.HEIC": ((320, 240), None),
    "jpeg-named-png.png": ((320, 240), None),
    "webp-named-jpg.jpg": ((320, 240), None),
    "photoshop-mac-print-record.jpg": ((320, 240), None),
    "trailer-json-camera-maker.jpg": ((320, 240), Note.TRAILER_REMOVED),
    "trailer-8-bytes-camera-counter.jpg": ((320, 240), Note.TRAILER_REMOVED),
    "trailer-depth-map-raw.jpg": ((320, 240), Note.SECOND_PICTURE_REMOVED),
    "trailer-xml-plain.jpg": ((320, 240), Note.TRAILER_REMOVED),
    "heic-odd-size-301x227.heic": ((301, 227), None),
    "png-itxt-compressed-1.5MB.png": ((320, 240), None),
    "jpeg-without-end-marker.jpg": ((320, 240), None),
    "jpeg-zip-end-bytes-in-camera-note.jpg": ((320, 240), None),
}


def _taken(data: bytes) -> NormalisedImage:
    sniff.inspect(data)
    return normalise(data)


def _reason(data: bytes) -> str:
    with pytest.raises(UnsupportedMediaError) as caught:
        _taken(data)
    return caught.value.reason


@pytest.mark.parametrize("name", GOOD)
def test_good_photos_are_taken(name: str) -> None:
    size, note = GOOD[name]
    image = _taken((CASES / name).read_bytes())
    assert (image.width, image.height) == size
    notes = [remark.code for remark in image.notes]
    assert note is None or note in notes
    assert len(image.data) < 400_000, "nothing of what was cut is kept"


# --- the end of a JPEG ---------------------------------------------------------------------------


@pytest.mark.parametrize("progressive", [False, True])
def test_the_rows_decide_and_not_the_end_marker(*, progressive: bool) -> None:
    whole = images.encode(images.photo(), "jpeg", progressive=progressive)
    assert _taken(whole[:-2]).pixel_sha256 == _taken(whole).pixel_sha256
    for share in (0.5, 0.9, 0.99):
        assert _reason(whole[: int(len(whole) * share)]) in {"truncated", "corrupt"}
        assert _reason(whole[: int(len(whole) * share)] + b"\xff\xd9") in {"truncated", "corrupt"}


def test_a_progressive_photo_without_its_last_scans_is_not_the_photo() -> None:
    whole = images.encode(images.photo(), "jpeg", progressive=True)
    cut = whole.rindex(b"\xff\xc4")  # the tables of the last scan
    assert _reason(whole[:cut]) == "truncated"


def test_a_cut_behind_any_byte_is_noticed() -> None:
    """Behind an FF, what tells missing rows began with a byte that made a marker of it."""
    whole = images.encode(images.photo(), "jpeg", quality=95)
    scan = whole.index(b"\xff\xda")
    cuts = [at + 1 for at in range(scan + 200, len(whole) - 200) if whole[at] == 0xFF][:12]
    assert len(cuts) == 12
    for cut in cuts:
        assert _reason(whole[:cut] + b"\xff\xd9") in {"truncated", "corrupt"}


# --- what never arrived --------------------------------------------------------------------------


def test_a_file_whose_rest_never_arrived_is_refused() -> None:
    assert _reason((CASES / "heic-second-half-zeros.heic").read_bytes()) == "truncated"


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "heic"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_zeros_to_the_end_are_refused_in_every_format(kind: str, share: float) -> None:
    whole = images.encode(images.photo(1024, 768), kind)
    kept = int(len(whole) * share)
    assert _reason(whole[:kept] + bytes(len(whole) - kept)) in {"truncated", "corrupt"}


def test_half_a_tiff_is_refused_and_a_black_edge_is_not() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (400, 600, 3), dtype=np.uint8)
    pixels[-20:] = 0
    whole = images.encode(Image.fromarray(pixels), "tiff")
    assert _taken(whole).height == 400
    half = len(whole) // 2
    assert _reason(whole[:half] + bytes(len(whole) - half)) in {"truncated", "corrupt"}


def test_plain_pictures_have_no_gap() -> None:
    for kind in images.FORMATS:
        plain = Image.new("RGB", (900, 700), (255, 255, 255))
        plain.paste((20, 20, 20), (300, 200, 500, 400))
        assert _taken(images.encode(plain, kind)).width == 900, kind


# --- sizes and descriptions ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8192, 6144), (9248, 6936)])
def test_what_phones_call_fifty_and_sixty_four_megapixels_is_taken(size: tuple[int, int]) -> None:
    grain = Image.effect_noise((size[0] // 16, size[1] // 16), 60).resize(size)
    sniff.inspect(images.encode(grain, "jpeg", quality=40))


def test_long_texts_and_profiles_of_a_png_are_no_damage() -> None:
    png = images.encode(images.photo(), "png")
    text = b"iTXt", b"History\x00\x01\x00\x00\x00" + zlib.compress(b"edit " * 500_000)
    assert _taken(images.insert_chunk(png, *text)).width == images.photo().width
    at = png.index(b"IDAT") - 4
    broken = images.png_chunk(b"tEXt", b"Comment\x00hello")[:-4] + b"\x00\x00\x00\x00"
    assert _taken(png[:at] + broken + png[at:]).width == images.photo().width
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    out = io.BytesIO()
    images.photo().save(out, "PNG", icc_profile=profile + bytes(1_500_000))
    assert _taken(out.getvalue()).width == images.photo().width


_NORMALISE = """
import sys
from core.pixels.normalise import normalise
def peak():
    lines = open('/proc/self/status').read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) * 1024
before = peak()
image = normalise(open(sys.argv[1], 'rb').read())
print(peak() - before, image.width, image.height)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of one process")
def test_a_turned_photo_takes_no_more_memory_than_two_pictures(tmp_path: Path) -> None:
    """The one that was decoded stayed beside the turned one and the one that was encoded."""
    size = (4_800, 3_600)
    turned = Image.Exif()
    turned[0x0112] = 6
    grain = Image.effect_noise((600, 450), 40).convert("RGB").resize(size)
    path = tmp_path / "turned.jpg"
    path.write_bytes(images.encode(grain, "jpeg", quality=60, exif=turned))
    ran = subprocess.run(
        [sys.executable, "-c", _NORMALISE, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    peak, width, height = map(int, ran.stdout.split())
    assert (width, height) == (3_600, 4_800)
    assert peak < 2.6 * size[0] * size[1] * 4
