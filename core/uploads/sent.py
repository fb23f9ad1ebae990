"""The bytes of a file that is being sent: in memory while they are few, else on disk.

Whatever many people send at once, a process holds an eighth of a megabyte of each.
"""

import asyncio
import tempfile
from io import FileIO
from typing import Final

MEMORY_BYTES_MAX: Final = 128 * 1024


class SentBytes:
    """Written once, then read; its file has no name, so nothing of it outlives the process."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._buffer = bytearray()
        self._file: FileIO | None = None

    @classmethod
    def of(cls, data: bytes) -> "SentBytes":
        made = cls()
        made.write(data)
        return made

    @property
    def content(self) -> bytes | FileIO:
        """What is stored; a file stands at its beginning."""
        if self._file is None:
            return bytes(self._buffer)
        self._file.seek(0)
        return self._file

    def write(self, data: bytes) -> None:
        self._buffer += data
        self.size_bytes += len(data)

    async def make_room(self) -> None:
        """After each write: what is more than a little goes to disk."""
        if len(self._buffer) > MEMORY_BYTES_MAX:
            await self.end(keep_few=False)

    async def end(self, *, keep_few: bool = True) -> None:
        """Everything is written. Few bytes stay in memory."""
        if self._buffer and not (keep_few and self._file is None):
            buffer, self._buffer = self._buffer, bytearray()
            await asyncio.to_thread(self._append, buffer)

    def _append(self, data: bytearray) -> None:
        if self._file is None:
            self._file = _nameless_file()
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def read(self) -> bytes:
        """All of it. Blocks: for a thread."""
        content = self.content
        return content if isinstance(content, bytes) else content.read()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _nameless_file() -> FileIO:
    made = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  closed by its owner
    assert isinstance(made, FileIO), "unbuffered"
    return made
