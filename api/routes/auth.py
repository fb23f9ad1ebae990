"""/v1/auth: proxies Supabase Auth, with our limits and problems, and opens the account."""

import contextlib
import uuid
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import msgspec
import psycopg
from litestar import Request, Router, delete, get, post, put
from litestar.params import FromPath, JSONBody, QueryParameter

from api.http.pages import Page
from api.identity import (
    Auth,
    CurrentUser,
    bearer_token,
    context_of,
    note_factor,
    remember_network,
    require_claims,
)
from api.limits import FACTOR_CODE, MAILED_CODE, PASSWORD
from api.openapi import BEARER, PUBLIC
from api.problems import raises
from api.resources import AppResources, Limits, Resources
from api.schemas import auth as schemas
from core.errors import ConflictError, InvalidInputError, NotAllowedError, NotFoundError
from core.identity import sessions
from core.identity.errors import AccessReason, BadCredentialsError
from core.identity.passwords import change_password
from core.identity.supabase_auth import SignedIn, SignOutScope

AnyRequest = Request[Any, Any, Any]
Result = TypeVar("Result")

_LIMITED = {"rate_limit": "auth"}
_PUBLIC_ERRORS = raises(
    BadCredentialsError, NotAllowedError, InvalidInputError, public=True, body=True
)
_SIGN_UP_ERRORS = raises(NotAllowedError, InvalidInputError, ConflictError, public=True, body=True)
_MAIL_ERRORS = raises(NotAllowedError, InvalidInputError, public=True, body=True)
_USER_ERRORS = raises(NotAllowedError, InvalidInputError, ConflictError, NotFoundError, body=True)


@post(
    "/sign-up",
    status_code=200,
    operation_id="sign_up",
    summary="Make an account",
    description="Sends a mail with a link and a code. A known address gets the same answer.",
    security=PUBLIC,
    responses=_SIGN_UP_ERRORS,
    opt=_LIMITED,
)
async def sign_up(
    request: AnyRequest,
    data: JSONBody[schemas.SignUp],
    auth: Auth,
    resources: AppResources,
) -> schemas.SignUpResult:
    signed_up = await _send_mail(
        request, resources, "sign_up", data, lambda: auth.sign_up(data.email, data.password)
    )
    if signed_up is None or signed_up.session is None:
        return schemas.SignUpResult("confirmation_sent")
    return schemas.SignUpResult(
        "signed_in", await _session_view(request, resources, signed_up.session)
    )


async def _send_mail(
    request: AnyRequest,
    resources: Resources,
    kind: str,
    data: schemas.SignUp | schemas.Recover | schemas.Resend,
    send: Callable[[], Awaitable[Result]],
) -> Result | None:
    """Answers at the same time whether or not a mail goes out. None where that is not known."""
    client_ip = context_of(request).client_ip
    await resources.turnstile.check(data.captcha_token, action=kind, client_ip=client_ip)

    async def work() -> Result | None:
        async with resources.limits.mailing(kind, data.email, client_ip) as may_send:
            return await send() if may_send else None

    return await resources.even.wait(work(), what=f"auth.{kind}")


@post(
    "/confirm",
    status_code=200,
    operation_id="confirm",
    summary="Confirm an address with the mailed link or code",
    description="Signs in, opens the account and grants the sign-up credits, once per person.",
    security=PUBLIC,
    responses=_PUBLIC_ERRORS,
    opt=_LIMITED,
)
async def confirm(
    request: AnyRequest,
    data: JSONBody[schemas.Confirm],
    auth: Auth,
    resources: AppResources,
    limits: Limits,
) -> schemas.ConfirmResult:
    if data.token_hash is not None:
        session = await auth.confirm_link(data.token_hash, data.type)
    elif data.email is not None and data.code is not None:
        client_ip = context_of(request).client_ip
        async with resources.even.refusals(), limits.guessing(MAILED_CODE, data.email, client_ip):
            session = await auth.confirm_code(data.email, data.code, data.type)
    else:
        raise InvalidInputError(
            field="token_hash", reason=AccessReason.TOKEN_HASH_OR_EMAIL_AND_CODE_NEEDED
        )
    if session is None:
        return schemas.ConfirmResult("confirm_other_address")
    view = await _session_view(request, resources, session)
    await remember_network(request, require_claims(context_of(request)))
    return schemas.ConfirmResult("signed_in", view)


@post(
    "/sign-in",
    status_code=200,
    operation_id="sign_in",
    summary="Sign in with address and password",
    security=PUBLIC,
    responses=_PUBLIC_ERRORS,
    opt={"rate_limit": "sign_in"},
)
async def sign_in(
    request: AnyRequest,
    data: JSONBody[schemas.SignIn],
    auth: Auth,
    resources: AppResources,
    limits: Limits,
) -> schemas.SessionView:
    client_ip = context_of(request).client_ip
    async with resources.even.refusals(), limits.guessing(PASSWORD, data.email, client_ip):
        session = await auth.sign_in(data.email, data.password)
    return await _session_view(request, resources, session)


@post(
    "/refresh",
    status_code=200,
    operation_id="refresh_session",
    summary="Trade a refresh token for the next pair",
    description="A refresh token works once; using an old one again ends the session.",
    security=PUBLIC,
    responses=raises(
        BadCredentialsError,
        NotAllowedError,
        ConflictError,
        InvalidInputError,
        public=True,
        body=True,
    ),
    opt={"rate_limit": "refresh"},
)
async def refresh_session(
    request: AnyRequest, data: JSONBody[schemas.Refresh], auth: Auth, resources: AppResources
) -> schemas.SessionView:
    return await _session_view(request, resources, await auth.refresh(data.refresh_token))


@post(
    "/logout",
    status_code=204,
    operation_id="sign_out",
    summary="End this session, or others",
    description="Nothing is started, bought or changed with its access token any more. Until it"
    " expires, it still reads.",
    security=BEARER,
    responses=raises(NotAllowedError),
)
async def sign_out(
    request: AnyRequest,
    user: CurrentUser,  # noqa: ARG001  asking for it is what makes the route need a sign-in
    auth: Auth,
    which: Annotated[
        SignOutScope,
        QueryParameter(
            name="scope",
            description="`local`: this session; `others`: all but this one; `global`: all.",
        ),
    ] = "local",
) -> None:
    await auth.sign_out(bearer_token(request), which)


@post(
    "/recover",
    status_code=202,
    operation_id="recover",
    summary="Ask for a mail that lets you set a new password",
    security=PUBLIC,
    responses=_MAIL_ERRORS,
    opt=_LIMITED,
)
async def recover(
    request: AnyRequest, data: JSONBody[schemas.Recover], auth: Auth, resources: AppResources
) -> schemas.MailRequested:
    await _send_mail(request, resources, "recover", data, lambda: auth.recover(data.email))
    return schemas.MailRequested()


@post(
    "/resend",
    status_code=202,
    operation_id="resend_confirmation",
    summary="Ask for the confirmation mail again",
    security=PUBLIC,
    responses=_MAIL_ERRORS,
    opt=_LIMITED,
)
async def resend_confirmation(
    request: AnyRequest, data: JSONBody[schemas.Resend], auth: Auth, resources: AppResources
) -> schemas.MailRequested:
    await _send_mail(
        request, resources, "resend", data, lambda: auth.resend_confirmation(data.email)
    )
    return schemas.MailRequested()


@put(
    "/password",
    status_code=204,
    operation_id="update_password",
    summary="Set a new password",
    description="With the present password, or within an hour of a recovery link or a mailed code."
    " Ends all other sessions.",
    security=BEARER,
    responses=_USER_ERRORS,
    opt=_LIMITED,
)
async def update_password(
    request: AnyRequest,
    user: CurrentUser,
    data: JSONBody[schemas.NewPassword],
    auth: Auth,
    limits: Limits,
) -> None:
    async with limits.guessing(PASSWORD, str(user.claims.user_id), user.client_ip):
        await change_password(
            auth,
            bearer_token(request),
            user.claims,
            password=data.password,
            current_password=data.current_password,
        )


@post(
    "/mfa/factors",
    status_code=201,
    operation_id="enroll_factor",
    summary="Add an authenticator app",
    description="It counts once a first code was verified.",
    security=BEARER,
    responses=_USER_ERRORS,
    opt=_LIMITED,
)
async def enroll_factor(
    request: AnyRequest, user: CurrentUser, data: JSONBody[schemas.EnrollFactor], auth: Auth
) -> schemas.FactorView:
    factor = await auth.enroll_totp(bearer_token(request), user.claims, data.friendly_name)
    return schemas.FactorView(factor.id, factor.secret, factor.uri, factor.qr_code)


@get(
    "/mfa/factors",
    operation_id="list_factors",
    summary="My authenticator apps",
    description="After signing in again: whose code to ask for.",
    security=BEARER,
    responses=_USER_ERRORS,
    opt=_LIMITED,
)
async def list_factors(
    request: AnyRequest,
    user: CurrentUser,  # noqa: ARG001  asking for it is what makes the route need a sign-in
    auth: Auth,
) -> Page[schemas.OwnFactorView]:
    found = await auth.list_factors(bearer_token(request))
    return Page(msgspec.convert(found, list[schemas.OwnFactorView], from_attributes=True))


@post(
    "/mfa/challenge",
    status_code=200,
    operation_id="challenge_factor",
    summary="Begin to verify a code",
    security=BEARER,
    responses=_USER_ERRORS,
    opt=_LIMITED,
)
async def challenge_factor(
    request: AnyRequest, user: CurrentUser, data: JSONBody[schemas.ChallengeFactor], auth: Auth
) -> schemas.ChallengeView:
    challenge = await auth.challenge(bearer_token(request), user.claims, data.factor_id)
    return schemas.ChallengeView(challenge.id, challenge.expires_at)


@post(
    "/mfa/verify",
    status_code=200,
    operation_id="verify_factor",
    summary="Verify a code; the session becomes aal2",
    security=BEARER,
    responses=_USER_ERRORS,
    opt=_LIMITED,
)
async def verify_factor(
    request: AnyRequest,
    user: CurrentUser,
    data: JSONBody[schemas.VerifyFactor],
    auth: Auth,
    resources: AppResources,
) -> schemas.SessionView:
    async with resources.limits.guessing(FACTOR_CODE, str(user.claims.user_id), user.client_ip):
        session = await auth.verify_factor(
            bearer_token(request),
            user.claims,
            factor_id=data.factor_id,
            challenge_id=data.challenge_id,
            code=data.code,
        )
    view = await _session_view(request, resources, session)
    with contextlib.suppress(psycopg.OperationalError):  # the next look of theirs is noted
        await note_factor(resources.db, require_claims(context_of(request)))
    return view


@delete(
    "/mfa/factors/{factor_id:uuid}",
    status_code=204,
    operation_id="remove_factor",
    summary="Remove an authenticator app",
    security=BEARER,
    responses=_USER_ERRORS,
    opt=_LIMITED,
)
async def remove_factor(
    request: AnyRequest,
    user: CurrentUser,
    auth: Auth,
    factor_id: FromPath[uuid.UUID],
) -> None:
    await auth.remove_factor(bearer_token(request), user.claims, factor_id)


async def _session_view(
    request: AnyRequest, resources: Resources, session: SignedIn
) -> schemas.SessionView:
    context = context_of(request)
    signed_in = await sessions.complete_sign_in(
        resources.db,
        resources.tokens,
        session,
        keys=resources.person_keys,
        client_ip=context.client_ip,
    )
    claims, opening = signed_in.claims, signed_in.opening
    context.claims = claims  # the log line names who signed in
    return schemas.SessionView(
        access_token=session.access_token,
        refresh_token=session.refresh_token,
        expires_in=session.expires_in,
        user=schemas.SessionUser(claims.user_id, claims.email, claims.aal),
        account=None
        if opening is None
        else schemas.AccountView(opening.opened, opening.granted, opening.credits, opening.reason),
    )


router = Router(
    "/v1/auth",
    tags=["Auth"],
    route_handlers=[
        sign_up,
        confirm,
        sign_in,
        refresh_session,
        sign_out,
        recover,
        resend_confirmation,
        update_password,
        enroll_factor,
        list_factors,
        challenge_factor,
        verify_factor,
        remove_factor,
    ],
)
