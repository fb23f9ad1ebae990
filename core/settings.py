"""The one Settings object: every URL, key and limit, read from the environment once at start.

Owns what may be configured and refuses combinations that would lose money or leak a key.
It must not be imported as a global: main builds it and passes it down.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

import msgspec
from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

FAL_KEY_PATTERN = re.compile(r"^FAL_AI_KEY_(\d+)$")

_STRIPE_KEY = re.compile(r"^(sk|rk)_(live|test)_\S+$")

CommaList = Annotated[tuple[str, ...], NoDecode]


class SettingsError(Exception):
    """The environment cannot be run with; the message names the variable and what to do."""


class Environment(StrEnum):
    DEVELOPMENT = "development"
    TEST = "test"
    PRODUCTION = "production"


class FalKey(msgspec.Struct, frozen=True):
    """One `FAL_AI_KEY_<n>`; keys without `_ACCOUNT` share the account called `default`."""

    name: str
    secret: SecretStr
    account: str


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_fal_keys(environ: Mapping[str, str]) -> tuple[FalKey, ...]:
    """`FAL_AI_KEY_1…N` in the order of their numbers, each with its `FAL_AI_KEY_<n>_ACCOUNT`."""
    numbered = sorted(
        (int(found.group(1)), name)
        for name, value in environ.items()
        if (found := FAL_KEY_PATTERN.match(name)) and value
    )
    return tuple(
        FalKey(
            name=name,
            secret=SecretStr(environ[name]),
            account=environ.get(f"{name}_ACCOUNT") or "default",
        )
        for _, name in numbered
    )


class Settings(BaseSettings):
    """Field names are the environment variables in lower case; `.env.example` explains each."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    app_env: Environment = Environment.PRODUCTION
    log_level: str = "INFO"

    database_url: SecretStr
    worker_database_url: SecretStr | None = None
    migration_database_url: SecretStr | None = None
    database_pool_size: int = Field(default=8, ge=1, le=100)
    redis_url: SecretStr
    redis_prefix: str = "jewelshot"

    supabase_url: str
    supabase_publishable_key: SecretStr = Field(
        validation_alias=AliasChoices("supabase_publishable_key", "supabase_anon_key")
    )
    supabase_secret_key: SecretStr = Field(
        validation_alias=AliasChoices("supabase_secret_key", "supabase_service_role_key")
    )
    supabase_jwt_secret: SecretStr | None = None
    supabase_jwt_issuer: str | None = None
    storage_bucket_uploads: str = "uploads"
    storage_bucket_results: str = "results"
    signed_url_seconds: int = Field(default=3600, ge=60, le=604_800)
    event_heartbeat_seconds: float = Field(default=15, gt=0)

    public_base_url: str
    site_url: str | None = None
    cors_allowed_origins: CommaList = ()
    trusted_proxies: CommaList = ()

    fal_queue_url: str = "https://queue.fal.run"
    fal_rest_url: str = "https://rest.fal.ai"
    fal_jwks_url: str = "https://rest.fal.ai/.well-known/jwks.json"
    fal_output_hosts: CommaList = ("fal.media", "*.fal.media")
    fal_keys: tuple[FalKey, ...] = ()

    provider_account_slots: int = Field(default=2, ge=1, le=5000)
    provider_webhooks: bool = True
    provider_polling: bool = True
    provider_submit_timeout_seconds: float = Field(default=60, gt=0)
    provider_poll_first_seconds: float | None = Field(default=None, gt=0)
    provider_poll_seconds_max: float = Field(default=15, gt=0)
    provider_attempts_max: int = Field(default=3, ge=1)
    provider_ambiguous_grace_seconds: float = Field(default=120, gt=0)
    provider_breaker_seconds: float = Field(default=60, gt=0)
    provider_cooldown_seconds: float = Field(default=5, gt=0)

    stripe_secret_key: SecretStr | None = None
    stripe_webhook_secrets: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(),
        validation_alias=AliasChoices("stripe_webhook_secrets", "stripe_webhook_secret"),
    )
    stripe_api_url: str | None = Field(
        default=None, validation_alias=AliasChoices("stripe_api_url", "stripe_api_base")
    )
    stripe_promotion_codes: bool = True
    stripe_invoices: bool = True
    stripe_tax: bool = False
    checkout_return_url: str | None = None

    rate_limits_enabled: bool = True
    rate_limit_user: str = "600/minute"
    rate_limit_ip: str = "1200/minute"
    rate_limit_auth: str = "30/5 minutes"
    rate_limit_mails: str = "6/hour"
    auth_answer_seconds: float = Field(default=0.4, ge=0, le=10)

    admin_dashboard_key: SecretStr | None = None
    internal_api_secret: SecretStr | None = None
    internal_api_secret_previous: SecretStr | None = None
    metrics_token: SecretStr | None = None

    worker_slots_pixels: int = Field(default=4, ge=1, le=200)
    worker_slots_provider: int = Field(default=24, ge=1, le=200)
    worker_slots_stripe: int = Field(default=24, ge=1, le=200)
    worker_slots_mail: int = Field(default=8, ge=1, le=200)
    worker_slots_deliver: int = Field(default=24, ge=1, le=200)
    worker_slots_default: int = Field(default=8, ge=1, le=200)
    worker_slots_background: int = Field(default=4, ge=1, le=200)
    worker_processes: int = Field(default=1, ge=1, le=64)
    worker_pixel_processes: int = Field(default=1, ge=1, le=16)
    task_lease_seconds: float = Field(default=60, gt=0)
    dispatch_tick_seconds: float = Field(default=1, gt=0)
    relay_tick_seconds: float = Field(default=1, gt=0)
    poll_tick_seconds: float = Field(default=0.5, gt=0)
    sweep_tick_seconds: float = Field(default=5, gt=0)
    shutdown_grace_seconds: float = Field(default=15, gt=0)

    @field_validator(
        "cors_allowed_origins",
        "trusted_proxies",
        "fal_output_hosts",
        "stripe_webhook_secrets",
        mode="before",
    )
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator(
        "supabase_url",
        "public_base_url",
        "fal_queue_url",
        "fal_rest_url",
        "stripe_api_url",
        mode="after",
    )
    @classmethod
    def _without_trailing_slash(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if urlsplit(value).scheme not in {"http", "https"}:
            raise ValueError("must be an http(s) URL")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _refuse_sandbox_in_production(self) -> Self:
        if self.app_env is not Environment.PRODUCTION:
            return self
        for name in ("supabase_url", "fal_queue_url", "fal_rest_url", "fal_jwks_url"):
            url: str = getattr(self, name)
            if is_loopback(url) or urlsplit(url).scheme != "https":
                raise ValueError(
                    f"{name.upper()} is {url!r}: production needs https and no loopback address; "
                    "set APP_ENV=development to run against the sandbox"
                )
        return self

    @model_validator(mode="after")
    def _guard_stripe_keys(self) -> Self:
        if self.stripe_secret_key is None:
            return self
        key = self.stripe_secret_key.get_secret_value()
        if _STRIPE_KEY.match(key) is None:
            raise ValueError("STRIPE_SECRET_KEY must be a secret or restricted key (sk_…, rk_…)")
        if self.stripe_is_live and self.stripe_api_url is not None:
            raise ValueError(
                "STRIPE_SECRET_KEY is a live key and STRIPE_API_URL points elsewhere: real money "
                "goes to Stripe only; remove STRIPE_API_URL or use a test key"
            )
        if self.is_production and not self.stripe_is_live:
            raise ValueError(
                "STRIPE_SECRET_KEY is a test key: production sells for real money; set a live key, "
                "or APP_ENV=development"
            )
        if self.is_production and not self.stripe_webhook_secrets:
            raise ValueError(
                "STRIPE_WEBHOOK_SECRETS is empty: payments would be noticed only by the scheduled "
                "sync; scripts.stripe_setup makes the endpoint and prints its secret"
            )
        return self

    @property
    def stripe_is_live(self) -> bool:
        key = self.stripe_secret_key.get_secret_value() if self.stripe_secret_key else ""
        return key.startswith(("sk_live_", "rk_live_"))

    @property
    def landing_url(self) -> str:
        """Where Stripe sends the buyer back to; the order's id is added."""
        return self.checkout_return_url or f"{self.public_base_url}/checkout/return"

    @property
    def jwt_issuer(self) -> str:
        return self.supabase_jwt_issuer or f"{self.supabase_url}/auth/v1"

    @property
    def jwks_url(self) -> str:
        return f"{self.supabase_url}/auth/v1/.well-known/jwks.json"

    @property
    def is_production(self) -> bool:
        return self.app_env is Environment.PRODUCTION


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from `environ` (default: the process environment).

    Raises: SettingsError, which names each wrong variable and never shows a secret's value.
    """
    source = dict(os.environ if environ is None else environ)
    values: dict[str, object] = {
        name.lower(): value
        for name, value in source.items()
        if value != "" and name.lower() != "fal_keys"
    }
    values["fal_keys"] = read_fal_keys(source)
    try:
        return Settings.model_validate(values)
    except ValueError as error:
        problems: list[Any] = getattr(error, "errors", list)()
        lines = [
            f"{'_'.join(str(part) for part in problem['loc']).upper()}: {problem['msg']}"
            for problem in problems
        ]
        raise SettingsError("settings: " + "; ".join(lines or [type(error).__name__])) from None
