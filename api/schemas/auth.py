"""Sign-up, sign-in, sessions, recovery and the second factor."""

import datetime as dt
import uuid
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from core.identity.supabase_auth import LinkType

# `$` alone also matches before a newline at the end, in Python and not in the document's readers.
# bcrypt, which the sign-in service uses, reads 72 bytes.
PASSWORD_CHARACTERS_MAX = 72

Email = Annotated[
    str,
    Meta(
        # Keyboards of phones put a blank behind a word that they complete.
        pattern=r"^ *[^@\s\x00-\x1f\x7f]+@[^@\s\x00-\x1f\x7f]+ *$(?!\n)",
        max_length=254,
        examples=["ada@example.com"],
    ),
]
Password = Annotated[
    str,
    Meta(
        pattern=r"^[^\x00]+$",
        max_length=PASSWORD_CHARACTERS_MAX,
        examples=["correct horse battery"],
    ),
]
TokenHash = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_-]{8,256}$(?!\n)",
        examples=["7d5b7b1964cf5d388340a7f04f1dbb5eeb6c7b52ef8270e1737a58d0"],
    ),
]
OneTimeCode = Annotated[str, Meta(pattern=r"^[0-9]{6,10}$(?!\n)", examples=["305805"])]
RefreshToken = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,512}$(?!\n)", examples=["v2h7k3n5q9xw"])
]


CaptchaToken = Annotated[
    str,
    Meta(
        max_length=2048,
        description="Of Cloudflare Turnstile's widget, solved for the action `sign_up`, `recover`"
        " or `resend`. Only where the operator has set Turnstile up.",
        examples=["0.kYzW3bHk"],
    ),
]


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    def __post_init__(self) -> None:
        email = getattr(self, "email", None)
        if email is not None:
            msgspec.structs.force_setattr(self, "email", email.strip(" "))


class SignUp(_Request, frozen=True):
    email: Email
    password: Password
    captcha_token: CaptchaToken | None = None


class SignIn(_Request, frozen=True):
    email: Email
    password: Password


class Confirm(_Request, frozen=True):
    """Either `token_hash` from the mailed link, or `email` and `code`."""

    type: LinkType = "email"
    token_hash: TokenHash | None = None
    email: Email | None = None
    code: OneTimeCode | None = None


class Refresh(_Request, frozen=True):
    refresh_token: RefreshToken


class Recover(_Request, frozen=True):
    email: Email
    captcha_token: CaptchaToken | None = None


class Resend(_Request, frozen=True):
    email: Email
    captcha_token: CaptchaToken | None = None


class NewPassword(_Request, frozen=True):
    """`current_password` may be left out within an hour of a mailed link or code."""

    password: Password
    current_password: Password | None = None


class EnrollFactor(_Request, frozen=True):
    friendly_name: Annotated[
        str, Meta(max_length=64, pattern=r"^[^\x00-\x1f]*$(?!\n)", examples=["phone"])
    ] = ""


class ChallengeFactor(_Request, frozen=True):
    factor_id: uuid.UUID


class VerifyFactor(_Request, frozen=True):
    factor_id: uuid.UUID
    challenge_id: uuid.UUID
    code: OneTimeCode


class SessionUser(msgspec.Struct, frozen=True):
    id: uuid.UUID
    email: str | None
    aal: Annotated[str, Meta(examples=["aal1"])]


class AccountView(msgspec.Struct, frozen=True):
    """What this sign-in did to the account."""

    opened: bool
    granted: Annotated[bool, Meta(description="Whether the sign-up credits came in just now.")]
    credits: Annotated[int, Meta(description="How many, in whole credits.", examples=[10])]
    reason: Annotated[
        str | None,
        Meta(description="Why none were granted.", examples=["already_granted"]),
    ] = None


class SessionView(msgspec.Struct, frozen=True):
    """Send `access_token` as a bearer token; trade `refresh_token` for the next pair, once."""

    access_token: str
    refresh_token: str
    expires_in: Annotated[int, Meta(description="Seconds.", examples=[3600])]
    user: SessionUser
    account: AccountView | None
    token_type: Literal["bearer"] = "bearer"  # noqa: S105  the scheme's name


class SignUpResult(msgspec.Struct, frozen=True):
    """The same for a known address as for a new one; only the mail differs."""

    status: Literal["confirmation_sent", "signed_in"]
    session: SessionView | None = None


class ConfirmResult(msgspec.Struct, frozen=True):
    """`confirm_other_address`: a changed address waits for the link in the other mail."""

    status: Literal["signed_in", "confirm_other_address"]
    session: SessionView | None = None


class MailRequested(msgspec.Struct, frozen=True):
    """The same whether or not the address is known."""

    status: Literal["sent_if_known"] = "sent_if_known"


class FactorView(msgspec.Struct, frozen=True):
    """Show the QR code or the secret once, then verify with a first code."""

    id: uuid.UUID
    secret: Annotated[str, Meta(examples=["JBSWY3DPEHPK3PXP"])]
    uri: Annotated[str, Meta(examples=["otpauth://totp/Jewelshot:ada@example.com?secret=…"])]
    qr_code: Annotated[str, Meta(description="A data URL of an SVG picture.")]


class OwnFactorView(msgspec.Struct, frozen=True):
    """One of your second factors."""

    id: uuid.UUID
    friendly_name: Annotated[str, Meta(examples=["phone"])]
    factor_type: Annotated[str, Meta(examples=["totp"])]
    status: Annotated[str, Meta(description="`verified` or `unverified`.", examples=["verified"])]
    created_at: dt.datetime


class ChallengeView(msgspec.Struct, frozen=True):
    id: uuid.UUID
    expires_at: dt.datetime
