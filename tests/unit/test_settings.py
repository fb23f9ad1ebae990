"""Combinations of settings that would lose money or leak a key do not start."""

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from core.settings import Settings, SettingsError, load_settings

ROOT = Path(__file__).resolve().parents[2]

HERE = {
    "APP_ENV": "development",
    "DATABASE_URL": "postgresql://a@127.0.0.1/db",
    "REDIS_URL": "redis://127.0.0.1",
    "SUPABASE_URL": "https://project.supabase.co",
    "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_x",
    "SUPABASE_SECRET_KEY": "sb_secret_x",
    "PUBLIC_BASE_URL": "https://api.example.com",
}
PRODUCTION = {**HERE, "APP_ENV": "production", "TRUSTED_PROXIES": "none"}
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


# --- doors that production does not leave open ------------------------------------------------

STRONG = "rV3-kQ8zLx1_Tn7pWc5yHd0sGm2bJf4uAe6iOo9tXw"
OWN_SECRETS = [
    "ADMIN_DASHBOARD_KEY",
    "INTERNAL_API_SECRET",
    "INTERNAL_API_SECRET_PREVIOUS",
    "METRICS_TOKEN",
    "SUPABASE_JWT_SECRET",
]


def refusal(environ: dict[str, str], **more: str) -> str:
    with pytest.raises(SettingsError) as refused:
        load(environ, **more)
    return str(refused.value)


@pytest.mark.parametrize("name", OWN_SECRETS)
@pytest.mark.parametrize(
    "weak",
    [
        "x",
        "changeme",
        "   ",
        " " * 40,
        "x" * 64,
        "changeme" * 4,
        "0123456789abcdef0123456789abcdef",
        "abcdefghijklmnopqrstuvwxyzABCDEF",
        "super-secret-jwt-token-with-at-least-32-characters-long",
        STRONG[:31],
    ],
)
def test_secrets_that_can_be_guessed(name: str, weak: str) -> None:
    said = refusal(PRODUCTION, **{name: weak})
    assert name in said
    assert "token_urlsafe(32)" in said, "it says what to do"
    assert len(weak.strip()) < 9 or weak not in said
    assert load(HERE, **{name: weak})


@pytest.mark.parametrize("name", OWN_SECRETS)
@pytest.mark.parametrize("bits", [128, 256, 512])
def test_random_secrets_are_taken(name: str, bits: int) -> None:
    for _ in range(200):
        assert load(PRODUCTION, **{name: secrets.token_hex(bits // 8)})
    assert load(PRODUCTION, **{name: STRONG})


def test_two_doors_have_two_keys() -> None:
    said = refusal(PRODUCTION, ADMIN_DASHBOARD_KEY=STRONG, METRICS_TOKEN=STRONG)
    assert "METRICS_TOKEN: is the same as ADMIN_DASHBOARD_KEY" in said


@pytest.mark.parametrize("name", ["PUBLIC_BASE_URL", "SITE_URL", "CHECKOUT_RETURN_URL"])
def test_addresses_for_people_are_https(name: str) -> None:
    assert name in refusal(PRODUCTION, **{name: "http://shop.example.com"})
    for environ in (HERE, PRODUCTION):
        for url in ("javascript:alert(1)", "data:text/html,x", "shop.example.com", "//evil"):
            assert name in refusal(environ, **{name: url})
    assert load(HERE, **{name: "http://127.0.0.1:3000"})
    assert load(PRODUCTION, **{name: "https://shop.example.com"})


@pytest.mark.parametrize("name", ["DATABASE_URL", "WORKER_DATABASE_URL"])
def test_the_database_is_reached_with_encryption(name: str) -> None:
    beyond = "postgresql://a:secret@db.example.com:6543/postgres"
    for mode in ("", "?sslmode=disable", "?sslmode=allow", "?sslmode=prefer"):
        said = refusal(PRODUCTION, **{name: beyond + mode})
        assert name in said
        assert "sslmode=require" in said
        assert "secret" not in said
    assert name in refusal(PRODUCTION, **{name: "postgresql://a@127.0.0.1,db.example.com/x"})
    assert name in refusal(PRODUCTION, **{name: "postgresql:///x?host=db.example.com"})
    assert name in refusal(PRODUCTION, **{name: "postgresql://a@localhost/x?hostaddr=192.0.2.1"})
    for url in (
        beyond + "?sslmode=require",
        beyond + "?sslmode=verify-full",
        "postgresql://a@[::1]/db",
        "postgresql:///x?host=/var/run/postgresql",
    ):
        assert load(PRODUCTION, **{name: url})
    assert load(HERE, **{name: beyond})


def test_redis_is_reached_with_encryption() -> None:
    for url in (
        "redis://:secret@redis.example.com:6379",
        "redis://redis.railway.internal:6379",
        "redis://10.0.0.5:6379",
        "redis://127.0.0.1@redis.example.com",
        "rediss://redis.example.com:6379?ssl_cert_reqs=none",
        "rediss://redis.example.com:6379?ssl_cert_reqs=none&ssl_cert_reqs=required",
        "rediss://redis.example.com:6379?ssl_check_hostname=false",
    ):
        said = refusal(PRODUCTION, REDIS_URL=url)
        assert "REDIS_URL" in said
        assert "secret" not in said
    for url in ("rediss://redis.example.com", "redis://localhost", "unix:///run/redis.sock"):
        assert load(PRODUCTION, REDIS_URL=url)


def test_proxies_are_named() -> None:
    unset = {name: value for name, value in PRODUCTION.items() if name != "TRUSTED_PROXIES"}
    assert "TRUSTED_PROXIES" in refusal(unset)
    for wide in (
        "0.0.0.0/0",
        "::/0",
        "10.0.0.0/8,0.0.0.0/0",
        "0.0.0.0/1,128.0.0.0/1",
        "2000::/3",
        "::ffff:0:0/96",
    ):
        assert "TRUSTED_PROXIES" in refusal(PRODUCTION, TRUSTED_PROXIES=wide)
    for environ in (HERE, PRODUCTION):
        assert "TRUSTED_PROXIES" in refusal(environ, TRUSTED_PROXIES="the proxy")
        assert load(environ, TRUSTED_PROXIES="none").trusted_proxies == ()
        networks = "10.0.0.0/8, 100.64.0.0/10,104.16.0.0/13,fd00::/8,2400:cb00::/32,192.0.2.1"
        assert len(load(environ, TRUSTED_PROXIES=networks).trusted_proxies) == 6
    assert load(HERE).trusted_proxies == ()


@pytest.mark.parametrize(
    "hosts", ["*", "*.com", "fal.media,*", "*media", "f?l.media", "localhost", "169.254.169.254"]
)
def test_results_are_fetched_from_hosts_that_are_named(hosts: str) -> None:
    assert "FAL_OUTPUT_HOSTS" in refusal(PRODUCTION, FAL_OUTPUT_HOSTS=hosts)
    assert load(HERE, FAL_OUTPUT_HOSTS=hosts)


def test_limits_stay_on() -> None:
    assert "RATE_LIMITS_ENABLED" in refusal(PRODUCTION, RATE_LIMITS_ENABLED="false")
    assert not load(HERE, RATE_LIMITS_ENABLED="false").rate_limits_enabled
    for environ in (HERE, PRODUCTION):
        assert "RATE_LIMIT_AUTH" in refusal(environ, RATE_LIMIT_AUTH="0/minute")


def test_origins_of_browsers_are_https() -> None:
    for origins in ("*", "http://shop.example.com", "https://a.example,http://b.example"):
        assert "CORS_ALLOWED_ORIGINS" in refusal(PRODUCTION, CORS_ALLOWED_ORIGINS=origins)
    assert load(PRODUCTION, CORS_ALLOWED_ORIGINS="https://a.example,http://localhost:3000")


def test_all_that_is_wrong_is_said_at_once() -> None:
    wrong = {
        "ADMIN_DASHBOARD_KEY": "admin",
        "METRICS_TOKEN": "changeme",
        "PUBLIC_BASE_URL": "http://api.example.com",
        "SITE_URL": "javascript:alert(1)",
        "REDIS_URL": "redis://redis.example.com",
        "DATABASE_URL": "postgresql://a@db.example.com/x",
        "TRUSTED_PROXIES": "0.0.0.0/0",
        "FAL_OUTPUT_HOSTS": "*",
        "RATE_LIMITS_ENABLED": "false",
        "SUPABASE_URL": "http://127.0.0.1:9",
        "STRIPE_SECRET_KEY": "sk_test_x",
        "RATE_LIMIT_IP": "many",
    }
    said = refusal(PRODUCTION, **wrong).splitlines()
    assert said[0] == "settings:"
    assert {line.strip().partition(":")[0] for line in said[1:]} >= set(wrong)
    assert all("Value error" not in line for line in said)


@pytest.mark.parametrize("module", ["api", "worker"])
def test_what_serves_does_not_hold_the_migrating_role(module: str) -> None:
    environ = {
        **PRODUCTION,
        "MIGRATION_DATABASE_URL": "postgresql://postgres:owner@127.0.0.1/db",
        "PATH": os.environ["PATH"],
    }
    assert load(environ), "commands of an operator may"
    done = subprocess.run(
        [sys.executable, "-m", module],
        check=False,
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "MIGRATION_DATABASE_URL" in done.stderr
    needed = {"api": "PERSON_KEY_PEPPER", "worker": "WORKER_DATABASE_URL"}
    assert f"{needed[module]}: is missing" in done.stderr, "said in the same message"
    assert "owner" not in done.stderr


@pytest.mark.parametrize("environment", ["development", "test"])
@pytest.mark.parametrize("key", ["sk_live_x", "rk_live_x"])
def test_a_live_key_is_for_production_only(environment: str, key: str) -> None:
    with pytest.raises(SettingsError, match=r"STRIPE_SECRET_KEY.*real money"):
        load(HERE, APP_ENV=environment, STRIPE_SECRET_KEY=key)


@pytest.mark.parametrize("secrets", ["oops", "whsec_one,oops", "whsec_", "sk_test_x"])
def test_a_webhook_secret_that_never_fits_is_refused_at_the_start(secrets: str) -> None:
    with pytest.raises(SettingsError, match=r"STRIPE_WEBHOOK_SECRETS.*whsec_") as refused:
        load(HERE, STRIPE_WEBHOOK_SECRETS=secrets)
    assert "oops" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["shop.example/back", "/back", "https:///back", "ftp://shop.example"]
)
def test_a_return_address_is_a_whole_one(url: str) -> None:
    with pytest.raises(SettingsError, match="CHECKOUT_RETURN_URL"):
        load(HERE, CHECKOUT_RETURN_URL=url)


def test_the_tax_of_a_price_is_said() -> None:
    assert load(HERE).stripe_tax_behavior == "exclusive"
    assert load(HERE, STRIPE_TAX_BEHAVIOR="inclusive").stripe_tax_behavior == "inclusive"
    with pytest.raises(SettingsError, match="STRIPE_TAX_BEHAVIOR"):
        load(HERE, STRIPE_TAX_BEHAVIOR="some")


def test_promotion_codes_are_off_unless_asked_for() -> None:
    assert not load(HERE).stripe_promotion_codes
