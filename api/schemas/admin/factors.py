"""What admins do with second factors."""

from typing import Annotated

import msgspec
from msgspec import Meta

from api.schemas.admin.audit import AuditReason


class ConfirmFactor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How you know that it is theirs."""

    reason: Annotated[AuditReason, Meta(examples=["Read the id to me on the telephone."])]
