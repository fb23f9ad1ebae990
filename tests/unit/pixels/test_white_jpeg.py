import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.pixels import white_jpeg
from core.pixels.formats import jpeg
from tests.unit.pixels import images


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 90), st.integers(8, 90), st.integers(0, 2**32), st.floats(0, 1))
def test_background_is_exact_for_the_worst_pictures(
    width: int, height: int, seed: int, share: float
) -> None:
    """Pure noise, cut by a mask without any order: every block is an edge."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    background = random.random((height, width)) < share
    pixels[background] = 255
    image = Image.fromarray(pixels)
    data, decoded, exact = white_jpeg.encode_exact(image, background)
    assert decoded.size == (width, height)
    assert exact
    assert (np.asarray(images.decode(data))[background] == 255).all()


@pytest.mark.parametrize("quality", [50, 95])
def test_as_near_as_an_ordinary_encoder(quality: int) -> None:
    """Without any background it must be libjpeg's picture, but for rounding."""
    image = images.photo(203, 131)
    nothing = np.zeros((131, 203), bool)
    ours = images.pixels(white_jpeg.encode(image, nothing, quality=quality))
    theirs = images.pixels(
        images.encode(image, "jpeg", quality=quality, subsampling="4:4:4", keep_rgb=True)
    )
    source = images.pixels(image)
    assert np.abs(ours - source).mean() == pytest.approx(np.abs(theirs - source).mean(), rel=0.02)
    assert np.abs(ours - theirs).mean() < 0.5


def test_ordinary_encoders_do_ring() -> None:
    """The reason this encoder exists; if this fails it can go."""
    image = Image.new("RGB", (160, 160), (255, 255, 255))
    image.paste(images.photo(75, 75), (43, 43))
    background = np.ones((160, 160), bool)
    background[43:118, 43:118] = False
    ordinary = images.pixels(images.encode(image, "jpeg", quality=95, subsampling="4:4:4"))
    assert (ordinary[background] != 255).any()
    assert white_jpeg.encode_exact(image, background)[2]


def test_file_is_plain_baseline() -> None:
    data = white_jpeg.encode(images.photo(64, 64), np.zeros((64, 64), bool))
    layout = jpeg.parse(data)
    assert (layout.sof, layout.end) == (0xC0, len(data))
    assert jpeg.strip(data, layout) is not None
