"""Keys and names of uploads."""

import uuid

import pytest

from core.pixels.errors import UnsupportedMediaError
from core.pixels.formats.base import ImageFormat
from core.uploads.types import (
    DECLARABLE,
    clean_file_name,
    declared_type,
    every_key,
    normal_key,
    original_key,
    thumbnail_key,
)

USER = uuid.UUID("0192f3a1-b2c3-7d4e-8f90-a1b2c3d4e5f6")
UPLOAD = uuid.UUID("0192f3a1-b2c3-7d4e-8f90-000000000001")


def test_every_key_that_is_ever_written_is_erased() -> None:
    keys = set(every_key(USER, UPLOAD))
    assert {original_key(USER, UPLOAD, extension) for extension in DECLARABLE.values()} <= keys
    assert {original_key(USER, UPLOAD, kind.extension) for kind in ImageFormat} <= keys
    for extension in ("jpg", "png"):
        assert normal_key(USER, UPLOAD, extension) in keys
    for extension in ("jpg", "webp"):
        assert thumbnail_key(USER, UPLOAD, extension) in keys
    assert all(key.startswith(f"{USER}/{UPLOAD}/") for key in keys)


def test_every_format_can_be_declared() -> None:
    for kind in ImageFormat:
        assert declared_type(f"{kind.content_type.upper()}; q=1") == kind.content_type
    with pytest.raises(UnsupportedMediaError):
        declared_type("image/gif")


def test_who_does_not_know_the_type_may_announce_a_photo() -> None:
    """A browser on Windows tells no type of a HEIC."""
    for given in ("", "image/jpg", "application/octet-stream", "image/*"):
        assert declared_type(given) == "image/jpeg"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, None),
        ("", None),
        ("ring.jpg", "ring.jpg"),
        ("C:\\photos\\ring.jpg", "ring.jpg"),
        ("../../etc/passwd", "passwd"),
        ("/", None),
        ("a\x00b\n\u202ec.jpg", "abc.jpg"),
        ("Bague dorée ✨.jpg", "Bague dorée ✨.jpg"),
    ],
)
def test_a_file_name_is_its_last_printable_part(given: str | None, kept: str | None) -> None:
    assert clean_file_name(given) == kept


def test_a_long_name_keeps_its_ending() -> None:
    kept = clean_file_name("r" * 400 + ".jpeg")
    assert kept is not None
    assert len(kept) <= 255
    assert kept.endswith(".jpeg")
