"""Accounts: the row that anchors a user's money, opened when the person is first seen verified."""

import datetime as dt

import msgspec

from core.db import Connection, fetch_one
from core.errors import NotAllowedError, NotFoundError
from core.people.errors import OpeningReason
from core.people.keys import PersonKeys, tell_who_calls


class Opening(msgspec.Struct, frozen=True):
    """Whether the account is open, and whether this call granted the sign-up credits.

    `reason` says why none were granted.
    """

    opened: bool
    granted: bool
    credits: int
    reason: OpeningReason | None = None


class Account(msgspec.Struct, frozen=True):
    """`withheld` is why a new account got no free credits, None where it got them.

    Units: whole credits.
    """

    created_at: dt.datetime
    available: int
    reserved: int
    debt: int
    withheld: OpeningReason | None = None


async def open_account(conn: Connection, keys: PersonKeys, client_ip: str) -> Opening:
    """Open the account of a verified person; the first time, grant the sign-up credits.

    Raises: NoIdentityError outside a user's scope.
    Replay: grants nothing more.
    """
    await tell_who_calls(conn, keys, client_ip)
    row = await fetch_one(conn, "select app.open_account() as opening")
    assert row is not None
    return msgspec.convert(row["opening"], Opening)


async def find_account(conn: Connection) -> Account | None:
    row = await fetch_one(
        conn,
        # A lot past its time is not spendable, though the hourly expiry may not have posted it.
        "select person.created_at, account.reserved, account.debt, withheld.reason as withheld,"
        " account.available - coalesce(("
        "   select sum(lot.remaining) from app.credit_lots as lot"
        "   where lot.user_id = account.user_id and lot.remaining > 0"
        "     and lot.expires_at <= app.now()"
        " ), 0)::bigint as available"
        " from app.credit_accounts as account"
        " join app.users as person on person.id = account.user_id"
        " left join app.signup_withheld as withheld on withheld.user_id = account.user_id"
        " where account.user_id = app.current_user_id()",
    )
    return None if row is None else msgspec.convert(row, Account)


async def get_account(conn: Connection) -> Account:
    """Raises: NotFoundError where none is open."""
    account = await find_account(conn)
    if account is None:
        raise NotFoundError(kind="credit_account")
    return account


async def ensure_account(conn: Connection, keys: PersonKeys, client_ip: str) -> None:
    """Opens the account of a person who did not sign in by /v1/auth, if it is not open yet.

    Raises: NotAllowedError while the address is not verified.
    """
    if await find_account(conn) is None:
        opening = await open_account(conn, keys, client_ip)
        if not opening.opened:
            raise NotAllowedError(reason=opening.reason or OpeningReason.ACCOUNT_NOT_OPEN)
