"""Settings for a test: nothing outside answers unless the test says where."""

from pydantic import SecretStr

from core.settings import Environment, FalKey, Settings

# Port 9 is "discard" (RFC 863): nobody listens there, so a forgotten override fails at once.
NOWHERE = "http://127.0.0.1:9"


def build_settings(
    *,
    database_url: str,
    worker_database_url: str,
    redis_url: str,
    redis_prefix: str,
    **overrides: object,
) -> Settings:
    """`overrides` are fields of core.settings.Settings, in lower case."""
    values: dict[str, object] = {
        "app_env": Environment.TEST,
        "log_level": "WARNING",
        "database_url": database_url,
        "worker_database_url": worker_database_url,
        "redis_url": redis_url,
        "redis_prefix": redis_prefix,
        "supabase_url": NOWHERE,
        "supabase_publishable_key": "sb_publishable_test",
        "supabase_secret_key": "sb_secret_test",
        "public_base_url": "http://127.0.0.1:8000",
        "fal_queue_url": NOWHERE,
        "fal_rest_url": NOWHERE,
        "fal_jwks_url": f"{NOWHERE}/.well-known/jwks.json",
        "fal_output_hosts": ("127.0.0.1",),
        "fal_keys": (
            FalKey(name="FAL_AI_KEY_1", secret=SecretStr("test-key-1"), account="default"),
        ),
        "internal_api_secret": "test-internal-secret",
        "auth_answer_seconds": 0.0,
        "rate_limit_mails": "1000/hour",
    }
    return Settings.model_validate(values | overrides)
