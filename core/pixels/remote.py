"""The functions that pixel processes run, by name.

Pillow, NumPy and the codecs are loaded where pixels are touched and nowhere else: neither the API,
which imports the jobs of every noun, nor the worker's own process has them in memory. `whom` a
picture is for decides whose turn it is while all processes of the pool are taken.
"""

import importlib
from collections.abc import Hashable
from typing import Any, cast

from core.pixels.pool import PixelPool, PixelProcess
from core.pixels.types import DecodedInfo, NormalisedImage, RenderedOutput


async def normalise(pool: PixelPool | PixelProcess, data: bytes) -> NormalisedImage:
    """`core.pixels.normalise.normalise` in a process of `pool`. Raises: as that, and the pool."""
    return cast("NormalisedImage", await pool.run(call, "normalise", "normalise", data))


async def verify_output(pool: PixelPool, data: bytes, *, whom: Hashable = None) -> DecodedInfo:
    """`core.pixels.outputs.verify_output` in a process of `pool`. Raises: as that, and the pool."""
    return cast("DecodedInfo", await pool.run_for(whom, call, "outputs", "verify_output", data))


async def apply_rule(
    pool: PixelPool,
    rule: str,
    *,
    source: bytes | tuple[int, int],
    result: bytes,
    params: dict[str, Any],
    whom: Hashable = None,
) -> RenderedOutput:
    """`core.pixels.outputs.apply_rule` in a process of `pool`. Raises: as that, and the pool."""
    rendered = await pool.run_for(
        whom, call, "outputs", "apply_rule", rule, source=source, result=result, params=params
    )
    return cast("RenderedOutput", rendered)


def call(module: str, function: str, *args: Any, **kwargs: Any) -> Any:
    """Runs in the pixel process, which alone imports the module."""
    return getattr(importlib.import_module(f"core.pixels.{module}"), function)(*args, **kwargs)
