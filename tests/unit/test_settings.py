"""Combinations of settings that would lose money or leak a key do not start."""

import pytest

from core.settings import Settings, SettingsError, load_settings

HERE = {
    "APP_ENV": "development",
    "DATABASE_URL": "postgresql://a@127.0.0.1/db",
    "REDIS_URL": "redis://127.0.0.1",
    "SUPABASE_URL": "https://project.supabase.co",
    "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_x",
    "SUPABASE_SECRET_KEY": "sb_secret_x",
    "PUBLIC_BASE_URL": "https://api.example.com",
}
PRODUCTION = {**HERE, "APP_ENV": "production"}
SHOP = {"STRIPE_SECRET_KEY": "sk_live_x", "STRIPE_WEBHOOK_SECRETS": "whsec_x"}


def load(environ: dict[str, str], **more: str) -> Settings:
    return load_settings(environ | more)


def test_a_shop_in_production() -> None:
    settings = load(PRODUCTION, **SHOP)
    assert settings.stripe_is_live
    assert settings.landing_url == "https://api.example.com/checkout/return"


def test_without_a_key_nothing_is_for_sale() -> None:
    assert load(PRODUCTION).stripe_secret_key is None


@pytest.mark.parametrize("key", ["sk_live_x", "rk_live_x"])
@pytest.mark.parametrize("environ", [HERE, PRODUCTION])
@pytest.mark.parametrize("name", ["STRIPE_API_URL", "STRIPE_API_BASE"])
def test_a_live_key_goes_to_stripe_only(environ: dict[str, str], key: str, name: str) -> None:
    with pytest.raises(SettingsError, match="live key"):
        load(environ, **{**SHOP, "STRIPE_SECRET_KEY": key, name: "http://127.0.0.1:9"})


@pytest.mark.parametrize("key", ["sk_test_x", "rk_test_x"])
def test_a_test_key_is_not_for_production(key: str) -> None:
    assert not load(HERE, STRIPE_SECRET_KEY=key).stripe_is_live
    with pytest.raises(SettingsError, match="test key"):
        load(PRODUCTION, **{**SHOP, "STRIPE_SECRET_KEY": key})


def test_a_shop_in_production_hears_of_payments() -> None:
    with pytest.raises(SettingsError, match="STRIPE_WEBHOOK_SECRETS"):
        load(PRODUCTION, STRIPE_SECRET_KEY="sk_live_x")


@pytest.mark.parametrize("key", ["pk_live_x", "whsec_x", "sk_live_", "live"])
def test_what_is_no_secret_key(key: str) -> None:
    with pytest.raises(SettingsError, match="secret or restricted key") as refused:
        load(HERE, STRIPE_SECRET_KEY=key)
    assert key == "live" or key not in str(refused.value)


@pytest.mark.parametrize("name", ["STRIPE_WEBHOOK_SECRETS", "STRIPE_WEBHOOK_SECRET"])
def test_several_webhook_secrets(name: str) -> None:
    settings = load(HERE, **{name: "whsec_new, whsec_old,"})
    found = [secret.get_secret_value() for secret in settings.stripe_webhook_secrets]
    assert found == ["whsec_new", "whsec_old"]
    assert "whsec_new" not in repr(settings)


@pytest.mark.parametrize("name", ["SUPABASE_URL", "FAL_QUEUE_URL", "FAL_REST_URL", "FAL_JWKS_URL"])
def test_production_reaches_no_stand_in(name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        load(PRODUCTION, **{name: "http://127.0.0.1:9"})
