"""The committed profiles against the numbers of their standards, computed without any profile."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from core.pixels import colour
from core.pixels.colour import Space, icc_of

Chromaticity = tuple[float, float]
_D65 = (0.3127, 0.3290)
_PRIMARIES: dict[Space, tuple[Chromaticity, Chromaticity, Chromaticity]] = {
    Space.SRGB: ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),  # IEC 61966-2-1
    Space.DISPLAY_P3: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # SMPTE EG 432-1
    Space.ADOBE_RGB: ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)),  # Adobe RGB (1998), 4.3.1
    Space.BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # ITU-R BT.2020
}
_NAMES = {
    Space.SRGB: "sRGB built-in",
    Space.DISPLAY_P3: "Display P3",
    Space.ADOBE_RGB: "Adobe RGB",
    Space.BT2020: "BT.2020",
}
# Metal, stone, skin, sky; in each of the spaces inside of sRGB, so that nothing is clipped.
_COLOURS = [(200, 150, 60), (120, 125, 130), (90, 60, 150), (220, 190, 170), (40, 44, 60)]


def _to_xyz(space: Space) -> NDArray[np.float64]:
    """Linear RGB to XYZ under D65, as every one of these spaces is defined."""

    def column(point: Chromaticity) -> list[float]:
        x, y = point
        return [x / y, 1.0, (1 - x - y) / y]

    primaries = np.array([column(point) for point in _PRIMARIES[space]]).T
    scaled: NDArray[np.float64] = primaries * np.linalg.solve(primaries, np.array(column(_D65)))
    return scaled


def _in_srgb(space: Space, pixel: tuple[int, int, int]) -> NDArray[np.float64]:
    encoded = np.array(pixel) / 255
    if space is Space.ADOBE_RGB:
        linear = encoded ** (563 / 256)
    else:
        linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    moved = np.linalg.inv(_to_xyz(Space.SRGB)) @ _to_xyz(space) @ linear
    assert moved.min() >= 0
    assert moved.max() <= 1
    back = np.where(moved <= 0.0031308, moved * 12.92, 1.055 * moved ** (1 / 2.4) - 0.055)
    return np.asarray(back * 255)


@pytest.mark.parametrize("space", Space)
@pytest.mark.parametrize("pixel", _COLOURS)
def test_colours_are_those_of_the_standard(space: Space, pixel: tuple[int, int, int]) -> None:
    flat = Image.new("RGB", (1, 1), pixel)
    converted = colour.to_srgb(flat, icc=icc_of(space)).image
    seen = np.array(converted.getpixel((0, 0)))
    assert np.abs(seen - _in_srgb(space, pixel)).max() <= 1


@pytest.mark.parametrize("space", Space)
def test_profiles_say_what_they_are(space: Space) -> None:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_of(space))).profile
    assert profile.profile_description == _NAMES[space]
    assert profile.xcolor_space.strip() == "RGB"
    assert profile.device_class == "mntr"
    assert len(icc_of(space)) < 600


def test_display_p3_is_apples() -> None:
    """Colorants as in Apple's Display P3.icc."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_of(Space.DISPLAY_P3))).profile
    assert profile.red_colorant is not None
    assert profile.red_colorant[0] == pytest.approx((0.51512, 0.2412, -0.00105), abs=2e-4)


def test_srgb_changes_nothing_and_is_little_cms_own() -> None:
    """But for the moment of creation, which would make each file's bytes another's."""
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    ours = icc_of(Space.SRGB)
    assert ours[:24] + ours[36:] == made[:24] + made[36:]
    assert not colour.would_change(ours)
    assert all(colour.would_change(icc_of(space)) for space in Space if space is not Space.SRGB)
