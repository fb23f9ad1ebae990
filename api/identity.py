"""What a handler may ask for, and the guards of the doors.

    async def get_thing(user: CurrentUser, db: Db, thing_id: FromPath[UUID]) -> Thing:

`user: CurrentUser` makes a route need a sign-in, `admin: CurrentAdmin` an admin; both carry the
scope that its transaction must run in: `await db.run(work, scope=user.scope)`.
"""

import re
from typing import Any, TypeAlias

import msgspec
import structlog
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency, Provide
from litestar.handlers import BaseRouteHandler
from litestar.params import SkipValidation

from api import context, security
from api.limits import AddressLimit
from api.resources import Resources, resources_of
from core.db import Database, Scope, admin_scope, user_scope
from core.errors import (
    BadCredentialsError,
    NoIdentityError,
    NotAllowedError,
    RateLimitedError,
)
from core.identity.supabase_auth import SupabaseAuth
from core.identity.tokens import Claims
from core.ratelimit import Limit, RateLimiter
from core.settings import Settings

log = structlog.get_logger()

AnyRequest = Request[Any, Any, Any]

ADMIN_KEY_HEADER = "X-Admin-Key"
INTERNAL_TOKEN_HEADER = "X-Internal-Token"  # noqa: S105  the name of a header
ADMIN_KEY_LIMIT = Limit("admin-key", 10, 60)
PREFER_WAIT_SECONDS_MAX = 25
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?", re.IGNORECASE)
_BREAK_GLASS_CLAIMS = {
    "sub": None,
    "role": "jewelshot_admin",
    "app_metadata": {"role": "admin"},
    "aal": "aal2",
    "break_glass": True,
}


class User(msgspec.Struct, frozen=True):
    """A signed-in person. `network` is the hash that free credits are limited by."""

    claims: Claims
    scope: Scope
    client_ip: str


class Admin(msgspec.Struct, frozen=True):
    """An admin with a second factor, or the break-glass key; `actor` is for logs."""

    scope: Scope
    actor: str


# The names are those of the parameters. Nothing is validated again: we built it ourselves.
CurrentUser: TypeAlias = NamedDependency[SkipValidation[User]]  # user
CurrentAdmin: TypeAlias = NamedDependency[SkipValidation[Admin]]  # admin
Db: TypeAlias = NamedDependency[SkipValidation[Database]]  # db
AppSettings: TypeAlias = NamedDependency[SkipValidation[Settings]]  # settings
Limiter: TypeAlias = NamedDependency[SkipValidation[RateLimiter]]  # limiter
AddressLimiter: TypeAlias = NamedDependency[SkipValidation[AddressLimit]]  # address_limit
Auth: TypeAlias = NamedDependency[SkipValidation[SupabaseAuth]]  # auth
AppResources: TypeAlias = NamedDependency[SkipValidation[Resources]]  # resources


def provide_user(request: AnyRequest) -> User:
    """Raises: NoIdentityError without a token, BadCredentialsError for a bad one."""
    known = context.of(request)
    return User(
        claims=require_claims(known),
        scope=user_scope(require_claims(known).payload),
        client_ip=known.client_ip,
    )


def require_claims(known: context.RequestContext) -> Claims:
    if known.claims is not None:
        return known.claims
    raise known.refusal or NoIdentityError()


def bearer_token(request: AnyRequest) -> str:
    """The raw token, to hand on to the sign-in service; `user` has verified it."""
    return request.headers["authorization"].partition(" ")[2].strip()


async def provide_admin(request: AnyRequest) -> Admin:
    """app_metadata.role = admin and aal2; or the break-glass key, if there is one.

    Raises: NoIdentityError, BadCredentialsError, NotAllowedError, RateLimitedError.
    """
    offered = request.headers.get(ADMIN_KEY_HEADER)
    if offered is not None:
        return await _break_glass(request, offered)
    known = context.of(request)
    claims = require_claims(known)
    if not claims.is_admin:
        raise NotAllowedError(reason="not_an_admin")
    if claims.aal != "aal2":
        raise NotAllowedError(reason="mfa_required")
    known.actor = f"admin:{claims.user_id}"
    return Admin(scope=admin_scope(claims.payload), actor=known.actor)


async def _break_glass(request: AnyRequest, offered: str) -> Admin:
    known = context.of(request)
    resources = resources_of(request)
    decision = await resources.limiter.hit([(ADMIN_KEY_LIMIT, f"ip:{known.client_ip}")])
    if not decision.allowed:
        raise RateLimitedError(
            retry_after_seconds=decision.retry_after_seconds, policy=decision.limit.name
        )
    route = request.scope.get("path_template")
    if not security.is_one_of(offered, resources.settings.admin_dashboard_key):
        log.error("admin.break_glass_refused", client_ip=known.client_ip, route=route)
        raise BadCredentialsError(reason="admin_key")
    log.critical("admin.break_glass_used", client_ip=known.client_ip, route=route)
    known.actor = "break-glass"
    return Admin(scope=admin_scope(_BREAK_GLASS_CLAIMS), actor=known.actor)


def internal_guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Guard of /internal/v1: either of two secrets, so that they can be rotated.

    Raises: BadCredentialsError.
    """
    settings = resources_of(connection).settings
    offered = connection.headers.get(INTERNAL_TOKEN_HEADER)
    secrets = (settings.internal_api_secret, settings.internal_api_secret_previous)
    if offered is None or not security.is_one_of(offered, *secrets):
        raise BadCredentialsError(reason="internal_token")
    context.of(connection).actor = "internal"


def parse_prefer_wait(prefer: str | None) -> int:
    """Seconds of `Prefer: wait=n` (RFC 7240), at most 25; 0 without it."""
    found = _WAIT.search(prefer) if prefer else None
    return min(int(found.group(1)), PREFER_WAIT_SECONDS_MAX) if found else 0


def provide_resources(request: AnyRequest) -> Resources:
    return resources_of(request)


def provide_db(request: AnyRequest) -> Database:
    return resources_of(request).db


def provide_settings(request: AnyRequest) -> Settings:
    return resources_of(request).settings


def provide_limiter(request: AnyRequest) -> RateLimiter:
    return resources_of(request).limiter


def provide_address_limit(request: AnyRequest) -> AddressLimit:
    return resources_of(request).address_limit


def provide_auth(request: AnyRequest) -> SupabaseAuth:
    return resources_of(request).auth


DEPENDENCIES = {
    "resources": Provide(provide_resources, sync_to_thread=False),
    "db": Provide(provide_db, sync_to_thread=False),
    "settings": Provide(provide_settings, sync_to_thread=False),
    "limiter": Provide(provide_limiter, sync_to_thread=False),
    "address_limit": Provide(provide_address_limit, sync_to_thread=False),
    "auth": Provide(provide_auth, sync_to_thread=False),
    "user": Provide(provide_user, sync_to_thread=False),
    "admin": Provide(provide_admin),
}
