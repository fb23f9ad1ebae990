"""Object bytes: one file per version, named by its uuid, never by the object's key."""

import asyncio
import os
from pathlib import Path
from uuid import UUID

# Below this a write to the page cache is quicker than a trip to a thread.
INLINE_BYTES_MAX = 512 * 1024


class FileStore:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def _path(self, version: str) -> Path:
        name = str(UUID(version))
        return self._directory / name[:2] / name

    async def write(self, version: str, content: bytes) -> None:
        """Whole or not at all."""
        if len(content) <= INLINE_BYTES_MAX:
            self._write(version, content)
        else:
            await asyncio.to_thread(self._write, version, content)

    def _write(self, version: str, content: bytes) -> None:
        path = self._path(version)
        temporary = path.with_suffix(".tmp")
        try:
            temporary.write_bytes(content)
        except FileNotFoundError:
            path.parent.mkdir(exist_ok=True)
            temporary.write_bytes(content)
        temporary.replace(path)

    async def read(self, version: str, size: int) -> bytes:
        """Raises: FileNotFoundError. `size` is that of the row; it decides how to read."""
        path = self._path(version)
        if size <= INLINE_BYTES_MAX:
            return path.read_bytes()
        return await asyncio.to_thread(path.read_bytes)

    def copy(self, source: str, target: str) -> None:
        """Files never change, so a second name is a copy."""
        path = self._path(target)
        path.parent.mkdir(exist_ok=True)
        os.link(self._path(source), path)

    def remove(self, version: str) -> None:
        self._path(version).unlink(missing_ok=True)
