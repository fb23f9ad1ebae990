"""Draws a scene around a cut-out piece: surface, light and shadow from the prompt and the seed."""

import hashlib
from collections.abc import Mapping
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from sandbox.fal.cutout import Coverage, Pixels, clean_edges

Colour = tuple[int, int, int]
Floats = NDArray[np.float32]


class Surface(msgspec.Struct, frozen=True):
    """Colours of the far and near ends of the surface, and what it is made of."""

    far: Colour
    near: Colour
    texture: str = "plain"
    light: Colour = (255, 255, 255)


PLAIN = Surface((236, 236, 238), (250, 250, 250))

# The first word found in the prompt decides; materials come before moods.
SURFACES: Mapping[str, Surface] = {
    "marble": Surface((205, 203, 202), (243, 241, 239), "veins"),
    "wood": Surface((92, 58, 36), (168, 112, 70), "grain", (255, 238, 214)),
    "oak": Surface((120, 84, 54), (196, 148, 100), "grain", (255, 238, 214)),
    "velvet": Surface((20, 14, 30), (64, 34, 78), "soft"),
    "silk": Surface((170, 150, 140), (232, 214, 202), "waves"),
    "linen": Surface((198, 188, 172), (231, 224, 212), "soft"),
    "stone": Surface((96, 98, 100), (150, 150, 148), "soft"),
    "slate": Surface((44, 48, 54), (86, 90, 96), "soft"),
    "sand": Surface((206, 178, 138), (235, 214, 180), "waves", (255, 240, 214)),
    "beach": Surface((150, 196, 214), (232, 212, 176), "waves", (255, 244, 222)),
    "water": Surface((58, 108, 132), (146, 192, 206), "waves"),
    "snow": Surface((206, 220, 234), (246, 250, 254), "soft"),
    "leaf": Surface((30, 62, 36), (98, 138, 84), "bokeh"),
    "leaves": Surface((30, 62, 36), (98, 138, 84), "bokeh"),
    "botanical": Surface((38, 70, 44), (130, 160, 108), "bokeh"),
    "garden": Surface((42, 80, 40), (140, 168, 104), "bokeh"),
    "flower": Surface((176, 120, 140), (240, 212, 220), "bokeh"),
    "rose": Surface((160, 92, 108), (238, 204, 208), "bokeh"),
    "christmas": Surface((70, 16, 20), (140, 40, 38), "bokeh", (255, 226, 180)),
    "candle": Surface((36, 22, 14), (120, 72, 38), "bokeh", (255, 210, 150)),
    "sunset": Surface((204, 112, 74), (246, 196, 140), "bokeh", (255, 214, 170)),
    "night": Surface((10, 12, 24), (38, 42, 66), "bokeh"),
    "gold": Surface((122, 92, 36), (226, 192, 112), "waves"),
    "pastel": Surface((214, 206, 232), (248, 232, 236), "plain"),
    "pink": Surface((222, 168, 184), (250, 222, 230), "plain"),
    "blue": Surface((72, 104, 160), (178, 204, 236), "plain"),
    "green": Surface((84, 124, 92), (184, 212, 184), "plain"),
    "red": Surface((116, 22, 28), (196, 64, 62), "plain"),
    "beige": Surface((206, 192, 172), (238, 228, 212), "plain"),
    "grey": Surface((128, 130, 134), (198, 200, 204), "plain"),
    "gray": Surface((128, 130, 134), (198, 200, 204), "plain"),
    "black": Surface((8, 8, 10), (46, 46, 50), "plain"),
    "dark": Surface((16, 16, 20), (58, 58, 64), "plain"),
    "white": Surface((240, 240, 240), (255, 255, 255), "plain"),
    "studio": PLAIN,
}


def find_surface(prompt: str) -> Surface:
    words = prompt.lower()
    return next((surface for word, surface in SURFACES.items() if word in words), PLAIN)


def make_rng(prompt: str, seed: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}:{prompt}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8]))


def compose(
    rgb: Pixels, coverage: Coverage, *, size: tuple[int, int], prompt: str, seed: int
) -> Pixels:
    """The piece, standing on a surface, at `size` (width, height)."""
    width, height = size
    rng = make_rng(prompt, seed)
    surface = find_surface(prompt)
    ground = _surface(surface, width, height, rng)
    piece, cover = _place(rgb, coverage, width, height, rng)
    lit = ground * (1 - _shadow(cover, rng)[..., None])
    light = np.array(surface.light, np.float32) / 255
    alpha = cover[..., None]
    picture = lit * (1 - alpha) + piece * light * alpha
    return np.clip(picture * _vignette(width, height), 0, 255).astype(np.uint8)


def _floats(values: NDArray[Any]) -> Floats:
    floats: Floats = values.astype(np.float32)
    return floats


def _noise(width: int, height: int, cells: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Smooth noise in -1..1 with so many cells across and down."""
    grid = rng.uniform(-1, 1, (max(2, cells[1]), max(2, cells[0]))).astype(np.float32)
    smooth = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return _floats(np.clip(smooth, -1, 1))


def _clouds(
    width: int, height: int, cells: tuple[int, int], rng: np.random.Generator, octaves: int = 5
) -> Floats:
    """Noise on noise, each layer twice as fine and half as strong."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        size = (cells[0] << octave, cells[1] << octave)
        total += _noise(width, height, size, rng) / (1 << octave)
    total /= 2
    return total


def _surface(surface: Surface, width: int, height: int, rng: np.random.Generator) -> Floats:
    down = np.linspace(0, 1, height, dtype=np.float32)
    # The surface bends up into the backdrop a little above the middle.
    blend = 1 / (1 + np.exp(-(down - 0.45) * 9))
    far, near = np.array(surface.far, np.float32), np.array(surface.near, np.float32)
    ground = np.repeat((far + (near - far) * blend[:, None])[:, None, :], width, axis=1)
    texture = _texture(surface.texture, width, height, rng)
    grain = rng.normal(0, 1.2, (height, width)).astype(np.float32)
    return (ground + texture[..., None] + grain[..., None]).astype(np.float32)


def _texture(kind: str, width: int, height: int, rng: np.random.Generator) -> Floats:
    match kind:
        case "veins":
            ridges = np.abs(_clouds(width, height, (3, 3), rng))
            depth = 0.35 + 0.65 * np.clip(_clouds(width, height, (4, 4), rng) + 0.3, 0, 1)
            veins = -46 * depth * np.exp(-((ridges * 34) ** 2))
            return _floats(veins + 10 * _clouds(width, height, (4, 4), rng))
        case "grain":
            lines = _clouds(width, height, (2, max(2, height // 24)), rng, octaves=3)
            return 22 * lines + 14 * _noise(width, height, (3, 9), rng)
        case "waves":
            bent = _clouds(width, height, (2, 5), rng, octaves=3)
            return 10 * np.sin(bent * 14)
        case "soft":
            return 20 * _clouds(width, height, (6, 6), rng, octaves=6)
        case "bokeh":
            return _bokeh(width, height, rng)
        case _:
            return 4 * _noise(width, height, (3, 3), rng)


def _bokeh(width: int, height: int, rng: np.random.Generator) -> Floats:
    spots = np.zeros((height, width), np.float32)
    for _ in range(26):
        x, y = int(rng.integers(width)), int(rng.integers(int(height * 0.6)))
        radius = int(rng.integers(max(3, width // 60), max(4, width // 16)))
        layer = np.zeros_like(spots)
        cv2.circle(layer, (x, y), radius, float(rng.uniform(12, 40)), -1)
        spots += layer
    return cv2.GaussianBlur(spots, (0, 0), max(1.0, width / 160)).astype(np.float32)


def _place(
    rgb: Pixels, coverage: Coverage, width: int, height: int, rng: np.random.Generator
) -> tuple[Floats, Coverage]:
    """The piece and its coverage on a canvas: centred, standing in the lower half."""
    rows = np.flatnonzero((coverage > 0.05).any(axis=1))
    columns = np.flatnonzero((coverage > 0.05).any(axis=0))
    canvas = np.zeros((height, width, 3), np.float32)
    cover = np.zeros((height, width), np.float32)
    if rows.size == 0:
        return canvas, cover
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    piece = clean_edges(rgb, coverage)[box]
    mask = coverage[box]
    scale = min(0.62 * width / mask.shape[1], 0.62 * height / mask.shape[0])
    new = (max(1, int(mask.shape[1] * scale)), max(1, int(mask.shape[0] * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    x = (width - new[0]) // 2 + int(rng.integers(-width // 50, width // 50 + 1))
    y = min(height - new[1], int(height * 0.86) - new[1])
    spot = (slice(y, y + new[1]), slice(x, x + new[0]))
    canvas[spot] = cv2.resize(piece, new, interpolation=how)
    cover[spot] = np.clip(cv2.resize(mask, new, interpolation=how), 0, 1)
    return canvas, cover


def _shadow(cover: Coverage, rng: np.random.Generator) -> Floats:
    """A soft cast shadow to one side and a dark line of contact under the piece."""
    height, width = cover.shape
    side = 1 if rng.random() < 0.5 else -1
    base = int(np.flatnonzero(cover.any(axis=1))[-1]) if cover.any() else height - 1
    # Laid flat: squeezed to the foot of the piece and sheared away from the light.
    shear = 0.35 * side
    squeeze = 0.28
    lay = np.array([[1, -shear, shear * base], [0, squeeze, base * (1 - squeeze)]], np.float32)
    cast = cv2.warpAffine(cover, lay, (width, height))
    cast = cv2.GaussianBlur(cast, (0, 0), width / 55)
    contact = cv2.GaussianBlur(np.roll(cover, max(1, height // 120), axis=0), (0, 0), width / 140)
    return _floats(np.clip(0.42 * cast + 0.22 * contact, 0, 0.8))


def _vignette(width: int, height: int) -> Floats:
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    return _floats(1 - 0.12 * np.clip(across**2 + down**2, 0, 2) / 2)[..., None]
