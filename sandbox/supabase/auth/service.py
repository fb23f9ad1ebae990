"""What every route of the Auth stand-in shares: its database, its keys, its mail, its limits."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar

import msgspec
from litestar.di import NamedDependency
from litestar.params import SkipValidation

from core.db import Connection, Database
from sandbox.supabase.auth.errors import KeptError
from sandbox.supabase.auth.limits import Limiter
from sandbox.supabase.auth.mails import AuthMail, HookSender, to_mailbox
from sandbox.supabase.config import SupabaseConfig
from sandbox.supabase.keystore import KeyStore
from sandbox.supabase.mailbox import Mailbox

Result = TypeVar("Result")


class Unit(msgspec.Struct):
    """One transaction and the mail to send with it."""

    conn: Connection
    mails: list[AuthMail] = []


class Auth(msgspec.Struct, frozen=True):
    config: SupabaseConfig
    db: Database
    keys: KeyStore
    mailbox: Mailbox
    hook: HookSender | None
    limiter: Limiter

    async def run(self, work: Callable[[Unit], Awaitable[Result]]) -> Result:
        """One transaction. The send-email hook runs inside it, as on the platform: when the hook
        fails, nothing was signed up. The mailbox gets the mail after the commit.
        """

        async def attempt(conn: Connection) -> tuple[Result | KeptError, list[AuthMail]]:
            unit = Unit(conn=conn)
            outcome: Result | KeptError
            try:
                outcome = await work(unit)
            except KeptError as error:
                outcome = error
            for mail in unit.mails:
                self.limiter.check_email()
                if self.hook is not None:
                    await self.hook.send(mail)
            return outcome, unit.mails

        outcome, mails = await self.db.run(attempt)
        for mail in mails:
            for message in to_mailbox(mail, self.config):
                self.mailbox.deliver(message)
        if isinstance(outcome, KeptError):
            raise outcome
        return outcome


TheAuth: TypeAlias = NamedDependency[SkipValidation[Auth]]  # the parameter is called `auth`
