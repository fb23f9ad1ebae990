"""Comparing secrets, and the security schemes that the OpenAPI document names."""

import hmac

from litestar.openapi.spec import Components, SecurityScheme
from pydantic import SecretStr

BEARER: list[dict[str, list[str]]] = [{"bearer": []}]
ADMIN: list[dict[str, list[str]]] = [{"bearer": []}, {"admin_key": []}]
INTERNAL: list[dict[str, list[str]]] = [{"internal_token": []}]
PUBLIC: list[dict[str, list[str]]] = [{}]


def is_one_of(offered: str, *secrets: SecretStr | None) -> bool:
    """Constant time in the offered value; a secret that is not set matches nothing."""
    given = offered.encode("utf-8", "surrogatepass")
    matches = [
        hmac.compare_digest(given, secret.get_secret_value().encode())
        for secret in secrets
        if secret is not None
    ]
    return any(matches)


COMPONENTS = Components(
    security_schemes={
        "bearer": SecurityScheme(
            type="http",
            scheme="bearer",
            bearer_format="JWT",
            description="The access token that sign-in, confirm or refresh answered.",
        ),
        "admin_key": SecurityScheme(
            type="apiKey",
            name="X-Admin-Key",
            security_scheme_in="header",
            description="Break-glass key of the operator. Off unless configured; each use alarms.",
        ),
        "metrics_token": SecurityScheme(
            type="http",
            scheme="bearer",
            description="METRICS_TOKEN, where the operator has set one.",
        ),
        "internal_token": SecurityScheme(
            type="apiKey",
            name="X-Internal-Token",
            security_scheme_in="header",
            description="Shared secret between our own services.",
        ),
    }
)
