"""The caller of a request, and the guards.

    async def get_thing(user: CurrentUser, db: Db, thing_id: FromPath[UUID]) -> Thing:

`user: CurrentUser` makes a route need a sign-in, `admin: CurrentAdmin` an admin; both carry the
scope that its transaction must run in: `await db.run(work, scope=user.scope)`. A route that needs
an account says `guards=[account_guard]`, one under /internal/v1 `guards=[internal_guard]`.
"""

import hmac
import time
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import msgspec
import structlog
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency, Provide
from litestar.handlers import BaseRouteHandler
from litestar.params import SkipValidation
from pydantic import SecretStr

from api.resources import resources_of
from core.db import Database, Scope, admin_scope, user_scope
from core.errors import DomainError, NotAllowedError
from core.identity.acting import require_admin
from core.identity.errors import AccessReason, BadCredentialsError, NoIdentityError
from core.identity.factors import report_factor
from core.identity.supabase_auth import SupabaseAuth
from core.identity.tokens import Claims
from core.people.service import ensure_account
from core.ratelimit import Limit

if TYPE_CHECKING:
    from litestar import types

log = structlog.get_logger()

AnyRequest = Request[Any, Any, Any]
AnyConnection = ASGIConnection[Any, Any, Any, Any]

ADMIN_KEY_HEADER = "X-Admin-Key"
INTERNAL_TOKEN_HEADER = "X-Internal-Token"  # noqa: S105  the name of a header
ADMIN_KEY_LIMIT = Limit("admin-key", 10, 60)
_BREAK_GLASS_CLAIMS = {
    "sub": None,
    "role": "jewelshot_admin",
    "app_metadata": {"role": "admin"},
    "aal": "aal2",
    "break_glass": True,
}


class RequestContext(msgspec.Struct):
    """What is known of a request; one each, in `scope["state"]["context"]`.

    The edge makes it, the gate fills in `claims` or why there are none (`refusal`). `actor` is
    for logs; `headers` are added to the answer, whatever it is.
    """

    request_id: str
    client_ip: str
    started: float = msgspec.field(default_factory=time.perf_counter)
    claims: Claims | None = None
    refusal: DomainError | None = None
    actor: str | None = None
    headers: list[tuple[bytes, bytes]] = msgspec.field(default_factory=list)


def context_in(scope: "types.Scope") -> RequestContext:
    return cast("RequestContext", scope["state"]["context"])


def context_of(connection: AnyConnection) -> RequestContext:
    return context_in(connection.scope)


class User(msgspec.Struct, frozen=True):
    """A signed-in person."""

    claims: Claims
    scope: Scope
    request: RequestContext

    @property
    def client_ip(self) -> str:
        return self.request.client_ip


class Admin(msgspec.Struct, frozen=True):
    """An admin with a second factor, or the break-glass key; `actor` is for logs."""

    scope: Scope
    actor: str


# The names are those of the parameters. Nothing is validated again: we built it ourselves.
CurrentUser: TypeAlias = NamedDependency[SkipValidation[User]]  # user
CurrentAdmin: TypeAlias = NamedDependency[SkipValidation[Admin]]  # admin
Auth: TypeAlias = NamedDependency[SkipValidation[SupabaseAuth]]  # auth


def provide_user(request: AnyRequest) -> User:
    """Raises: NoIdentityError without a token, BadCredentialsError for a bad one."""
    context = context_of(request)
    claims = require_claims(context)
    return User(claims, user_scope(claims.payload), context)


def auth_for(connection: AnyConnection) -> SupabaseAuth:
    """The sign-in service, called in the name of the client's address, by which it counts."""
    return resources_of(connection).auth.called_from(context_of(connection).client_ip)


async def remember_network(connection: AnyConnection, claims: Claims) -> None:
    """After a sign-in by a mailed link: wrong guesses of others do not shut this network out."""
    if claims.email is not None:
        limits = resources_of(connection).limits
        await limits.remember_network(claims.email, context_of(connection).client_ip)


def require_claims(context: RequestContext) -> Claims:
    if context.claims is not None:
        return context.claims
    raise context.refusal or NoIdentityError()


def bearer_token(request: AnyRequest) -> str:
    """The raw token, to pass on to the sign-in service; `user` has verified it."""
    return request.headers["authorization"].partition(" ")[2].strip()


async def provide_admin(request: AnyRequest) -> Admin:
    """app_metadata.role = admin and aal2, both in the token and now; or the break-glass key, if
    there is one. The functions that an admin calls ask again.

    Raises: NoIdentityError, BadCredentialsError, NotAllowedError, RateLimitedError.
    """
    offered = request.headers.get(ADMIN_KEY_HEADER)
    if offered is not None:
        return await _break_glass(request, offered)
    context = context_of(request)
    claims = require_claims(context)
    if not claims.is_admin:
        raise NotAllowedError(reason=AccessReason.NOT_AN_ADMIN)
    if claims.aal != "aal2":
        raise NotAllowedError(reason=AccessReason.MFA_REQUIRED)
    scope = admin_scope(claims.payload)
    db = resources_of(request).db
    try:
        await db.run(require_admin, scope=scope)
    except NotAllowedError as error:
        if error.reason is AccessReason.FACTOR_NOT_CONFIRMED:
            await note_factor(db, claims)
        raise
    context.actor = f"admin:{claims.user_id}"
    return Admin(scope, context.actor)


async def note_factor(db: Database, claims: Claims) -> None:
    """Audits and alarms, once for each, that an admin uses a factor that nobody has confirmed."""
    if claims.is_admin and await db.run(report_factor, scope=user_scope(claims.payload)):
        log.error("admin.factor_not_confirmed", user_id=str(claims.user_id))


async def _break_glass(request: AnyRequest, offered: str) -> Admin:
    context = context_of(request)
    resources = resources_of(request)
    await resources.limits.check_always(ADMIN_KEY_LIMIT, context.client_ip)
    route = request.scope.get("path_template")
    if not is_one_of(offered, resources.settings.admin_dashboard_key):
        log.error("admin.break_glass_refused", client_ip=context.client_ip, route=route)
        raise BadCredentialsError(reason=AccessReason.ADMIN_KEY)
    log.critical("admin.break_glass_used", client_ip=context.client_ip, route=route)
    context.actor = "break-glass"
    return Admin(admin_scope(_BREAK_GLASS_CLAIMS), context.actor)


async def account_guard(connection: AnyConnection, _: BaseRouteHandler) -> None:
    """Opens the account of a person who did not sign in by /v1/auth, which opens it itself.

    A guard and no dependency: where one dependency refuses a request, the framework cancels the
    others, and a cancelled transaction costs its connection.

    Raises: NoIdentityError, BadCredentialsError; NotAllowedError while the address is not verified.
    """
    context = context_of(connection)
    claims = require_claims(context)
    resources = resources_of(connection)
    if claims.user_id not in resources.account_holders:
        await resources.db.run(
            lambda conn: ensure_account(conn, resources.person_keys, context.client_ip),
            scope=user_scope(claims.payload),
        )
        resources.account_holders.add(claims.user_id)


def internal_guard(connection: AnyConnection, _: BaseRouteHandler) -> None:
    """Either of two secrets, so that they can be rotated.  Raises: BadCredentialsError."""
    settings = resources_of(connection).settings
    offered = connection.headers.get(INTERNAL_TOKEN_HEADER)
    secrets = (settings.internal_api_secret, settings.internal_api_secret_previous)
    if offered is None or not is_one_of(offered, *secrets):
        raise BadCredentialsError(reason=AccessReason.INTERNAL_TOKEN)
    context_of(connection).actor = "internal"


def is_one_of(offered: str, *secrets: SecretStr | None) -> bool:
    """Constant time in the offered value; a secret that is not set matches nothing."""
    given = offered.encode("utf-8", "surrogatepass")
    matches = [
        hmac.compare_digest(given, secret.get_secret_value().encode())
        for secret in secrets
        if secret is not None
    ]
    return any(matches)


def provide_auth(request: AnyRequest) -> SupabaseAuth:
    return auth_for(request)


DEPENDENCIES = {
    "user": Provide(provide_user, sync_to_thread=False),
    "admin": Provide(provide_admin),
    "auth": Provide(provide_auth, sync_to_thread=False),
}
