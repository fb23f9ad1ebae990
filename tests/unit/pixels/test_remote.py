"""The pixel processes are asked by name; the names lead somewhere, and codecs are nowhere else."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from core.pixels import normalise, outputs, remote
from core.pixels.errors import UnsupportedMediaError
from core.pixels.pool import PixelPool
from core.pixels.types import OutputRuleError
from tests.unit.pixels.images import SAMPLES

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("module", ["api.app", "worker.process"])
def test_pixels_are_loaded_where_they_are_touched(module: str) -> None:
    codecs = "('PIL', 'numpy', 'pillow_heif')"
    code = f"import sys, {module}; print([each for each in {codecs} if each in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("asked", "done"),
    [
        (remote.normalise, normalise.normalise),
        (remote.verify_output, outputs.verify_output),
        (remote.apply_rule, outputs.apply_rule),
    ],
)
def test_what_is_asked_is_what_is_done(asked: object, done: object) -> None:
    wanted = inspect.signature(asked)  # type: ignore[arg-type]  # functions, all of them
    offered = inspect.signature(done)  # type: ignore[arg-type]
    arguments = {
        name: each for name, each in wanted.parameters.items() if name not in {"pool", "whom"}
    }
    assert arguments.items() <= offered.parameters.items()
    assert wanted.return_annotation == offered.return_annotation


async def test_results_and_refusals_cross_the_border() -> None:
    pool = PixelPool(1)
    try:
        photo = (SAMPLES / "ring.jpg").read_bytes()
        image = await remote.normalise(pool, photo)
        assert (await remote.verify_output(pool, image.data)).width == image.width
        with pytest.raises(UnsupportedMediaError):
            await remote.normalise(pool, b"no picture at all")
        with pytest.raises(OutputRuleError):
            await remote.apply_rule(
                pool, "as_delivered", source=(8, 8), result=b"nor this", params={}
            )
    finally:
        await pool.close()
