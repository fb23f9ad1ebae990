"""/auth/confirm: where mailed links lead. Opening it changes nothing: scanners of mail open links,
and a token works once. Only the button, a POST, uses it up."""

from typing import Annotated, Any

import msgspec
import structlog
from litestar import Request, Response, Router, get, post
from litestar.params import FromQuery, QueryParameter, URLEncodedBody

from api import pages
from api.identity import auth_for, context_of, remember_network
from api.resources import AppResources, Resources
from api.schemas.auth import Password, TokenHash
from core.errors import DomainError, InvalidInputError, NotAllowedError
from core.identity import sessions
from core.identity.errors import AccessReason, BadCredentialsError
from core.identity.supabase_auth import LinkType, SignedIn
from core.words.say import say

log = structlog.get_logger()

AnyRequest = Request[Any, Any, Any]
# After these the person needs a password of their own.
_ASKS_PASSWORD = frozenset({"recovery", "invite"})
_LIKE = {"signup": "email"}
_SESSION_CHARACTERS_MAX = 16_384


class ConfirmForm(msgspec.Struct, frozen=True, kw_only=True):
    token_hash: str = ""
    type: str = "email"
    password: str | None = None
    session: Annotated[str, msgspec.Meta(max_length=_SESSION_CHARACTERS_MAX)] = ""


@get("/auth/confirm", include_in_schema=False, media_type="text/html")
async def show_confirm_page(
    token_hash: FromQuery[str] = "",
    link_type: Annotated[str, QueryParameter(name="type")] = "email",
) -> Response[str]:
    link = _read_link(token_hash, link_type)
    if link is None:
        return _failed("incomplete_link", status_code=400)
    token_hash, kind = link
    if kind in _ASKS_PASSWORD:
        return _password_form(kind, token_hash=token_hash)
    words = f"page.confirm.{_LIKE.get(kind, kind)}"
    return pages.render(
        "confirm.html",
        title=say(f"{words}.title"),
        lead=say(f"{words}.lead"),
        button=say(f"{words}.button"),
        token_hash=token_hash,
        type=kind,
    )


@post(
    "/auth/confirm",
    status_code=200,
    include_in_schema=False,
    media_type="text/html",
    opt={"rate_limit": "auth"},
)
async def use_confirm_link(
    request: AnyRequest,
    data: URLEncodedBody[ConfirmForm],
    resources: AppResources,
) -> Response[str]:
    link = _read_link(data.token_hash, data.type)
    if link is None:
        return _failed("incomplete_link", status_code=400)
    token_hash, link_type = link
    try:
        if link_type in _ASKS_PASSWORD:
            return await _set_password(request, resources, data, token_hash, link_type)
        session = await auth_for(request).confirm_link(token_hash, link_type)
        return await _confirmed(request, resources, session)
    except BadCredentialsError:
        return _failed("used_link", status_code=401)
    except DomainError as error:
        log.warning("auth.confirm_page_failed", error=type(error).__name__)
        return _failed("not_now", status_code=503)


async def _confirmed(
    request: AnyRequest, resources: Resources, session: SignedIn | None
) -> Response[str]:
    if session is None:
        return _done(resources, "other_address")
    context = context_of(request)
    signed_in = await sessions.complete_sign_in(
        resources.db,
        resources.tokens,
        session,
        keys=resources.person_keys,
        client_ip=context.client_ip,
    )
    context.claims = signed_in.claims
    await remember_network(request, signed_in.claims)
    if signed_in.opening is not None and signed_in.opening.granted:
        return _done(resources, "confirmed_with_credits", credits=signed_in.opening.credits)
    return _done(resources, "confirmed")


async def _set_password(
    request: AnyRequest,
    resources: Resources,
    data: ConfirmForm,
    token_hash: str,
    link_type: LinkType,
) -> Response[str]:
    """The link's session first, then the password; a refused password keeps the session in the
    form, because the link itself is used up by then."""
    auth = auth_for(request)
    try:
        password = msgspec.convert(data.password, Password)
    except msgspec.ValidationError:
        return _password_form(
            link_type,
            token_hash=token_hash,
            session=data.session,
            fault="too_long",
        )
    access_token = data.session
    if not access_token:
        session = await auth.confirm_link(token_hash, link_type)
        if session is None:
            raise BadCredentialsError(reason=AccessReason.OTP_EXPIRED)
        access_token = session.access_token
    claims = await resources.tokens.verify(access_token)
    try:
        await auth.update_password(access_token, claims, password, None)
    except InvalidInputError as error:
        is_weak = error.reason is AccessReason.WEAK_PASSWORD
        return _password_form(
            link_type,
            token_hash=token_hash,
            session=access_token,
            fault="weak" if is_weak else "refused",
        )
    except NotAllowedError:
        return _failed("second_factor", status_code=403)
    await remember_network(request, claims)
    return _done(resources, "password_saved")


def _read_link(token_hash: str, link_type: str) -> tuple[str, LinkType] | None:
    try:
        return msgspec.convert((token_hash, link_type), tuple[TokenHash, LinkType])
    except msgspec.ValidationError:
        return None


def _password_form(
    link_type: str, *, token_hash: str, session: str = "", fault: str | None = None
) -> Response[str]:
    words = f"page.confirm.{link_type}"
    error_html = ""
    if fault is not None:
        text = pages.escape(say(f"page.confirm.password_fault.{fault}"))
        error_html = f'<p class="bad" role="alert">{text}</p>'
    return pages.render(
        "password.html",
        title=say(f"{words}.title"),
        status_code=200 if fault is None else 422,
        lead=say(f"{words}.lead"),
        error_html=error_html,
        token_hash=token_hash,
        type=link_type,
        session=session,
    )


def _done(resources: Resources, end: str, **figures: Any) -> Response[str]:
    site = resources.settings.site_url
    text = say("page.confirm.done.continue")
    link = f'<a class="button" href="{pages.escape(site)}">{text}</a>' if site else ""
    words = f"page.confirm.done.{end}"
    return pages.render(
        "done.html",
        title=say(f"{words}.title"),
        lead=say(f"{words}.lead", **figures),
        link_html=link,
    )


def _failed(fault: str, *, status_code: int) -> Response[str]:
    return pages.render(
        "failed.html",
        title=say("page.confirm.failed.title"),
        status_code=status_code,
        lead=say(f"page.confirm.failed.{fault}"),
        hint=say("page.confirm.failed.hint"),
    )


router = Router("/", route_handlers=[show_confirm_page, use_confirm_link])
