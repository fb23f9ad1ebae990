"""Setting a new password takes more than a session: a stolen token is not to become the account."""

import time

from core.errors import NotAllowedError
from core.identity.errors import AccessReason, BadCredentialsError
from core.identity.supabase_auth import SupabaseAuth
from core.identity.tokens import Claims

# How a session begins that a mail to the address has opened, and how long that proves the mailbox.
_BY_MAIL = frozenset({"recovery", "otp", "magiclink", "invite"})
_BY_MAIL_SECONDS = 3600


async def change_password(
    auth: SupabaseAuth,
    access_token: str,
    claims: Claims,
    *,
    password: str,
    current_password: str | None,
) -> None:
    """With the present password, or within an hour of a mailed link or code.

    Auth asks for the present password only where a project says so, so we have it checked.

    Raises: NotAllowedError without it; BadCredentialsError for a wrong one; what Auth refuses.
    """
    if not _came_by_mail(claims):
        if current_password is None or claims.email is None:
            raise NotAllowedError(reason=AccessReason.CURRENT_PASSWORD_REQUIRED)
        await _check(auth, claims.email, current_password)
    await auth.update_password(access_token, claims, password, current_password)


async def _check(auth: SupabaseAuth, email: str, password: str) -> None:
    try:
        opened = await auth.sign_in(email, password)
    except BadCredentialsError as error:
        if error.reason is not AccessReason.INVALID_CREDENTIALS:
            raise
        raise BadCredentialsError(reason=AccessReason.CURRENT_PASSWORD_INVALID) from error
    await auth.sign_out(opened.access_token, "local")


def _came_by_mail(claims: Claims) -> bool:
    shown = claims.payload.get("amr")
    entries = shown if isinstance(shown, list) else []
    since = time.time() - _BY_MAIL_SECONDS
    return any(
        isinstance(entry.get("method"), str)
        and entry["method"] in _BY_MAIL
        and isinstance(entry.get("timestamp"), int | float)
        and entry["timestamp"] > since
        for entry in entries
        if isinstance(entry, dict)
    )
