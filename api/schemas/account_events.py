"""What a person should hear about their account."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from core.people.events import EventKind


class AccountEventView(msgspec.Struct, frozen=True):
    """Something that happened to the account, once."""

    id: int
    kind: EventKind
    text: Annotated[str, Meta(examples=["Your credits are running low: 5 left."])]
    detail: Annotated[
        dict[str, Any],
        Meta(
            description="The figures of the moment. Of `credits.*`: `available`, `reserved` and"
            " `low_credits`, the mark that counts as low."
        ),
    ]
    created_at: datetime
