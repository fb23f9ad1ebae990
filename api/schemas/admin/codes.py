"""Promo and gift codes for the admins who make them."""

import uuid
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from api.http.once import ShownOnce
from core.codes.types import CODES_MAX, CodeKind, CodeStatus

CREDITS_MAX = 10_000
USES_MAX = 100_000
DAYS_MAX = 3650

# What may be null carries its limits inside: msgspec takes none on a union.
Moment = Annotated[
    datetime, Meta(description="From then on it is not redeemed. Null: never.", tz=True)
]
Days = Annotated[
    int,
    Meta(
        description="How long its credits live, from redemption. Null: for ever.",
        ge=1,
        le=DAYS_MAX,
        examples=[90],
    ),
]
Campaign = Annotated[str, Meta(min_length=1, max_length=100, examples=["spring-fair-2027"])]
Note = Annotated[
    str,
    Meta(
        description="For admins only.",
        max_length=500,
        examples=["For the stand at the spring fair."],
    ),
]


class CreateCodes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Terms, and how many codes to make on them."""

    kind: CodeKind
    credits: Annotated[
        int,
        Meta(description="For each person, whole credits.", ge=1, le=CREDITS_MAX, examples=[25]),
    ]
    count: Annotated[int, Meta(description="How many codes.", ge=1, le=CODES_MAX, examples=[3])] = 1
    uses_max: Annotated[
        int,
        Meta(
            description="How many people may redeem each code; each of them once.",
            ge=1,
            le=USES_MAX,
            examples=[1],
        ),
    ] = 1
    expires_at: Moment | None = None
    credits_expire_after_days: Days | None = None
    campaign: Campaign | None = None
    note: Note | None = None


class NewCodeView(msgspec.Struct, frozen=True):
    """A code, in the only answer that ever shows it."""

    id: uuid.UUID
    code: Annotated[ShownOnce, Meta(examples=["JSG-7K3M-9QXT-4R2C-8HWD"])]
    prefix: Annotated[
        str, Meta(description="What is shown of it from now on.", examples=["JSG-7K3M"])
    ]


class NewCodesView(msgspec.Struct, frozen=True):
    """Codes that were made together. They are not stored: note them down now."""

    issue_id: uuid.UUID
    codes: list[NewCodeView]


class CodeView(msgspec.Struct, frozen=True, kw_only=True):
    """A code without the code."""

    id: uuid.UUID
    issue_id: Annotated[uuid.UUID, Meta(description="Codes that were made together.")]
    prefix: Annotated[str, Meta(examples=["JSG-7K3M"])]
    kind: CodeKind
    status: CodeStatus
    credits: Annotated[int, Meta(examples=[25])]
    uses: Annotated[int, Meta(description="How many people redeemed it.", examples=[4])]
    uses_max: Annotated[int, Meta(examples=[20])]
    expires_at: datetime | None
    credits_expire_after_days: int | None
    campaign: str | None
    note: str | None
    created_by: Annotated[str, Meta(description="The admin's id, or `break-glass`.")]
    created_at: datetime
    disabled_at: datetime | None


class CodeRedemptionView(msgspec.Struct, frozen=True, kw_only=True):
    """One person's use of a code."""

    user_id: uuid.UUID
    lot_id: uuid.UUID
    credits: int
    paid_debt: Annotated[int, Meta(description="How many of them paid a debt.")]
    credits_expire_at: Annotated[
        datetime | None, Meta(description="As it was when they were given. Null: never.")
    ]
    redeemed_at: datetime


class DisabledIssueView(msgspec.Struct, frozen=True):
    issue_id: uuid.UUID
    disabled: Annotated[int, Meta(description="Codes that were not disabled before.")]
