"""Computes outputs off the event loop, once per (inputs, endpoint, parameters).

What was computed is kept in memory, and where a folder is given also there: several stand-ins of
one run then compute a picture once, which takes five seconds of CPU for a cut-out.
"""

import asyncio
import hashlib
import multiprocessing
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import msgspec

from sandbox.fal.outputs import RenderJob, RenderResult, prepare_process, render

CACHE_BYTES_MAX = 256 * 1024 * 1024


class Renderer:
    def __init__(self, processes: int, *, folder: Path | None = None) -> None:
        self._processes = processes
        self._folder = folder
        self._pool: ProcessPoolExecutor | None = None
        self._running: dict[str, asyncio.Task[RenderResult]] = {}
        self._cache: OrderedDict[str, RenderResult] = OrderedDict()
        self._cached_bytes = 0

    async def render(
        self, *, renderer: str, endpoint_id: str, images: Sequence[bytes], params: Mapping[str, Any]
    ) -> RenderResult:
        job = RenderJob(
            renderer=renderer, endpoint_id=endpoint_id, images=tuple(images), params=dict(params)
        )
        key = _key_of(job)
        cached = self._cache.get(key)
        if cached is not None:
            self._cache.move_to_end(key)
            return cached
        task = self._running.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._compute(key, job))
            self._running[key] = task
        # One caller's cancellation must not take the image from the others.
        return await asyncio.shield(task)

    async def _compute(self, key: str, job: RenderJob) -> RenderResult:
        try:
            result = self._find(key)
            if result is None:
                loop = asyncio.get_running_loop()
                result = await loop.run_in_executor(self._started_pool(), render, job)
                self._keep(key, result)
        except BrokenProcessPool:
            self._pool = None  # the next job starts a new one
            raise
        finally:
            self._running.pop(key, None)
        self._remember(key, result)
        return result

    def _remember(self, key: str, result: RenderResult) -> None:
        self._cache[key] = result
        self._cached_bytes += result.size_bytes
        while self._cached_bytes > CACHE_BYTES_MAX and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= dropped.size_bytes

    def _find(self, key: str) -> RenderResult | None:
        path = self._folder and self._folder / key
        if path is None or not path.exists():
            return None
        return msgspec.msgpack.decode(path.read_bytes(), type=RenderResult)

    def _keep(self, key: str, result: RenderResult) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        draft = self._folder / f"{key}.{os.getpid()}"
        draft.write_bytes(msgspec.msgpack.encode(result))
        draft.rename(self._folder / key)  # whole, or not there

    def _started_pool(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # spawn: a fork of a process with server threads may inherit a held lock.
            self._pool = ProcessPoolExecutor(
                self._processes,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=prepare_process,
            )
        return self._pool

    def close(self) -> None:
        for task in self._running.values():
            task.cancel()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def _key_of(job: RenderJob) -> str:
    digest = hashlib.sha256(job.endpoint_id.encode())
    digest.update(msgspec.json.encode(job.params, order="deterministic"))
    for image in job.images:
        digest.update(hashlib.sha256(image).digest())
    return digest.hexdigest()
