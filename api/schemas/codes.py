"""Promo and gift codes for the people who redeem them."""

import uuid
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from core.codes.types import CodeKind


class RedeemCode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A code as somebody typed it."""

    code: Annotated[
        str,
        Meta(
            description="Capitals, hyphens and spaces make no difference; O is read as 0, and I"
            " and L as 1.",
            min_length=1,
            max_length=100,
            examples=["JSG-7K3M-9QXT-4R2C-8HWD"],
        ),
    ]


class RedemptionView(msgspec.Struct, frozen=True, kw_only=True):
    """What the code gave you. The same code answers the same again."""

    kind: CodeKind
    credits: Annotated[int, Meta(description="Whole credits.", examples=[25])]
    paid_debt: Annotated[int, Meta(description="How many of them paid a debt.", examples=[0])]
    lot_id: Annotated[uuid.UUID, Meta(description="The lot in `GET /v1/credits`.")]
    credits_expire_at: Annotated[datetime | None, Meta(description="Null: never.")]
    redeemed_at: datetime
