"""What checkout needs of its process, and the buyer."""

import uuid
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from core.db import Database, Scope
from core.payments.deadline import Deadline
from core.payments.provider import PaymentProvider


class CheckoutContext(msgspec.Struct, frozen=True):
    """`db` signs in as the API; `landing_url` is where the provider sends the buyer back to;
    `deadline` is when the click is answered, whatever the provider does."""

    db: Database
    provider: PaymentProvider
    landing_url: str
    deadline: Deadline

    def landing_url_of(self, order_id: uuid.UUID, **more: str) -> str:
        """With the order's id, beside what the operator's own address carries."""
        parts = urlsplit(self.landing_url)
        query = [*parse_qsl(parts.query, keep_blank_values=True), ("order", str(order_id))]
        return urlunsplit(parts._replace(query=urlencode([*query, *more.items()])))


class Buyer(msgspec.Struct, frozen=True):
    user_id: uuid.UUID
    email: str | None
    scope: Scope
