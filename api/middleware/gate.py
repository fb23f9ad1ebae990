"""Per route, before the handler: the caller's claims, and the rate limits.

A bad token does not fail here: a route that needs no sign-in answers anyway, and one that does
raises the reason (api/identity.py). Until then such a caller counts as a network.

Routes state in `opt` what applies to them: `rate_limit=False` for none, or `rate_limit="auth"` for
further limits of that name (api/limits.py).
"""

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, RouteHandlerType, Scope, Send

from api.identity import RequestContext, context_in
from api.limits import RateLimits, refuse_unless_allowed
from api.resources import Resources
from core.errors import DomainError
from core.identity.tokens import TokenVerifier
from core.ratelimit import Decision


class Gate:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and scope["method"] != "OPTIONS":
            resources: Resources = scope["litestar_app"].state.resources
            context = context_in(scope)
            await self._authenticate(scope, context, resources.tokens)
            await self._limit(scope, context, resources.limits)
        await self._app(scope, receive, send)

    async def _authenticate(
        self, scope: Scope, context: RequestContext, tokens: TokenVerifier
    ) -> None:
        header = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        if header is None:
            return
        scheme, _, token = header.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            return
        try:
            context.claims = await tokens.verify(token.strip())
        except DomainError as refusal:
            context.refusal = refusal

    async def _limit(self, scope: Scope, context: RequestContext, limits: RateLimits) -> None:
        handler = scope["route_handler"]
        named = handler.opt.get("rate_limit")
        if named is False:
            return
        decision = await limits.count_request(
            user_id=context.claims.user_id if context.claims else None,
            client_ip=context.client_ip,
            named=named,
            route=scope["path_template"],
            is_public=_is_public(handler),
        )
        if decision is not None:
            context.headers.extend(_headers(decision))
            refuse_unless_allowed(decision)


def _is_public(handler: RouteHandlerType) -> bool:
    """Whether it answers without a token, as it says in `security`; pages do, and say nothing."""
    security = getattr(handler, "security", None) or ()
    return not any("bearer" in scheme for scheme in security)


def _headers(decision: Decision) -> list[tuple[bytes, bytes]]:
    """RateLimit fields of draft-ietf-httpapi-ratelimit-headers-10, and the older X- ones."""
    limit = decision.limit
    policy = f'"{limit.name}";q={limit.amount};w={limit.window_seconds}'
    state = f'"{limit.name}";r={decision.remaining};t={decision.reset_seconds}'
    return [
        (b"ratelimit-policy", policy.encode()),
        (b"ratelimit", state.encode()),
        (b"x-ratelimit-limit", b"%d" % limit.amount),
        (b"x-ratelimit-remaining", b"%d" % decision.remaining),
        (b"x-ratelimit-reset", b"%d" % decision.reset_seconds),
    ]
