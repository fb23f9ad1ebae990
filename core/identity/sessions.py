"""What follows a sign-in: the token is verified and the person's account is opened."""

import msgspec
import psycopg
import structlog

from core.db import Connection, Database, user_scope
from core.identity.supabase_auth import SignedIn
from core.identity.tokens import Claims, TokenVerifier
from core.people import service
from core.people.keys import PersonKeys

log = structlog.get_logger()


class SignInResult(msgspec.Struct, frozen=True):
    """`opening` is None when the database did not answer: a later request opens the account."""

    claims: Claims
    opening: service.Opening | None


async def complete_sign_in(
    db: Database,
    tokens: TokenVerifier,
    session: SignedIn,
    *,
    keys: PersonKeys,
    client_ip: str,
) -> SignInResult:
    """Opens the account of the signed-in person, with the sign-up credits of a new one.

    Raises: BadCredentialsError for a token that the sign-in service should not have issued.
    """
    claims = await tokens.verify(session.access_token)

    async def work(conn: Connection) -> service.Opening:
        return await service.open_account(conn, keys, client_ip)

    try:
        opening = await db.run(work, scope=user_scope(claims.payload))
    except psycopg.OperationalError as error:
        # The one-time link works only once, so the auth session is returned all the same.
        log.warning("accounts.not_opened", error=type(error).__name__)
        return SignInResult(claims, None)
    return SignInResult(claims, opening)
