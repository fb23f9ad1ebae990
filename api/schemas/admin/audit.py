"""What every act of an admin is given with."""

from typing import Annotated

from msgspec import Meta

# Each act shows an example of its own: Annotated[AuditReason, Meta(examples=[…])].
AuditReason = Annotated[
    str, Meta(description="Why, for the audit log.", min_length=3, max_length=500)
]
