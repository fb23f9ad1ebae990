"""What admins do with provider accounts."""

from typing import Annotated

import msgspec
from msgspec import Meta

from api.schemas.admin.audit import AuditReason


class CloseBreaker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why the account may be used again."""

    reason: Annotated[AuditReason, Meta(examples=["Topped up by hand."])]
