"""Events of an account that its owner is told about."""

import uuid
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from core.people.events import AccountEventType


class AccountEventView(msgspec.Struct, frozen=True):
    """Something that happened to the account, once."""

    id: uuid.UUID
    type: AccountEventType
    text: Annotated[str, Meta(examples=["Your credits are running low: 5 left."])]
    payload: Annotated[
        dict[str, Any],
        Meta(
            description="The figures of the moment. Of `credits.*`: `available`, `reserved` and"
            " `low_credits`, the mark that counts as low."
        ),
    ]
    created_at: datetime
