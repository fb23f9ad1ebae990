"""Colour profiles of files, and their conversion to sRGB.

Jewellery is bought by colour, so Display P3 photos of phones are converted, never relabelled.
"""

import io
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from PIL import Image, ImageCms

from core.pixels.types import Note
from core.words.remark import Remark

# Profiles that move no colour by more than this (of 255) are sRGB under another name: the common
# sRGB profiles differ by 1 from littleCMS's own.
_TOLERANCE: Final = 2

_P3_PRIMARIES, _BT2020_PRIMARIES = 12, 9  # ITU-T H.273 table 2
_PROFILES: Final = Path(__file__).parent / "profiles"


class Space(StrEnum):
    """The name of a profile in `profiles/`, whose README states its origin."""

    SRGB = "srgb"
    DISPLAY_P3 = "display_p3"
    ADOBE_RGB = "adobe_rgb"
    BT2020 = "bt2020"


class Converted(NamedTuple):
    image: Image.Image
    note: Remark | None
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
            note = Remark(Note.PROFILE_UNREADABLE)
        else:
            return _convert(image, profile, _name(profile))
    space = _stated_space(cicp, adobe_rgb=adobe_rgb)
    if space is None:
        return Converted(image, note, changed=False)
    stated = ImageCms.ImageCmsProfile(io.BytesIO(icc_of(space)))
    return _convert(image, stated, _name(stated))


def would_change(
    icc: bytes | None, *, cicp: tuple[int, int] | None = None, adobe_rgb: bool = False
) -> bool:
    """Whether `to_srgb` would move any colour; the picture is not changed."""
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


@cache
def icc_of(space: Space) -> bytes:
    """The profile of a space. Outputs carry that of sRGB, so that no shop has to guess it."""
    return (_PROFILES / f"{space}.icc").read_bytes()


def _stated_space(cicp: tuple[int, int] | None, *, adobe_rgb: bool) -> Space | None:
    if cicp is not None:
        return {_P3_PRIMARIES: Space.DISPLAY_P3, _BT2020_PRIMARIES: Space.BT2020}.get(cicp[0])
    return Space.ADOBE_RGB if adobe_rgb else None


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
        return Converted(image, Remark(Note.PROFILE_OF_ANOTHER_KIND), changed=False)
    try:
        transform = _transform(profile, image.mode)
        if _is_identity(_transform(profile, "RGB")):
            return Converted(image, None, changed=False)
        ImageCms.applyTransform(image, transform, inPlace=True)
    except ImageCms.PyCMSError:
        return Converted(image, Remark(Note.PROFILE_UNREADABLE), changed=False)
    return Converted(image, Remark(Note.PROFILE_CONVERTED, {"profile": name}), changed=True)


def _is_identity(transform: ImageCms.ImageCmsTransform) -> bool:
    """Tried on a cube of 9 x 9 x 9 colours instead of comparing names."""
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3)
    moved = ImageCms.applyTransform(Image.fromarray(cube), transform)
    difference = np.abs(np.asarray(moved, dtype=np.int16) - cube.astype(np.int16))
    return int(difference.max()) <= _TOLERANCE
