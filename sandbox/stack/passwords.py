"""Generated passwords of one local server, kept in a file that only its owner can read."""

import fcntl
import json
import os
import secrets
from pathlib import Path


class Passwords:
    """`get` makes a password on first use and gives the same one ever after."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def exists(self) -> bool:
        return self._path.exists()

    def get(self, name: str) -> str:
        found = self._read().get(name)
        if found is not None:
            return found
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = self._read()
            if name not in known:
                known[name] = secrets.token_urlsafe(24)
                self._write(known)
            return known[name]

    def _read(self) -> dict[str, str]:
        try:
            known: dict[str, str] = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        return known

    def _write(self, known: dict[str, str]) -> None:
        draft = self._path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(known, file)
        draft.replace(self._path)
