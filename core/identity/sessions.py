"""What follows a session: its token is verified and the person's account is opened."""

import msgspec
import psycopg
import structlog

from core.db import Connection, Database, user_scope
from core.identity.supabase_auth import SignedIn
from core.identity.tokens import Claims, TokenVerifier
from core.people import service

log = structlog.get_logger()


class Welcome(msgspec.Struct, frozen=True):
    """`opening` is None when the database did not answer: the next call of /v1/me opens it."""

    claims: Claims
    opening: service.Opening | None


async def welcome(
    db: Database, tokens: TokenVerifier, session: SignedIn, *, network: str
) -> Welcome:
    """Raises: BadCredentialsError for a token that the sign-in service should not have issued."""
    claims = await tokens.verify(session.access_token)

    async def work(conn: Connection) -> service.Opening:
        return await service.open_account(conn, network)

    try:
        opening = await db.run(work, scope=user_scope(claims.payload))
    except psycopg.OperationalError as error:
        # The one-time link or the password was good and may not work twice: keep the session.
        log.warning("accounts.not_opened", error=type(error).__name__)
        return Welcome(claims, None)
    return Welcome(claims, opening)
