"""What needs no key: the signing keys, health, settings, and the providers that are not offered."""

from typing import Any, NoReturn

from litestar import Response, get

from sandbox.supabase.auth.errors import invalid
from sandbox.supabase.auth.service import TheAuth

_PROVIDERS = (
    "anonymous_users", "apple", "azure", "bitbucket", "discord", "facebook", "figma", "github",
    "gitlab", "google", "kakao", "keycloak", "linkedin_oidc", "notion", "phone", "slack_oidc",
    "spotify", "twitch", "twitter", "workos", "zoom",
)  # fmt: skip


@get("/.well-known/jwks.json", sync_to_thread=False)
def jwks(auth: TheAuth) -> Response[dict[str, Any]]:
    return Response(auth.keys.jwks(), headers={"Cache-Control": "public, max-age=600"})


@get("/.well-known/openid-configuration", sync_to_thread=False)
def openid_configuration(auth: TheAuth) -> dict[str, Any]:
    issuer = auth.config.issuer
    return {
        "issuer": issuer,
        "jwks_uri": f"{issuer}/.well-known/jwks.json",
        "userinfo_endpoint": f"{issuer}/user",
        "token_endpoint": f"{issuer}/token",
        "authorization_endpoint": f"{issuer}/authorize",
    }


@get("/health", sync_to_thread=False)
def health() -> dict[str, str]:
    return {
        "version": "sandbox",
        "name": "GoTrue",
        "description": "GoTrue is a user registration and authentication API",
    }


@get("/settings", sync_to_thread=False)
def settings(auth: TheAuth) -> dict[str, Any]:
    return {
        "external": dict.fromkeys(_PROVIDERS, False) | {"email": True},
        "disable_signup": not auth.config.signup_enabled,
        "mailer_autoconfirm": auth.config.autoconfirm,
        "phone_autoconfirm": False,
        "sms_provider": "",
        "saml_enabled": False,
    }


@get("/authorize", sync_to_thread=False)
def authorize() -> NoReturn:
    raise invalid("Unsupported provider: provider is not enabled")
