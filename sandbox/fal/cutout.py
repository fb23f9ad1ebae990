"""Finds the piece in a photo: a coverage map in 0..1 of the size of the photo.

A small saliency network (weights/README.md) sees the whole photo, then overlapping windows of
what it found: the first pass finds which object is meant, the windows add the thin parts and
the holes that 320 pixels cannot show. grabCut then moves the edge to where the colours change.
"""

import functools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Coverage = NDArray[np.float32]

WEIGHTS = Path(__file__).parent / "weights" / "u2netp.onnx"
NETWORK_SIDE = 320
WORK_SIDE_MAX = 1400
WINDOW_SHARE = 0.6  # of the piece's longer side; measured best of 0.4, 0.5, 0.6 on the samples
PIECE_MARGIN = 0.08
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


@functools.cache
def _network() -> cv2.dnn.Net:
    return cv2.dnn.readNetFromONNX(str(WEIGHTS))


def find_piece(rgb: Pixels) -> Coverage:
    height, width = rgb.shape[:2]
    scale = min(1.0, WORK_SIDE_MAX / max(height, width))
    work: NDArray[Any] = rgb
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        work = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    coverage = _find(np.ascontiguousarray(work, np.uint8))
    if scale < 1:
        return _unit(cv2.resize(coverage, (width, height), interpolation=cv2.INTER_CUBIC))
    return coverage


def _find(rgb: Pixels) -> Coverage:
    rough = _saliency(rgb)
    if float(rough.max()) < 0.5:
        rough = _unlike_border(rgb)
    meant = _dilate(rough > 0.3, _odd(0.011, rgb))
    if not meant.any():
        return np.ones(rgb.shape[:2], np.float32)
    fine = _refine_in_windows(rgb, rough) * meant
    left, top, right, bottom = _box(meant, margin=0.1)
    part = (slice(top, bottom), slice(left, right))
    coverage = np.zeros(rgb.shape[:2], np.float32)
    coverage[part] = _settle_edges(rgb[part], fine[part], meant[part])
    return coverage


def _saliency(rgb: Pixels) -> Coverage:
    height, width = rgb.shape[:2]
    small = cv2.resize(rgb, (NETWORK_SIDE, NETWORK_SIDE), interpolation=cv2.INTER_AREA)
    scaled = small.astype(np.float32) / max(1.0, float(small.max()))
    tensor = ((scaled - _MEAN) / _DEVIATION).transpose(2, 0, 1)[None]
    network = _network()
    network.setInput(np.ascontiguousarray(tensor, np.float32))
    seen = network.forward()[0, 0]
    return _unit(cv2.resize(seen, (width, height), interpolation=cv2.INTER_LINEAR))


def _unlike_border(rgb: Pixels) -> Coverage:
    """How far each pixel's colour is from that of the photo's border, Otsu's threshold at 0.5."""
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).astype(np.float32)
    rim = max(2, min(rgb.shape[:2]) // 20)
    border = np.concatenate(
        [
            lab[:rim].reshape(-1, 3),
            lab[-rim:].reshape(-1, 3),
            lab[:, :rim].reshape(-1, 3),
            lab[:, -rim:].reshape(-1, 3),
        ]
    )
    distance = np.linalg.norm(lab - np.median(border, axis=0), axis=2)
    levels = np.clip(distance, 0, 255).astype(np.uint8)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return _unit(distance / max(1.0, 2 * threshold))


def _refine_in_windows(rgb: Pixels, rough: Coverage) -> Coverage:
    left, top, right, bottom = _box(rough > 0.5 * rough.max(), margin=PIECE_MARGIN)
    side = max(32, int(max(right - left, bottom - top) * WINDOW_SHARE))
    fine = np.zeros(rough.shape, np.float32)
    for y in _starts(top, bottom, side):
        for x in _starts(left, right, side):
            part = (slice(y, y + side), slice(x, x + side))
            fine[part] = np.maximum(fine[part], _saliency(rgb[part]))
    # If no window found anything with certainty, the first pass is the result.
    return fine if float(fine.max()) >= 0.5 else rough


def _starts(first: int, last: int, side: int) -> list[int]:
    """Starts of windows that cover `first..last`, each overlapping the next by half."""
    span = last - first - side
    if span <= 0:
        return [first]
    count = int(np.ceil(span / (side * 0.5))) + 1
    return [int(start) for start in np.linspace(first, last - side, count)]


def _settle_edges(rgb: Pixels, fine: Coverage, meant: NDArray[np.bool_]) -> Coverage:
    labels = np.full(fine.shape, cv2.GC_PR_BGD, np.uint8)
    labels[fine > 0.5] = cv2.GC_PR_FGD
    labels[~_dilate(fine <= 0.9, 5)] = cv2.GC_FGD
    labels[~_dilate(fine > 0.1, 13) | ~meant] = cv2.GC_BGD
    if not (labels & 1).any() or (labels & 1).all():
        return fine
    cv2.setRNGSeed(0)
    no_box = (0, 0, 0, 0)  # the mask alone decides
    outside, inside = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(rgb, labels, no_box, outside, inside, 3, cv2.GC_INIT_WITH_MASK)
    cut = (labels & 1).astype(np.float32)  # GC_FGD and GC_PR_FGD are the odd labels
    both = cv2.GaussianBlur(0.5 * (cut + fine), (0, 0), 1.2)
    # A soft edge two to three pixels wide: 0.25 is out, 0.75 is in.
    return _unit((both - 0.25) * 2)


def _unit(values: NDArray[Any]) -> Coverage:
    clipped: Coverage = np.clip(values, 0, 1).astype(np.float32)
    return clipped


def _dilate(mask: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((size, size), np.uint8))
    return grown.astype(bool)


def _odd(share: float, rgb: Pixels) -> int:
    return int(max(rgb.shape[:2]) * share) | 1


def _box(mask: NDArray[np.bool_], *, margin: float) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) around the mask with a margin, inside the picture."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    pad = int(max(right - left, bottom - top) * margin)
    height, width = mask.shape
    return max(0, left - pad), max(0, top - pad), min(width, right + pad), min(height, bottom + pad)


def clean_edges(rgb: Pixels, coverage: Coverage) -> Pixels:
    """The photo with the old background's colour taken out of half-covered pixels."""
    sure = (coverage > 0.95).astype(np.float32)
    weight = cv2.GaussianBlur(sure, (0, 0), 3)[..., None]
    spread = cv2.GaussianBlur(rgb.astype(np.float32) * sure[..., None], (0, 0), 3)
    inside = spread / np.maximum(weight, 1e-3)
    usable = (weight > 0.02) & (coverage[..., None] <= 0.95)
    return np.where(usable, np.clip(inside, 0, 255), rgb).astype(np.uint8)
