"""How far the delivered pixels of a piece are from the uploaded ones, measured, not promised."""

from typing import Any

import msgspec
import numpy as np
from PIL import Image

_ROWS = 512


class Fidelity(msgspec.Struct, frozen=True, kw_only=True):
    """Differences are in steps of 0 to 255 over the three channels of the pixels compared."""

    max_difference: int
    mean_difference: float
    changed_fraction: float
    pixels: int

    def as_facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = msgspec.to_builtins(self)
        return facts


def measure_fidelity(
    source: Image.Image, output: Image.Image, alpha: Image.Image, *, alpha_min: int = 250
) -> Fidelity:
    """Compare two RGB(A) images of one size where `alpha` (mode L) is at least `alpha_min`."""
    assert source.size == output.size == alpha.size
    largest, total, changed, pixels = 0, 0, 0, 0
    for top in range(0, source.height, _ROWS):
        box = (0, top, source.width, min(top + _ROWS, source.height))
        inside = np.asarray(alpha.crop(box)) >= alpha_min
        if not inside.any():
            continue
        before = np.asarray(source.crop(box))[..., :3][inside].astype(np.int16)
        after = np.asarray(output.crop(box))[..., :3][inside].astype(np.int16)
        difference = np.abs(before - after)
        largest = max(largest, int(difference.max()))
        total += int(difference.sum())
        changed += int((difference.max(axis=1) > 0).sum())
        pixels += len(difference)
    return Fidelity(
        max_difference=largest,
        mean_difference=round(total / max(1, pixels * 3), 4),
        changed_fraction=round(changed / max(1, pixels), 6),
        pixels=pixels,
    )
