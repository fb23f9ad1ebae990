"""What checkout needs of its process, and the buyer."""

import uuid

import msgspec

from core.db import Database, Scope
from core.payments.provider import PaymentProvider


class CheckoutContext(msgspec.Struct, frozen=True):
    """`db` signs in as the API; `landing_url` is where the provider sends the buyer back to."""

    db: Database
    provider: PaymentProvider
    landing_url: str


class Buyer(msgspec.Struct, frozen=True):
    user_id: uuid.UUID
    email: str | None
    scope: Scope
