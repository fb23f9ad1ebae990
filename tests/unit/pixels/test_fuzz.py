"""Whatever the bytes, only our two errors may leave."""

import contextlib
from functools import cache

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.pixels import headers, sniff
from core.pixels.errors import PayloadTooLargeError, UnsupportedMediaError
from core.pixels.normalise import normalise
from tests.unit.pixels import images

_REFUSALS = (UnsupportedMediaError, PayloadTooLargeError)
_STARTS = [
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR",
    b"RIFF\x40\x00\x00\x00WEBPVP8X",
    b"II*\x00\x08\x00\x00\x00",
    b"MM\x00*\x00\x00\x00\x08",
    b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic",
]


@cache
def _valid(kind: str) -> bytes:
    image = images.photo(96, 80)
    if kind == "tiff":
        return images.encode(image, kind, compression="tiff_lzw")
    return images.encode(image, kind, exif=images.exif_with_location())


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(_valid(draw(st.sampled_from(images.FORMATS))))
    # Structure stands at the start (and in TIFF at the end), so that is where most blows land.
    for _ in range(draw(st.integers(1, 8))):
        reach = draw(st.sampled_from([64, 700, len(data)]))
        at = draw(st.integers(0, max(0, min(reach, len(data)) - 1)))
        match draw(st.integers(0, 4)):
            case 0:
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                data[at : at + 4] = draw(
                    st.sampled_from([b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff"])
                )
            case 2:
                del data[at : at + draw(st.integers(1, 200))]
            case 3:
                data[at:at] = draw(st.binary(max_size=40))
            case _:
                data[-(at + 1) :] = draw(st.binary(max_size=8))
    return bytes(data)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_mutated())
def test_inspect_on_damaged_files(data: bytes) -> None:
    with contextlib.suppress(*_REFUSALS):
        sniff.inspect(data)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(_STARTS), st.binary(max_size=400))
def test_inspect_on_noise(start: bytes, noise: bytes) -> None:
    with contextlib.suppress(*_REFUSALS):
        sniff.inspect(start + noise)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_mutated())
def test_headers_of_damaged_files(data: bytes) -> None:
    with contextlib.suppress(*_REFUSALS):
        headers.read(data, sniff.detect(data))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(_STARTS), st.binary(max_size=400))
def test_headers_of_noise(start: bytes, noise: bytes) -> None:
    with contextlib.suppress(*_REFUSALS):
        headers.read(start + noise, sniff.detect(start + noise))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_mutated())
def test_normalise_on_damaged_files(data: bytes) -> None:
    with contextlib.suppress(*_REFUSALS):
        result = normalise(data)
        assert images.decode(result.data).size == (result.width, result.height)
