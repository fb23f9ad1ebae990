"""Makes `.venv` from requirements-dev.lock when it is missing or outdated.

Runs on the system's Python with nothing but the standard library, before anything is installed.
Every file is checked against the hashes in the lock, uv itself included. Two at once are safe.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements-dev.lock"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".installed"
OLDEST = (3, 11)


def main() -> int:
    if sys.version_info < OLDEST:
        return _with_newer_python()
    with LOCK.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_current():
            print("venv: installing from requirements-dev.lock", flush=True)
            try:
                _build()
            except subprocess.CalledProcessError as error:
                print(f"venv: {Path(error.cmd[0]).name} failed; its own words are above")
                return 1
    return 0


def _with_newer_python() -> int:
    """Run again with a later Python, where the default one is too old."""
    for minor in range(OLDEST[1], 20):
        found = shutil.which(f"python3.{minor}")
        if found:
            return subprocess.call([found, __file__])
    print(f"Jewelshot needs Python 3.11 or later; this is {sys.version.split()[0]}")
    return 1


def _wanted() -> str:
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()


def _is_current() -> bool:
    try:
        if STAMP.read_text() != _wanted():
            return False
        return subprocess.run([PYTHON, "-c", ""], check=False).returncode == 0
    except OSError:
        return False


def _build() -> None:
    STAMP.unlink(missing_ok=True)
    if not _runs(PYTHON):
        shutil.rmtree(VENV, ignore_errors=True)
        _make_venv()
    _install_uv()
    command = [str(VENV / "bin" / "uv"), "pip", "sync", "--python", str(PYTHON), "--quiet"]
    # Compiled once here: where Python may not write what it compiles (PYTHONDONTWRITEBYTECODE, a
    # folder of another account), each start of a process would compile 1,500 modules again.
    command += ["--require-hashes", "--compile-bytecode", str(LOCK)]
    subprocess.run(command, check=True, env=_uv_environment())
    STAMP.write_text(_wanted())


def _runs(python: Path) -> bool:
    try:
        done = subprocess.run([python, "-m", "pip", "--version"], check=False, capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


def _make_venv() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "venv", str(VENV)], check=False, capture_output=True, text=True
    )
    if made.returncode != 0:
        raise SystemExit(
            "venv: this Python cannot make a virtual environment (on Debian and Ubuntu: "
            f"apt-get install python3-venv)\n{made.stdout}{made.stderr}"
        )


def _install_uv() -> None:
    """Only uv's own lines of the lock, by pip; uv then installs everything, much faster."""
    found = re.search(r"^uv==.*?[^\\]\n(?=\S|\Z|    #)", LOCK.read_text(), re.MULTILINE | re.DOTALL)
    if found is None:
        raise SystemExit(f"venv: {LOCK.name} has no uv")
    lines = VENV / "uv.lock.txt"
    lines.write_text(found.group())
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--require-hashes", "--no-deps", "--requirement", str(lines)]
    subprocess.run(command, check=True)


def _uv_environment() -> dict[str, str]:
    """uv does not read pip's configuration; the mirror that pip is configured with is passed on."""
    environment = dict(os.environ)
    if not environment.get("UV_DEFAULT_INDEX") and not environment.get("UV_INDEX_URL"):
        index = environment.get("PIP_INDEX_URL") or _pip_config("index-url")
        if index:
            environment["UV_DEFAULT_INDEX"] = index
    if not environment.get("UV_CACHE_DIR") and not _can_have_cache(environment):
        environment["UV_NO_CACHE"] = "1"  # uv fails where pip works without a cache
    return environment


def _can_have_cache(environment: dict[str, str]) -> bool:
    cache = Path(environment.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "uv"
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    return os.access(existing, os.W_OK)


def _pip_config(name: str) -> str:
    asked = subprocess.run(
        [str(PYTHON), "-m", "pip", "config", "get", f"global.{name}"],
        check=False,
        capture_output=True,
        text=True,
    )
    return asked.stdout.strip() if asked.returncode == 0 else ""


if __name__ == "__main__":
    sys.exit(main())
