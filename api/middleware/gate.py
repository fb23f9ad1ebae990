"""Per route, before the handler: who is calling, and whether they may call this often.

A bad token does not fail here: a route that needs no sign-in answers anyway, and one that does
raises what was found out (api/identity.py). Until then such a caller counts as an address.

Routes say in `opt` what holds for them: `rate_limit=False` for none, or `rate_limit="auth"` for
a further limit of that name, counted per caller and route.
"""

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from api import context
from api.resources import Resources
from core.errors import DomainError, RateLimitedError
from core.ratelimit import Decision


class Gate:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and scope["method"] != "OPTIONS":
            resources: Resources = scope["litestar_app"].state.resources
            await self._authenticate(scope, resources)
            if resources.settings.rate_limits_enabled:
                await self._limit(scope, resources)
        await self._app(scope, receive, send)

    async def _authenticate(self, scope: Scope, resources: Resources) -> None:
        header = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        if header is None:
            return
        scheme, _, token = header.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            return
        known = context.of_scope(scope)
        try:
            known.claims = await resources.tokens.verify(token.strip())
        except DomainError as refusal:
            known.refusal = refusal

    async def _limit(self, scope: Scope, resources: Resources) -> None:
        opt = scope["route_handler"].opt
        named = opt.get("rate_limit")
        if named is False:
            return
        known = context.of_scope(scope)
        if known.claims is not None:
            subject = f"user:{known.claims.user_id}"
            checks = [(resources.limits["user"], subject)]
        else:
            subject = f"ip:{known.client_ip}"
            checks = [(resources.limits["ip"], subject)]
        if named is not None:
            checks.append((resources.limits[named], f"{subject}:{scope['path_template']}"))
        decision = await resources.limiter.hit(checks)
        known.headers.extend(_headers(decision))
        if not decision.allowed:
            raise RateLimitedError(
                retry_after_seconds=decision.retry_after_seconds, policy=decision.limit.name
            )


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
