"""Colour profiles: what a file's numbers mean, and their conversion to sRGB.

Jewellery is bought by colour, so Display P3 photos of phones are converted, never relabelled.
"""

import io
import struct
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from PIL import Image, ImageCms

_TOLERANCE: Final = 2
"""Profiles that move no colour by more than this (of 255) are sRGB under another name: the
common sRGB profiles differ by 1 from littleCMS's own."""

_P3_PRIMARIES, _BT2020_PRIMARIES = 12, 9  # ITU-T H.273 table 2
_SRGB_TO_LINEAR = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # IEC 61966-2-1
_ADOBE_GAMMA = (2 + 51 / 256,)  # Adobe RGB (1998), 4.3.4.2
_D65 = (0.3127, 0.3290)
_D50_XYZ = (0.9642, 1.0, 0.8249)  # ICC.1:2022, 7.2.16

Chromaticity = tuple[float, float]


class Space(NamedTuple):
    name: str
    red: Chromaticity
    green: Chromaticity
    blue: Chromaticity
    curve: tuple[float, ...]
    """ICC parametric curve: one number is a gamma, five are its type 3."""


DISPLAY_P3: Final = Space(
    "Display P3", (0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _SRGB_TO_LINEAR
)
ADOBE_RGB: Final = Space("Adobe RGB", (0.64, 0.33), (0.21, 0.71), (0.15, 0.06), _ADOBE_GAMMA)
BT2020: Final = Space("BT.2020", (0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _SRGB_TO_LINEAR)


class Converted(NamedTuple):
    image: Image.Image
    note: str | None
    changed: bool


def to_srgb(
    image: Image.Image,
    *,
    icc: bytes | None,
    cicp: tuple[int, int] | None = None,
    adobe_rgb: bool = False,
) -> Converted:
    """An RGB or RGBA image in sRGB; the given one is consumed (its memory may be reused).

    An embedded profile wins over what other fields say; without any, pixels are sRGB.
    """
    note = None
    if icc:
        profile = _open(icc)
        if profile is None:
            note = "ignored an unreadable colour profile"
        else:
            return _convert(image, profile, _name(profile))
    space = _stated_space(cicp, adobe_rgb=adobe_rgb)
    if space is None:
        return Converted(image, note, changed=False)
    made = ImageCms.ImageCmsProfile(io.BytesIO(build_profile(space)))
    return _convert(image, made, space.name)


def would_change(
    icc: bytes | None, *, cicp: tuple[int, int] | None = None, adobe_rgb: bool = False
) -> bool:
    """Whether `to_srgb` would move any colour, told without touching the picture."""
    probe = Image.new("RGB", (1, 1))
    return to_srgb(probe, icc=icc, cicp=cicp, adobe_rgb=adobe_rgb).changed


def is_gray_profile(icc: bytes | None) -> bool:
    profile = _open(icc) if icc else None
    return profile is not None and profile.profile.xcolor_space.strip() == "GRAY"


def gray_to_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    """An L image with its own gray profile as RGB in sRGB."""
    profile = _open(icc)
    assert profile is not None
    converted = ImageCms.applyTransform(image, _transform(profile, "L"))
    assert converted is not None
    return converted


@lru_cache(maxsize=1)
def srgb_icc() -> bytes:
    """The profile that outputs carry, so that no shop has to guess."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def build_profile(space: Space) -> bytes:
    """An ICC 4.3 display profile with matrix and parametric curves (ICC.1:2022)."""
    matrix = _colorants(space)
    tags: list[tuple[bytes, bytes]] = [
        (b"desc", _text(space.name)),
        (b"cprt", _text("No copyright, use freely")),
        (b"wtpt", _xyz(_D50_XYZ)),
    ]
    for index, channel in enumerate(b"rgb"):
        x, y, z = (float(value) for value in matrix[:, index])
        tags.append((bytes([channel]) + b"XYZ", _xyz((x, y, z))))
        tags.append((bytes([channel]) + b"TRC", _curve(space.curve)))
    offset = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags:
        table += name + struct.pack(">II", offset + len(body), len(content))
        body += content + b"\x00" * (-len(content) % 4)
    size = offset + len(body)
    header = struct.pack(
        ">I4sI4s4s4s12s4s4sI4s4sQI", size, b"\x00" * 4, 0x04300000, b"mntr", b"RGB ", b"XYZ ",
        struct.pack(">6H", 2024, 1, 1, 0, 0, 0), b"acsp", b"\x00" * 4, 0, b"\x00" * 4, b"\x00" * 4,
        0, 0,
    )  # fmt: skip
    header += _s15(*_D50_XYZ)
    return header.ljust(128, b"\x00") + table + body


def _stated_space(cicp: tuple[int, int] | None, *, adobe_rgb: bool) -> Space | None:
    if cicp is not None:
        return {_P3_PRIMARIES: DISPLAY_P3, _BT2020_PRIMARIES: BT2020}.get(cicp[0])
    return ADOBE_RGB if adobe_rgb else None


def _open(icc: bytes) -> ImageCms.ImageCmsProfile | None:
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(icc))
    except (OSError, ImageCms.PyCMSError):
        return None


def _name(profile: ImageCms.ImageCmsProfile) -> str:
    stated = profile.profile.profile_description or ""
    return "".join(letter for letter in stated if letter.isprintable())[:60] or "its profile"


def _transform(profile: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    """Relative colorimetric with black point compensation, as photo programs default to."""
    return ImageCms.buildTransform(
        profile,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB" if mode == "L" else mode,
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


def _convert(image: Image.Image, profile: ImageCms.ImageCmsProfile, name: str) -> Converted:
    if profile.profile.xcolor_space.strip() != "RGB":
        return Converted(image, "ignored a colour profile of another kind", changed=False)
    try:
        transform = _transform(profile, image.mode)
        if _is_identity(_transform(profile, "RGB")):
            return Converted(image, None, changed=False)
        ImageCms.applyTransform(image, transform, inPlace=True)
    except ImageCms.PyCMSError:
        return Converted(image, "ignored an unreadable colour profile", changed=False)
    return Converted(image, f"converted {name} to sRGB", changed=True)


def _is_identity(transform: ImageCms.ImageCmsTransform) -> bool:
    """Tried on a cube of 9 x 9 x 9 colours instead of comparing names."""
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3)
    moved = ImageCms.applyTransform(Image.fromarray(cube), transform)
    difference = np.abs(np.asarray(moved, dtype=np.int16) - cube.astype(np.int16))
    return int(difference.max()) <= _TOLERANCE


def _colorants(space: Space) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Columns of red, green and blue in XYZ, adapted from D65 to D50 (Bradford, ICC.1 annex E)."""

    def xyz(point: Chromaticity) -> list[float]:
        x, y = point
        return [x / y, 1.0, (1 - x - y) / y]

    primaries = np.array([xyz(space.red), xyz(space.green), xyz(space.blue)]).T
    white = np.array(xyz(_D65))
    scaled = primaries * np.linalg.solve(primaries, white)
    bradford = np.array(
        [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
    )
    gain = (bradford @ np.array(_D50_XYZ)) / (bradford @ white)
    adapted: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = (
        np.linalg.inv(bradford) @ np.diag(gain) @ bradford @ scaled
    )
    return adapted


def _s15(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def _xyz(point: tuple[float, float, float]) -> bytes:
    return b"XYZ \x00\x00\x00\x00" + _s15(*point)


def _curve(numbers: tuple[float, ...]) -> bytes:
    kind = {1: 0, 5: 3}[len(numbers)]
    return b"para\x00\x00\x00\x00" + struct.pack(">HH", kind, 0) + _s15(*numbers)


def _text(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return (
        b"mluc\x00\x00\x00\x00" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(encoded), 28)
        + encoded
    )  # fmt: skip
