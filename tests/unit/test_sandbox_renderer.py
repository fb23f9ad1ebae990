"""Pictures that one stand-in computed are there for the next one."""

import io
from pathlib import Path

import pytest
from PIL import Image

from sandbox.fal.outputs import RenderResult
from sandbox.fal.renderer import Renderer


async def _enlarged(renderer: Renderer, *, factor: float = 2) -> RenderResult:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 150, 40)).save(out, "PNG")
    return await renderer.render(
        renderer="upscale",
        endpoint_id="any",
        images=(out.getvalue(),),
        params={"upscale_factor": factor},
    )


async def test_a_picture_is_computed_once_for_all_stand_ins(tmp_path: Path) -> None:
    first = Renderer(1, folder=tmp_path)
    made = await _enlarged(first)
    first.close()
    assert (made.images[0].width, made.images[0].height) == (80, 60)
    idle = Renderer(0, folder=tmp_path)  # it has no process to compute anything
    assert await _enlarged(idle) == made
    with pytest.raises(ValueError, match="max_workers"):
        await _enlarged(idle, factor=3)
