"""The account behind a token, row level security, and the limits in Redis."""

import asyncio
import uuid
from collections.abc import Callable

from redis.asyncio import Redis

from core.ratelimit import Limit, RateLimiter
from core.settings import Settings
from tests.harness.database import TestDatabase
from tests.harness.http import api_client
from tests.harness.tokens import TokenIssuer


def _add_person(database: TestDatabase, email: str, *, confirmed: bool = True) -> uuid.UUID:
    user_id = uuid.uuid4()
    database.rows(
        "insert into auth.users (id, aud, role, email, email_confirmed_at, created_at)"
        " values (%s, 'authenticated', 'authenticated', %s, case when %s then now() end, now())",
        (user_id, email, confirmed),
    )
    return user_id


async def test_me_opens_the_account_once_however_many_ask(
    settings: Settings, issuer: TokenIssuer, database: TestDatabase
) -> None:
    ada = _add_person(database, "ada@example.com")
    headers = issuer.headers(ada)
    async with api_client(settings, transport=issuer.transport()) as client:
        answers = await asyncio.gather(*(client.get("/v1/me", headers=headers) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["balance"]["available"] for answer in answers} == {10}
    assert database.row("select count(*) as n from app.ledger_transfers")["n"] == 1


async def test_one_sees_ones_own_account(
    settings: Settings, issuer: TokenIssuer, database: TestDatabase
) -> None:
    ada = _add_person(database, "ada@example.com")
    twin = _add_person(database, "Ada+again@example.com")
    async with api_client(settings, transport=issuer.transport()) as client:
        first = (await client.get("/v1/me", headers=issuer.headers(ada))).json()
        second = (await client.get("/v1/me", headers=issuer.headers(twin))).json()
    assert (first["id"], first["balance"]["available"]) == (str(ada), 10)
    assert (second["id"], second["balance"]["available"]) == (str(twin), 0)  # the same person


async def test_an_unverified_address_has_no_account(
    settings: Settings, issuer: TokenIssuer, database: TestDatabase
) -> None:
    eve = _add_person(database, "eve@example.com", confirmed=False)
    async with api_client(settings, transport=issuer.transport()) as client:
        answer = await client.get("/v1/me", headers=issuer.headers(eve))
    assert (answer.status_code, answer.json()["reason"]) == (403, "email_not_verified")


async def test_limits_are_shared_between_processes(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings(rate_limit_ip="5/minute", redis_prefix="shared")
    async with api_client(settings) as one, api_client(settings) as other:
        codes = [
            (await client.get("/problems")).status_code
            for client in (one, other, one, other, one, other)
        ]
        assert codes == [200] * 5 + [429]


async def test_redis_counts_as_one_process_does(redis_url: str) -> None:
    """The script and the counts of `limits` give the same answers to the same requests."""
    client: Redis = Redis.from_url(redis_url)
    shared = RateLimiter(client, prefix="shared")
    away: Redis = Redis.from_url("redis://127.0.0.1:9/0")
    alone = RateLimiter(away, prefix="alone")
    tight, wide = Limit("tight", 3, 86_400), Limit("wide", 5, 86_400)
    for checks in [[tight, wide]] * 4 + [[wide]] * 3 + [[tight]]:
        subjects = [(limit, "someone") for limit in checks]
        one, other = await shared.hit(subjects), await alone.hit(subjects)
        assert (one.allowed, one.limit, one.remaining) == (
            other.allowed,
            other.limit,
            other.remaining,
        )
        assert abs(one.retry_after_seconds - other.retry_after_seconds) <= 3
        assert abs(one.reset_seconds - other.reset_seconds) <= 3
    ttl = await client.ttl("shared:rl:tight:someone")
    assert 86_400 < ttl <= 2 * 86_400
    await client.aclose()
    await away.aclose()


async def test_the_script_slides(redis_url: str) -> None:
    client: Redis = Redis.from_url(redis_url)
    limiter = RateLimiter(client, prefix="slide")
    limit = Limit("x", 4, 1)
    allowed = 0
    refused = None
    for _ in range(200):
        decision = await limiter.hit([(limit, "a")])
        allowed += decision.allowed
        if not decision.allowed:
            refused = decision
            break
    assert refused is not None
    assert 4 <= allowed <= 8
    await asyncio.sleep(refused.retry_after_seconds + 0.05)
    assert (await limiter.hit([(limit, "a")])).allowed
    await client.aclose()
