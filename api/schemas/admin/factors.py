"""What admins do with second factors."""

from typing import Annotated

import msgspec
from msgspec import Meta


class ConfirmFactor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How you know that it is theirs."""

    reason: Annotated[
        str,
        Meta(
            description="Kept in the audit log.",
            min_length=3,
            max_length=500,
            examples=["Read the id to me on the telephone."],
        ),
    ]
