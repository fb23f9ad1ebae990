"""Whether a delivered image is there, decodes, and is of the photo that it was ordered for."""

import io
import uuid

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from core.pixels import raster
from scripts.chaos.both_ledgers import Row

_HUE_BINS = 36


class Photo:
    """A person's normalised photo, decoded."""

    def __init__(self, upload_id: uuid.UUID, data: bytes) -> None:
        self.upload_id = upload_id
        with Image.open(io.BytesIO(data)) as image:
            self.picture = image.convert("RGB")


def find_defect(data: bytes, generation: Row, photos: dict[uuid.UUID, Photo]) -> str | None:
    """What is wrong with the stored image of a succeeded generation, or None."""
    result = generation["result"]
    try:
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
            image = opened
    except (OSError, SyntaxError, ValueError) as error:
        return f"does not decode ({type(error).__name__})"
    if image.size != (result["width"], result["height"]):
        return f"is {image.size}, recorded as {result['width']} x {result['height']}"
    if raster.pixel_sha256(image) != result["pixel_sha256"]:
        return "has other pixels than were recorded"
    nearest = min(photos.values(), key=lambda photo: _distance(generation, image, photo))
    if nearest.upload_id != generation["upload_id"]:
        return "is made from another person's photo"
    if generation["operation"] == "cutout" and _distance(generation, image, nearest) > 0:
        return "does not have the photo's own pixels"
    return None


def _distance(generation: Row, image: Image.Image, photo: Photo) -> float:
    """How far the image is from the photo; infinite where it cannot be made from this photo."""
    match generation["operation"]:
        case "cutout":
            return _of_own_pixels(image, photo)
        case "packshot":
            return _of_packshot(image, photo, generation["result"]["facts"])
        case "upscale":
            return _of_whole(image, photo)
        case _:
            # The model redraws a scene, so its pixels do not tell which photo it is made from.
            return 0.0 if photo.upload_id == generation["upload_id"] else 1.0


def _of_own_pixels(image: Image.Image, photo: Photo) -> float:
    if image.size != photo.picture.size:
        return float("inf")
    pixels = np.asarray(image.convert("RGBA")).astype(np.int16)
    own = np.asarray(photo.picture).astype(np.int16)
    seen = pixels[..., 3] > 0
    return float(np.abs(pixels[..., :3] - own)[seen].max(initial=0))


def _of_packshot(image: Image.Image, photo: Photo, facts: dict[str, object]) -> float:
    """Colours of the inner piece against those of the photo, scaled and laid over it."""
    box = facts["alpha_bbox"]
    assert isinstance(box, list)
    left, top, right, bottom = box
    if right > photo.picture.width or bottom > photo.picture.height:
        return float("inf")
    own = np.asarray(photo.picture.crop((left, top, right, bottom)).convert("HSV"))
    made = np.asarray(image.convert("RGB").filter(ImageFilter.MedianFilter(3)).convert("HSV"))
    return float(np.abs(_hues(made) - _hues(own)).sum())


def _hues(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    coloured = pixels[(pixels[..., 1] > 60) & (pixels[..., 2] > 40)]
    counts, _ = np.histogram(coloured[..., 0], bins=_HUE_BINS, range=(0, 256))
    return np.asarray(counts / max(1, counts.sum()), np.float64)


def _of_whole(image: Image.Image, photo: Photo) -> float:
    small = image.convert("RGB").resize((64, 64), Image.Resampling.BOX)
    own = photo.picture.resize((64, 64), Image.Resampling.BOX)
    return float(np.abs(np.asarray(small).astype(np.int16) - np.asarray(own)).mean())
