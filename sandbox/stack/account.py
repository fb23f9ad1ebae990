"""Which operating system account runs PostgreSQL, and what that account can reach.

PostgreSQL refuses to run as root. As root we therefore run it as an unprivileged account that
exists already, and give that account nothing but its own data directory: permissions of folders
that we did not make are never touched.
"""

import os
import pwd
import stat
from pathlib import Path
from typing import Any

import msgspec

from sandbox.stack.errors import StackError

# The first that exists. No account is made: a developer's tool should leave none behind.
_CANDIDATES = ("postgres", "nobody")


class Account(msgspec.Struct, frozen=True):
    """An unprivileged account that root starts the server as."""

    uid: int
    gid: int
    name: str

    def process_options(self) -> dict[str, Any]:
        """Arguments for subprocess that make a child run as this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def server_account(data_dir: Path) -> Account | None:
    """The account to run the server as; None: our own.

    Existing data stay with their owner, so that an account installed later changes nothing.
    """
    if os.geteuid() != 0:
        return None
    if data_dir.exists():
        owner = data_dir.stat()
        if owner.st_uid != 0:
            return _from_uid(owner.st_uid)
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(uid=entry.pw_uid, gid=entry.pw_gid, name=name)
    raise StackError(
        "PostgreSQL does not run as root, and this system has neither an account 'postgres' nor "
        "'nobody'; run as an ordinary user"
    )


def _from_uid(uid: int) -> Account:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise StackError(
            f"the local PostgreSQL data belong to user id {uid}, which has no account here; "
            "run as their owner, or delete the state directory"
        ) from None
    return Account(uid=uid, gid=entry.pw_gid, name=entry.pw_name)


def can_reach(account: Account, path: Path) -> bool:
    """Whether `account` may traverse every parent of `path` and read and enter or run `path`."""
    path = path.resolve()
    try:
        return all(_allows(account, parent, 1) for parent in path.parents) and _allows(
            account, path, 5
        )
    except FileNotFoundError:
        return False


def can_traverse(account: Account, directory: Path) -> bool:
    """Whether `account` may pass through `directory` and all its parents."""
    directory = directory.resolve()
    return all(_allows(account, each, 1) for each in (directory, *directory.parents))


def _allows(account: Account, path: Path, wanted: int) -> bool:
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid == account.uid:
        mode >>= 6
    elif status.st_gid == account.gid:
        mode >>= 3
    return mode & wanted == wanted
