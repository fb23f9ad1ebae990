"""What admins do with provider accounts."""

from typing import Annotated

import msgspec
from msgspec import Meta


class CloseBreaker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why the account may be used again."""

    reason: Annotated[
        str,
        Meta(
            description="Kept in the audit log.",
            min_length=3,
            max_length=500,
            examples=["Topped up by hand."],
        ),
    ]
