"""Whether the provider takes our key: what readiness says beside the line of the log."""

from core.db import Database
from core.payments import queries
from core.payments.provider import PaymentProviderError, ProviderCredentialsError


async def note_key(db: Database, error: PaymentProviderError | None) -> None:
    """Records that the provider has refused our key, or, without an error, that it took it."""
    if error is None or isinstance(error, ProviderCredentialsError):
        is_refused = error is not None
        await db.run(lambda conn: queries.note_provider_key(conn, is_refused=is_refused))
