"""The one Settings object: every URL, key and limit, read from the environment once at start.

Owns what may be configured and refuses combinations that would lose money or leak a key.
It must not be imported as a global: main builds it and passes it down.
"""

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from pydantic import AliasChoices, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from core import production
from core.ratelimit import parse_limit

FAL_KEY_PATTERN = re.compile(r"^FAL_AI_KEY_(\d+)$")

_SIGNING_SECRET = re.compile(r"^whsec_\S+$")
_STRIPE_KEY = re.compile(r"^(sk|rk)_(live|test)_\S+$")

CommaList = Annotated[tuple[str, ...], NoDecode]
Value = TypeVar("Value")

_NOT_FOR_SERVICES = {
    "MIGRATION_DATABASE_URL": "the role postgres has no place in a service; migrate from the"
    " pipeline (WORKER_DEPLOYMENT.md) and remove it here"
}


class SettingsError(Exception):
    """The environment cannot be run with; the message names the variable and what to do."""


class Environment(StrEnum):
    DEVELOPMENT = "development"
    TEST = "test"
    PRODUCTION = "production"


class TaxBehavior(StrEnum):
    """Whether the price of a pack holds the tax. https://docs.stripe.com/tax/tax-behavior"""

    EXCLUSIVE = "exclusive"
    INCLUSIVE = "inclusive"


class Service(StrEnum):
    API = "api"
    WORKER = "worker"


PEPPER_MISSING = (
    "is missing: without it, who got free credits could be read from the database by anybody with a"
    " list of addresses; set 32 random characters or more, and keep them: they recognise people who"
    " come back"
)
# What a service cannot do without in production, though the other one can.
_NEEDED = {
    Service.API: {"PERSON_KEY_PEPPER": PEPPER_MISSING},
    Service.WORKER: {"WORKER_DATABASE_URL": "is missing: a worker signs in with it"},
}


class FalKey(msgspec.Struct, frozen=True):
    """One `FAL_AI_KEY_<n>`; keys without `_ACCOUNT` share the account called `default`."""

    name: str
    secret: SecretStr
    account: str


def is_loopback(url: str) -> bool:
    return production.is_loopback_host(urlsplit(url).hostname or "")


def _refuse(
    info: ValidationInfo, value: Value | None, rule: Callable[[Value], str | None]
) -> Value | None:
    """`value`, unless `rule` has something against it in production.

    A field at a time, so that a start names all that is wrong at once.
    """
    is_production = info.data.get("app_env", Environment.PRODUCTION) is Environment.PRODUCTION
    if is_production and value is not None and (problem := rule(value)) is not None:
        raise ValueError(problem)
    return value


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


NO_PROXIES = "none"
OWN_SECRETS = (
    "admin_dashboard_key",
    "internal_api_secret",
    "internal_api_secret_previous",
    "metrics_token",
)


def _is_live(key: SecretStr | None) -> bool:
    return key is not None and key.get_secret_value().startswith(("sk_live_", "rk_live_"))


class Settings(BaseSettings):
    """Field names are the environment variables in lower case; `.env.example` explains each."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    app_env: Environment = Environment.PRODUCTION
    log_level: str = "INFO"

    database_url: SecretStr
    worker_database_url: SecretStr | None = None
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
    trusted_proxies: CommaList = Field(default=(), validate_default=True)

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
        validate_default=True,
        validation_alias=AliasChoices("stripe_webhook_secrets", "stripe_webhook_secret"),
    )
    stripe_api_url: str | None = Field(
        default=None, validation_alias=AliasChoices("stripe_api_url", "stripe_api_base")
    )
    stripe_promotion_codes: bool = False
    stripe_invoices: bool = True
    stripe_tax: bool = False
    stripe_tax_behavior: TaxBehavior = TaxBehavior.EXCLUSIVE
    checkout_return_url: str | None = None

    turnstile_secret_key: SecretStr | None = None
    turnstile_verify_url: str = "https://challenges.cloudflare.com/turnstile/v0/siteverify"

    rate_limits_enabled: bool = True
    rate_limit_user: str = "600/minute"
    rate_limit_ip: str = "1200/minute"
    rate_limit_auth: str = "30/5 minutes"
    rate_limit_mails: str = "6/hour"
    auth_answer_seconds: float = Field(default=0.4, ge=0, le=10)

    uploads_unfinished_max: int = Field(default=40, ge=1)
    uploads_unfinished_max_buyers: int = Field(default=400, ge=1)
    uploads_kept_max: int = Field(default=200, ge=1)
    uploads_kept_max_buyers: int = Field(default=20_000, ge=1)
    uploads_kept_megabytes_max: int = Field(default=1_000, ge=1)
    uploads_kept_megabytes_max_buyers: int = Field(default=100_000, ge=1)
    uploads_in_hand_max: int = Field(default=64, ge=1)
    uploads_in_hand_max_person: int = Field(default=2, ge=1)
    upload_megapixels_per_minute: int = Field(default=500, ge=1)

    person_key_pepper: SecretStr | None = None
    person_key_peppers_previous: Annotated[tuple[SecretStr, ...], NoDecode] = ()

    admin_dashboard_key: SecretStr | None = None
    internal_api_secret: SecretStr | None = None
    internal_api_secret_previous: SecretStr | None = None
    metrics_token: SecretStr | None = None

    worker_slots_pixels: int = Field(default=4, ge=1, le=200)
    worker_slots_large_pixels: int = Field(default=2, ge=1, le=200)
    worker_slots_provider: int = Field(default=24, ge=1, le=200)
    worker_slots_stripe: int = Field(default=24, ge=1, le=200)
    worker_slots_mail: int = Field(default=8, ge=1, le=200)
    worker_slots_deliver: int = Field(default=24, ge=1, le=200)
    worker_slots_default: int = Field(default=8, ge=1, le=200)
    worker_slots_background: int = Field(default=4, ge=1, le=200)
    worker_processes: int = Field(default=1, ge=1, le=64)
    worker_pixel_processes: int = Field(default=1, ge=1, le=16)
    worker_photo_processes: int = Field(default=1, ge=1, le=16)
    worker_large_photo_processes: int = Field(default=1, ge=1, le=16)
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
        "person_key_peppers_previous",
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

    @field_validator("site_url", "checkout_return_url", mode="after")
    @classmethod
    def _a_web_address(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                raise ValueError("must be a whole http(s) URL")
        return value

    @field_validator("public_base_url", "site_url", "checkout_return_url", mode="after")
    @classmethod
    def _with_tls(cls, value: str | None, info: ValidationInfo) -> str | None:
        return _refuse(info, value, production.not_https)

    @field_validator(
        "supabase_url",
        "fal_queue_url",
        "fal_rest_url",
        "fal_jwks_url",
        "turnstile_verify_url",
        mode="after",
    )
    @classmethod
    def _no_stand_in(cls, value: str, info: ValidationInfo) -> str | None:
        return _refuse(info, value, production.stand_in)

    @field_validator("database_url", "worker_database_url", "redis_url", mode="after")
    @classmethod
    def _encrypted(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        rule = (
            production.plain_redis if info.field_name == "redis_url" else production.plain_database
        )
        return _refuse(info, value, lambda secret: rule(secret.get_secret_value()))

    @field_validator(*OWN_SECRETS, "supabase_jwt_secret", "person_key_pepper", mode="after")
    @classmethod
    def _strong(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        same = [name for name in OWN_SECRETS if value is not None and info.data.get(name) == value]

        def weak(secret: SecretStr) -> str | None:
            if same:
                return f"is the same as {same[0].upper()}: who has one has both; make another"
            return production.weak_secret(secret.get_secret_value())

        return _refuse(info, value, weak)

    @field_validator("turnstile_secret_key", mode="after")
    @classmethod
    def _no_test_secret(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        return _refuse(info, value, lambda key: production.test_captcha(key.get_secret_value()))

    @field_validator("trusted_proxies", mode="after")
    @classmethod
    def _named_proxies(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if value == (NO_PROXIES,):
            return ()
        for text in value:
            try:
                ipaddress.ip_network(text, strict=False)
            except ValueError:
                raise ValueError("must be networks such as 10.0.0.0/8, or `none`") from None
        _refuse(info, value, production.unnamed_proxies)
        return value

    @field_validator("fal_output_hosts", mode="after")
    @classmethod
    def _named_hosts(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...] | None:
        return _refuse(info, value, production.wide_hosts)

    @field_validator("cors_allowed_origins", mode="after")
    @classmethod
    def _safe_origins(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...] | None:
        return _refuse(info, value, production.open_origins)

    @field_validator("rate_limits_enabled", mode="after")
    @classmethod
    def _limited(cls, value: bool, info: ValidationInfo) -> bool | None:
        return _refuse(
            info,
            value,
            lambda enabled: None if enabled else "guessing would be free; remove it, or set true",
        )

    @field_validator(
        "rate_limit_user", "rate_limit_ip", "rate_limit_auth", "rate_limit_mails", mode="after"
    )
    @classmethod
    def _a_rate(cls, value: str) -> str:
        parse_limit("this", value)
        return value

    @field_validator("stripe_secret_key", mode="after")
    @classmethod
    def _a_stripe_key(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None and _STRIPE_KEY.match(value.get_secret_value()) is None:
            raise ValueError("must be a secret or restricted key (sk_…, rk_…)")
        is_production = info.data.get("app_env") is Environment.PRODUCTION
        if _is_live(value) and not is_production:
            raise ValueError(
                "is a live key, which takes real money: set APP_ENV=production, or use a test key"
            )
        return _refuse(
            info,
            value,
            lambda key: (
                None
                if _is_live(key)
                else "is a test key: production sells for real money; set a live key, or"
                " APP_ENV=development"
            ),
        )

    @field_validator("stripe_webhook_secrets", mode="after")
    @classmethod
    def _heard_of(
        cls, value: tuple[SecretStr, ...], info: ValidationInfo
    ) -> tuple[SecretStr, ...] | None:
        if any(_SIGNING_SECRET.match(secret.get_secret_value()) is None for secret in value):
            raise ValueError(
                "must be signing secrets of webhook endpoints, whsec_…, separated by commas: with"
                " anything else every webhook would be refused"
            )
        sells = info.data.get("stripe_secret_key") is not None
        return _refuse(
            info,
            value,
            lambda secrets: (
                "is empty: payments would be noticed only by the scheduled sync;"
                " scripts.stripe_setup makes the endpoint and prints its secret"
                if sells and not secrets
                else None
            ),
        )

    @field_validator("stripe_api_url", mode="after")
    @classmethod
    def _live_goes_to_stripe(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and _is_live(info.data.get("stripe_secret_key")):
            raise ValueError(
                "STRIPE_SECRET_KEY is a live key and this points elsewhere: real money goes to"
                " Stripe only; remove it or use a test key"
            )
        return value

    @property
    def stripe_is_live(self) -> bool:
        return _is_live(self.stripe_secret_key)

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


def load_settings(
    environ: Mapping[str, str] | None = None, *, service: Service | None = None
) -> Settings:
    """Settings from `environ` (default: the process environment).

    `service`: what serves; in production it does not hold the migrating role's credentials.

    Raises: SettingsError, which names each wrong variable and never shows a secret's value.
    """
    source = dict(os.environ if environ is None else environ)
    values: dict[str, object] = {
        name.lower(): value
        for name, value in source.items()
        if value != "" and name.lower() != "fal_keys"
    }
    values["fal_keys"] = read_fal_keys(source)
    lines = []
    if service is not None and source.get("APP_ENV") in {None, "", Environment.PRODUCTION}:
        named = {name.upper() for name, value in source.items() if value}
        lines += [f"{name}: {told}" for name, told in _NEEDED[service].items() if name not in named]
        lines += [f"{name}: {told}" for name, told in _NOT_FOR_SERVICES.items() if name in named]
    try:
        settings = Settings.model_validate(values)
    except ValueError as error:
        problems: list[Any] = getattr(error, "errors", list)()
        lines += [_line(problem) for problem in problems] or [type(error).__name__]
    if lines:
        raise SettingsError("\n  ".join(["settings:", *lines]))
    return settings


def _line(problem: Mapping[str, Any]) -> str:
    name = "_".join(str(part) for part in problem["loc"]).upper()
    return f"{name}: {problem['msg'].removeprefix('Value error, ')}"
