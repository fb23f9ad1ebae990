"""A baseline JPEG whose background is exactly 255, 255, 255 up to the outline of the piece.

Ordinary encoders leave a veil there: in each 8 x 8 block that holds an edge, quantisation rings
into the white (measured at quality 95, 4:4:4: down to 240 in 15,000 pixels of one ring photo),
and marketplaces refuse what is not pure white. The remedy needs values above 255, which no
encoder's input can express, so this one works on the DCT itself: in blocks with an edge the
background is lifted until whatever rings back is still above white, and decoders clip it.

It is stored as RGB (Adobe transform 0), not YCbCr: there decoders clip the luma first, and the
chroma's own ringing would tint the white. Header and tables are libjpeg's, by way of Pillow.
Source: ITU-T T.81, annexes A, C and F.
"""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.pixels import raster
from core.pixels.colour import Space, icc_of
from core.pixels.formats import jpeg
from core.pixels.formats.base import ImageFormat

Array = NDArray[Any]

_LIFTS = (8.0, 16.0, 32.0, 64.0, 96.0)
# One above white: decoders' integer transforms are within 1 of the exact one (annex A.3.3).
_SAFE_WHITE = 256.0
_BLOCKS_AT_ONCE = 4_096
_DHT, _DQT, _SOS = 0xC4, 0xDB, 0xDA


def encode(image: Image.Image, background: Array, *, quality: int = raster.JPEG_QUALITY) -> bytes:
    """`image` is RGB and 255 where `background` (height x width, bool) is true."""
    header, tables = _header(image.size, quality)
    writer = _BitWriter(tables)
    for blocks, white in _block_rows(image, background):
        writer.add(_quantise(blocks, white, tables.quantiser))
    return header + writer.finish() + jpeg.EOI


def encode_exact(image: Image.Image, background: Array) -> tuple[bytes, Image.Image, bool]:
    """The file, what it decodes to, and whether all of the background is pure white in it."""
    data = encode(image, background)
    decoded = raster.decode(data, ImageFormat.JPEG)
    exact = bool((np.asarray(decoded)[background] == 255).all())
    return data, decoded, exact


class _Tables:
    """The quantiser (zigzag order) and the Huffman codes, as arrays indexed by symbol."""

    def __init__(self, data: bytes, layout: jpeg.JpegLayout) -> None:
        self.quantiser: Array = np.ones(64, np.float32)
        self.codes: dict[int, tuple[Array, Array]] = {}
        for segment in layout.segments:
            body = data[segment.start + 4 : segment.end]
            if segment.marker == _DQT and body[0] == 0:
                self.quantiser = np.frombuffer(body[1:65], np.uint8).astype(np.float32)
            while segment.marker == _DHT and body:
                size = 17 + sum(body[1:17])
                self.codes[body[0]] = _codes(body[1:17], body[17:size])
                body = body[size:]

    @property
    def dc(self) -> tuple[Array, Array]:
        return self.codes[0x00]

    @property
    def ac(self) -> tuple[Array, Array]:
        return self.codes[0x10]


def _header(size: tuple[int, int], quality: int) -> tuple[bytes, _Tables]:
    """All up to the entropy-coded data, from a picture that libjpeg wrote."""
    target = io.BytesIO()
    Image.new("RGB", size).save(
        target,
        "JPEG",
        quality=quality,
        subsampling="4:4:4",
        keep_rgb=True,
        icc_profile=icc_of(Space.SRGB),
    )
    data = target.getvalue()
    layout = jpeg.parse(data)
    scan = next(segment for segment in layout.segments if segment.marker == _SOS)
    length = int.from_bytes(data[scan.start + 2 : scan.start + 4], "big")
    return data[: scan.start + 2 + length], _Tables(data, layout)


def _codes(counts: bytes, symbols: bytes) -> tuple[Array, Array]:
    """Canonical Huffman codes (annex C): code and length per symbol."""
    codes, lengths = np.zeros(256, np.int64), np.zeros(256, np.int64)
    code, at = 0, 0
    for length, count in enumerate(counts, start=1):
        for symbol in symbols[at : at + count]:
            codes[symbol], lengths[symbol] = code, length
            code += 1
        at += count
        code <<= 1
    return codes, lengths


def _block_rows(image: Image.Image, background: Array) -> Iterator[tuple[Array, Array]]:
    """Blocks in scan order, (n, 3, 8, 8) and (n, 8, 8), some rows of blocks at a time."""
    width, height = image.size
    across = -(-width // 8)
    rows = max(1, _BLOCKS_AT_ONCE // across) * 8
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        pixels = np.asarray(image.crop((0, top, width, bottom)))
        white = background[top:bottom]
        pad = ((0, -(bottom - top) % 8), (0, across * 8 - width))
        pixels = np.pad(pixels, (*pad, (0, 0)), mode="edge")
        white = np.pad(white, pad, mode="edge")
        down = pixels.shape[0] // 8
        blocks = pixels.reshape(down, 8, across, 8, 3).transpose(0, 2, 4, 1, 3)
        masks = white.reshape(down, 8, across, 8).transpose(0, 2, 1, 3)
        yield blocks.reshape(-1, 3, 8, 8), masks.reshape(-1, 8, 8)


def _quantise(blocks: Array, white: Array, quantiser: Array) -> Array:
    """Coefficients in zigzag order, (n * 3, 64), with the background lifted where it must be."""
    flat = np.empty(64, np.float32)
    flat[_ZIGZAG] = quantiser
    step = flat.reshape(8, 8)
    samples = blocks.astype(np.float32)
    found = _transform(samples, step)
    mixed = white.any(axis=(1, 2)) & ~white.all(axis=(1, 2))
    open_blocks = np.flatnonzero(mixed)
    for lift in _LIFTS:
        if not open_blocks.size:
            break
        mask = white[open_blocks][:, None]
        raised = np.where(mask, np.float32(255 + lift), samples[open_blocks])
        found[open_blocks] = _transform(raised, step)
        seen = _inverse(found[open_blocks], step)
        darkest = np.where(mask, seen, np.float32(999)).min(axis=(1, 2, 3))
        open_blocks = open_blocks[darkest < _SAFE_WHITE]
    ordered: Array = found.reshape(-1, 64)[:, _ZIGZAG]
    return ordered


def _transform(samples: Array, step: Array) -> Array:
    raw = _DCT @ (samples - np.float32(128)) @ _DCT.T
    # Baseline allows AC coefficients of 10 bits (table F.2).
    limited: Array = np.clip(np.rint(raw / step), -1023, 1023).astype(np.int32)
    return limited


def _inverse(coefficients: Array, step: Array) -> Array:
    seen: Array = _DCT.T @ (coefficients * step) @ _DCT + np.float32(128)
    return seen


def _basis() -> Array:
    k, n = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    basis = np.cos((2 * n + 1) * k * np.pi / 16) / 2
    basis[0] /= np.sqrt(2)
    return basis.astype(np.float32)


def _zigzag() -> Array:
    """Row-major index of the i-th coefficient (figure A.6)."""

    def place(index: int) -> tuple[int, int]:
        row, column = divmod(index, 8)
        diagonal = row + column
        return diagonal, row if diagonal % 2 else column

    return np.array(sorted(range(64), key=place))


_DCT = _basis()
_ZIGZAG = _zigzag()


class _BitWriter:
    """Entropy coding (annex F.1.2), vectorised; bits that fill no byte wait for the next call."""

    def __init__(self, tables: _Tables) -> None:
        self._tables = tables
        self._last_dc: Array = np.zeros(3, np.int64)
        self._waiting: Array = np.zeros(0, np.uint8)
        self._done: list[bytes] = []

    def add(self, blocks: Array) -> None:
        """Whole MCUs: one block of each of the three components in turn."""
        places, codes, lengths = self._symbols(blocks.astype(np.int64))
        order = np.argsort(places, kind="stable")
        codes, lengths = codes[order], lengths[order]
        owner = np.repeat(np.arange(len(lengths)), lengths)
        ends = np.cumsum(lengths)
        shift = ends[owner] - 1 - np.arange(len(owner))
        fresh = ((codes[owner] >> shift) & 1).astype(np.uint8)
        bits = np.concatenate([self._waiting, fresh])
        whole = len(bits) // 8 * 8
        self._waiting = bits[whole:]
        self._done.append(_stuffed(bits[:whole]))

    def finish(self) -> bytes:
        missing = -len(self._waiting) % 8
        last = np.concatenate([self._waiting, np.ones(missing, np.uint8)])
        return b"".join([*self._done, _stuffed(last)])

    def _symbols(self, blocks: Array) -> tuple[Array, Array, Array]:
        """Place in the stream, bits and their number of every symbol, in no order."""
        dc_place, dc_code, dc_length = self._dc_symbols(blocks)
        ac_codes, ac_lengths = self._tables.ac
        row, column = np.nonzero(blocks[:, 1:])
        position = column + 1
        first = np.ones(len(row), bool)
        first[1:] = row[1:] != row[:-1]
        before = np.where(first, 0, np.concatenate([[0], position[:-1]]))
        run = position - before - 1
        code, size = _magnitude(blocks[row, position])
        symbol = (run % 16) << 4 | size
        ac_place = row * 256 + position * 3 + 2
        skips = np.repeat(ac_place - 1, run // 16)
        full = np.flatnonzero(blocks[:, 63] == 0) * 256 + 255
        zrl, eob = 0xF0, 0x00
        return (
            np.concatenate([dc_place, ac_place, skips, full]),
            np.concatenate(
                [
                    dc_code,
                    ac_codes[symbol] << size | code,
                    np.full(len(skips), ac_codes[zrl]),
                    np.full(len(full), ac_codes[eob]),
                ]
            ),
            np.concatenate(
                [
                    dc_length,
                    ac_lengths[symbol] + size,
                    np.full(len(skips), ac_lengths[zrl]),
                    np.full(len(full), ac_lengths[eob]),
                ]
            ),
        )

    def _dc_symbols(self, blocks: Array) -> tuple[Array, Array, Array]:
        dc = blocks[:, 0]
        difference = dc - np.concatenate([self._last_dc, dc[:-3]])
        self._last_dc = dc[-3:]
        codes, lengths = self._tables.dc
        code, size = _magnitude(difference)
        return np.arange(len(dc)) * 256, codes[size] << size | code, lengths[size] + size


def _magnitude(values: Array) -> tuple[Array, Array]:
    """The additional bits of a coefficient and their number (table F.1)."""
    size = np.frexp(np.abs(values).astype(np.float64))[1].astype(np.int64)
    return np.where(values < 0, values + (1 << size) - 1, values), size


def _stuffed(bits: Array) -> bytes:
    return np.packbits(bits).tobytes().replace(b"\xff", b"\xff\x00")
