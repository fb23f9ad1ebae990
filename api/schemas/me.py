"""The signed-in person."""

import datetime as dt
import uuid
from typing import Annotated

import msgspec
from msgspec import Meta


class BalanceView(msgspec.Struct, frozen=True):
    """Whole credits."""

    available: Annotated[int, Meta(description="Free to spend.", examples=[10])]
    reserved: Annotated[int, Meta(description="Held for work that has not ended.", examples=[0])]
    debt: Annotated[int, Meta(description="Owed after a reversed payment.", examples=[0])]


class WithheldView(msgspec.Struct, frozen=True):
    """Why the account came without the free credits of a new one."""

    reason: Annotated[
        str,
        Meta(
            description="`person_had_credits`, `disposable_address`, `network_limit`,"
            " `domain_limit` or `day_limit`.",
            examples=["network_limit"],
        ),
    ]
    detail: Annotated[str, Meta(examples=["All free credits of today are given."])]
    given_by: Annotated[
        str | None,
        Meta(
            description="What gives them after all: `purchase`, or nothing.", examples=["purchase"]
        ),
    ]


class Me(msgspec.Struct, frozen=True):
    """Who the access token belongs to, and what they can spend."""

    id: uuid.UUID
    email: str | None
    role: Annotated[str, Meta(description="`user` or `admin`.", examples=["user"])]
    aal: Annotated[
        str, Meta(description="`aal2` after a second factor.", examples=["aal1", "aal2"])
    ]
    created_at: Annotated[dt.datetime, Meta(description="When the account was opened.")]
    session_expires_at: dt.datetime
    balance: BalanceView
    free_credits_withheld: WithheldView | None
