"""/auth/confirm: where mailed links lead. Opening it changes nothing: scanners of mail open links,
and a token works once. Only the button, a POST, uses it up."""

from typing import Annotated, Any

import msgspec
import structlog
from litestar import Request, Response, Router, get, post
from litestar.params import FromQuery, QueryParameter, URLEncodedBody

from api import pages
from api.identity import context_of
from api.resources import AppResources, Resources
from api.schemas.auth import Password, TokenHash
from core.errors import DomainError, InvalidInputError, NotAllowedError
from core.identity import sessions
from core.identity.errors import AccessReason, BadCredentialsError
from core.identity.supabase_auth import LinkType, SignedIn

log = structlog.get_logger()

AnyRequest = Request[Any, Any, Any]
# After these the person needs a password of their own.
_ASKS_PASSWORD = frozenset({"recovery", "invite"})
_WORDS: dict[str, tuple[str, str, str]] = {
    "recovery": (
        "Choose a new password",
        "Eight characters at least; a few words are better than one.",
        "",
    ),
    "invite": ("Welcome to Jewelshot", "Choose a password to finish your account.", ""),
    "magiclink": ("Sign in", "Press the button to sign in.", "Sign in"),
    "email_change": (
        "Confirm your new address",
        "Press the button to confirm that this address is yours.",
        "Confirm the address",
    ),
}
_CONFIRM = (
    "Confirm your address",
    "One step left: press the button, and your account is ready.",
    "Confirm and open my account",
)
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
        return _failed("This link is not complete.", status_code=400)
    token_hash, kind = link
    title, lead, button = _WORDS.get(kind, _CONFIRM)
    if kind in _ASKS_PASSWORD:
        return _password_form(kind, token_hash=token_hash)
    return pages.render(
        "confirm.html",
        title=title,
        lead=lead,
        button=button,
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
        return _failed("This link is not complete.", status_code=400)
    token_hash, link_type = link
    try:
        if link_type in _ASKS_PASSWORD:
            return await _set_password(resources, data, token_hash, link_type)
        session = await resources.auth.confirm_link(token_hash, link_type)
        return await _confirmed(request, resources, session)
    except BadCredentialsError:
        return _failed("This link was used already, or its time is over.", status_code=401)
    except DomainError as error:
        log.warning("auth.confirm_page_failed", error=type(error).__name__)
        return _failed("That did not work just now.", status_code=503)


async def _confirmed(
    request: AnyRequest, resources: Resources, session: SignedIn | None
) -> Response[str]:
    if session is None:
        return _done(
            resources, "Almost done", "Now open the link in the mail to the other address."
        )
    context = context_of(request)
    welcome = await sessions.welcome(
        resources.db, resources.tokens, session, network=context.client_network
    )
    context.claims = welcome.claims
    granted = welcome.opening is not None and welcome.opening.granted
    lead = "Your address is confirmed."
    if granted and welcome.opening is not None:
        lead += f" {welcome.opening.credits} free credits are waiting in your account."
    return _done(resources, "You are in", lead)


async def _set_password(
    resources: Resources, data: ConfirmForm, token_hash: str, link_type: LinkType
) -> Response[str]:
    """The link's session first, then the password; a refused password keeps the session in the
    form, because the link itself is used up by then."""
    try:
        password = msgspec.convert(data.password, Password)
    except msgspec.ValidationError:
        return _password_form(
            link_type,
            token_hash=token_hash,
            session=data.session,
            error="Choose a password of at most 72 characters.",
        )
    access_token = data.session
    if not access_token:
        session = await resources.auth.confirm_link(token_hash, link_type)
        if session is None:
            raise BadCredentialsError(reason=AccessReason.OTP_EXPIRED)
        access_token = session.access_token
    claims = await resources.tokens.verify(access_token)
    try:
        await resources.auth.update_password(access_token, claims, password, None)
    except InvalidInputError as error:
        weak = error.reason is AccessReason.WEAK_PASSWORD
        return _password_form(
            link_type,
            token_hash=token_hash,
            session=access_token,
            error="That password is too easy to guess. Take a longer one."
            if weak
            else "That password cannot be used. Take another one.",
        )
    except NotAllowedError:
        return _failed(
            "Your account is protected by a second factor: change the password in the app.",
            status_code=403,
        )
    return _done(resources, "Password saved", "Sign in with your new password.")


def _read_link(token_hash: str, link_type: str) -> tuple[str, LinkType] | None:
    try:
        return msgspec.convert((token_hash, link_type), tuple[TokenHash, LinkType])
    except msgspec.ValidationError:
        return None


def _password_form(
    link_type: str, *, token_hash: str, session: str = "", error: str = ""
) -> Response[str]:
    title, lead, _ = _WORDS[link_type]
    return pages.render(
        "password.html",
        title=title,
        status_code=422 if error else 200,
        lead=lead,
        error_html=f'<p class="bad" role="alert">{pages.escape(error)}</p>' if error else "",
        token_hash=token_hash,
        type=link_type,
        session=session,
    )


def _done(resources: Resources, title: str, lead: str) -> Response[str]:
    site = resources.settings.site_url
    link = f'<a class="button" href="{pages.escape(site)}">Continue</a>' if site else ""
    return pages.render("done.html", title=title, lead=lead, link_html=link)


def _failed(lead: str, *, status_code: int) -> Response[str]:
    return pages.render(
        "failed.html",
        title="This did not work",
        status_code=status_code,
        lead=lead,
        hint="Ask for a new link where you signed up or signed in.",
    )


router = Router("/", route_handlers=[show_confirm_page, use_confirm_link])
