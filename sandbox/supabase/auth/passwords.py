"""Password hashes, `$scrypt$<log2 cost>$<salt>$<hash>`, and what counts as a weak password.

The platform uses bcrypt, which is not in the standard library; nobody but the Auth server reads
the column.
"""

import asyncio
import base64
import hashlib
import hmac
import secrets

from sandbox.supabase.auth.errors import AuthError, invalid

PASSWORD_BYTES_MAX = 72  # bcrypt's limit, so the platform refuses more


def check_strength(password: str, length_min: int) -> None:
    """Raises: AuthError."""
    if len(password.encode()) > PASSWORD_BYTES_MAX:
        raise invalid(f"Password cannot be longer than {PASSWORD_BYTES_MAX} characters")
    if len(password) < length_min:
        raise AuthError(
            422,
            "weak_password",
            f"Password should be at least {length_min} characters.",
            extra={"weak_password": {"reasons": ["length"]}},
        )


def _derive(password: str, salt: bytes, cost_log2: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=2**cost_log2, r=8, p=1, dklen=32)


async def hash_password(password: str, cost_log2: int) -> str:
    salt = secrets.token_bytes(16)
    derived = await asyncio.to_thread(_derive, password, salt, cost_log2)
    encoded = [base64.b64encode(part).decode() for part in (salt, derived)]
    return f"$scrypt${cost_log2}${encoded[0]}${encoded[1]}"


async def verify_password(password: str, stored: str | None) -> bool:
    """False for a hash of another scheme, and for no hash at all."""
    parts = (stored or "").split("$")
    if len(parts) != 5 or parts[1] != "scrypt":
        return False
    salt, expected = base64.b64decode(parts[3]), base64.b64decode(parts[4])
    derived = await asyncio.to_thread(_derive, password, salt, int(parts[2]))
    return hmac.compare_digest(derived, expected)
