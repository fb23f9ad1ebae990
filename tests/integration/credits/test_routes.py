"""Credits over HTTP: what a person sees of their money, and what an admin does with it."""

import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from core.settings import Settings
from tests.harness.database import TestDatabase
from tests.harness.http import api_client
from tests.harness.ledger import Ledger
from tests.harness.settings import NOWHERE
from tests.harness.tokens import TokenIssuer

ADMIN: dict[str, Any] = {"app_metadata": {"role": "admin"}, "aal": "aal2"}


@pytest.fixture
def issuer(database: TestDatabase) -> TokenIssuer:
    return TokenIssuer(NOWHERE, database)


@pytest.fixture
async def client(settings: Settings, issuer: TokenIssuer) -> AsyncIterator[httpx.AsyncClient]:
    async with api_client(settings, transport=issuer.transport()) as started:
        yield started


async def pages(
    client: httpx.AsyncClient, path: str, headers: dict[str, str], **params: Any
) -> list[dict[str, Any]]:
    """Every item, page by page."""
    items: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        query = {**params, **({"cursor": cursor} if cursor else {})}
        answer = await client.get(path, headers=headers, params=query)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        items += body["items"]
        cursor = body["next_cursor"]
        if cursor is None:
            return items


async def test_the_first_look_opens_the_account(
    client: httpx.AsyncClient, issuer: TokenIssuer, ledger: Ledger
) -> None:
    ada = ledger.verified("ada@example.com")
    answer = await client.get("/v1/credits", headers=issuer.headers(ada))
    assert answer.status_code == 200
    body = answer.json()
    assert body["balance"] == {"available": 10, "reserved": 0, "debt": 0}
    (lot,) = body["lots"]
    assert (lot["source"], lot["granted"], lot["remaining"]) == ("signup", 10, 10)
    eve = ledger.verified("eve@example.com", is_confirmed=False)
    refusal = await client.get("/v1/credits", headers=issuer.headers(eve))
    assert (refusal.status_code, refusal.json()["reason"]) == (403, "email_not_verified")
    assert (await client.get("/v1/credits")).status_code == 401


async def test_lots_stand_in_spending_order_and_expired_ones_are_gone(
    client: httpx.AsyncClient, issuer: TokenIssuer, ledger: Ledger
) -> None:
    user = ledger.user()
    paid = ledger.grant(user, 1, reference="pi_1")
    gift = ledger.grant(user, 2, source="gift")
    late = ledger.grant(user, 3, lives="30 days")
    ledger.grant(user, 4, lives="1 day")
    soon = ledger.grant(user, 5, lives="3 days", source="promo")
    ledger.clock.advance(days=2)
    body = (await client.get("/v1/credits", headers=issuer.headers(user))).json()
    assert [lot["id"] for lot in body["lots"]] == [str(lot) for lot in (soon, late, gift, paid)]
    assert body["balance"]["available"] == 11  # the four are due, though nobody booked it yet
    assert ledger.balance(user)[0] == 15
    me = (await client.get("/v1/me", headers=issuer.headers(user))).json()
    assert me["balance"] == body["balance"]


async def test_the_ledger_runs_back_to_zero(
    client: httpx.AsyncClient, issuer: TokenIssuer, ledger: Ledger
) -> None:
    user = ledger.user(10)
    photo = ledger.upload(user)
    done = ledger.start(user, photo)
    ledger.finish(done, "succeeded")
    ledger.finish(ledger.start(user, photo), "failed")
    ledger.reverse(user, 12, "re_1")
    ledger.adjust(user, 5, "k", "an apology")
    headers = issuer.headers(user)
    items = await pages(client, "/v1/credits/ledger", headers, limit=2)
    assert items == await pages(client, "/v1/credits/ledger", headers, limit=100)
    assert [item["id"] for item in items] == sorted((item["id"] for item in items), reverse=True)
    assert [item["kind"] for item in items][::-1] == [
        "grant", "reserve", "confirm", "reserve", "refund", "reverse", "reverse", "grant", "grant",
    ]  # fmt: skip
    running = {"available": 0, "reserved": 0, "debt": 0}
    for item in reversed(items):
        for name in running:
            running[name] += item["change"][name]
        assert item["balance_after"] == running, item
    assert tuple(running.values()) == ledger.balance(user) == (2, 0, 0)
    assert items[-2]["operation"] == "packshot"
    assert items[-2]["text"] == "1 credit set aside for packshot, from your bought credits."
    assert items[-2]["generation_id"] == str(done)
    assert all("actor" not in item and "note" not in item for item in items)


async def test_the_ledger_is_filtered(
    client: httpx.AsyncClient, issuer: TokenIssuer, ledger: Ledger
) -> None:
    user = ledger.user(10)
    photo = ledger.upload(user)
    first, second = ledger.start(user, photo), ledger.start(user, photo)
    ledger.finish(first, "failed")
    headers = issuer.headers(user)
    of_first = await pages(client, "/v1/credits/ledger", headers, generation_id=str(first), limit=1)
    assert [item["kind"] for item in of_first] == ["refund", "reserve"]
    assert {item["balance_after"] for item in of_first} == {None}
    kinds = await pages(client, "/v1/credits/ledger", headers, kind=["grant", "refund"])
    assert [item["kind"] for item in kinds] == ["refund", "grant"]
    assert await pages(client, "/v1/credits/ledger", headers, generation_id=str(uuid.uuid4())) == []
    assert second


async def test_nobody_reads_another_ledger(
    client: httpx.AsyncClient, issuer: TokenIssuer, ledger: Ledger
) -> None:
    user, other = ledger.user(10), ledger.user()
    generation = ledger.start(user, ledger.upload(user))
    headers = issuer.headers(other)
    assert await pages(client, "/v1/credits/ledger", headers) == []
    theirs = await client.get(f"/v1/credits/explain/{generation}", headers=headers)
    mine = await client.get(f"/v1/credits/explain/{generation}", headers=issuer.headers(user))
    assert (theirs.status_code, mine.status_code) == (404, 200)
    assert mine.json()["lines"][0]["money"]["kind"] == "reserve"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"cursor": "nonsense"}, 422),
        ({"cursor": "WzFd"}, 422),
        ({"cursor": "WzEwMDAwMDAwMDAwMDAwMDAwMDAwMDAsMCwwLDBd"}, 422),
        ({"cursor": "eyJlbnRyeV9pZCI6MTAwMDAwMDAwMDAwMDAwMDAwMDAwMDAsImJhbGFuY2UiOm51bGx9"}, 400),
        ({"limit": 0}, 400),
        ({"limit": 101}, 400),
        ({"kind": "gift"}, 400),
        ({"generation_id": "x"}, 400),
    ],
)
async def test_a_wrong_query_says_so(
    client: httpx.AsyncClient,
    issuer: TokenIssuer,
    ledger: Ledger,
    query: dict[str, Any],
    status: int,
) -> None:
    user = ledger.user()
    answer = await client.get("/v1/credits/ledger", params=query, headers=issuer.headers(user))
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")


# --- admins ----------------------------------------------------------------------------------


async def test_admins_find_people(
    client: httpx.AsyncClient, issuer: TokenIssuer, ledger: Ledger
) -> None:
    people = sorted(str(ledger.user(number + 1)) for number in range(5))
    headers = issuer.headers(**ADMIN)
    found = await pages(client, "/v1/admin/users", headers, limit=2)
    assert [row["id"] for row in found] == people
    for query in (people[2], people[2].upper(), people[2][:20]):
        (row,) = await pages(client, "/v1/admin/users", headers, id=query)
        assert row["id"] == people[2]
    assert await pages(client, "/v1/admin/users", headers, id=str(uuid.uuid4())) == []
    for wrong in ("zoe", "%", "0" * 33):
        answer = await client.get("/v1/admin/users", headers=headers, params={"id": wrong})
        assert answer.status_code == 422, answer.text


async def test_admins_read_and_correct_money(
    client: httpx.AsyncClient, issuer: TokenIssuer, ledger: Ledger
) -> None:
    user, admin = ledger.user(3, reference="pi_1"), uuid.uuid4()
    headers = issuer.headers(admin, **ADMIN)
    path = f"/v1/admin/users/{user}/credits"

    async def adjust(amount: int, key: str, reason: str = "a bent prong") -> httpx.Response:
        return await client.post(
            f"{path}/adjustments",
            json={"amount": amount, "reason": reason},
            headers={**headers, "Idempotency-Key": key},
        )

    answer = await adjust(5, "one")
    assert answer.status_code == 201, answer.text
    assert answer.json() == {
        "user_id": str(user),
        "amount": 5,
        "reason": "a bent prong",
        "balance": {"available": 8, "reserved": 0, "debt": 0},
    }
    again = await adjust(5, "one")
    assert (again.status_code, again.json()) == (201, answer.json())
    assert again.headers["idempotency-replayed"] == "true"
    mismatch = await adjust(6, "one")
    assert mismatch.status_code == 422
    assert mismatch.json()["type"].endswith("/problems/idempotency-mismatch")
    assert (await adjust(-10, "two")).json()["balance"] == {
        "available": 0, "reserved": 0, "debt": 2,
    }  # fmt: skip
    credits_now = (await client.get(path, headers=headers)).json()
    assert credits_now["user_id"] == str(user)
    assert credits_now["balance"]["debt"] == 2
    lines = await pages(client, f"{path}/ledger", headers, limit=2)
    assert {line["actor"] for line in lines} == {"system", str(admin)}
    assert lines[0]["note"] == "a bent prong"
    assert lines[-1]["reference"] == "pi_1"
    audit = await pages(client, "/v1/admin/audit", headers, limit=1)
    assert [row["detail"]["amount"] for row in audit] == [-10, 5]
    assert {row["actor"] for row in audit} == {str(admin)}
    assert await pages(client, "/v1/admin/audit", headers, action="nothing") == []
    assert len(await pages(client, "/v1/admin/audit", headers, target=str(user))) == 2


@pytest.mark.parametrize(
    ("body", "key", "status"),
    [
        ({"amount": 5, "reason": "because"}, None, 400),
        ({"amount": 5, "reason": "because"}, "", 400),
        ({"amount": 5, "reason": "because"}, "k" * 256, 400),
        ({"amount": 0, "reason": "because"}, "k", 422),
        ({"amount": 5, "reason": "   "}, "k", 422),
        ({"amount": 5, "reason": ""}, "k", 400),
        ({"amount": 1_000_001, "reason": "because"}, "k", 400),
        ({"amount": 1.5, "reason": "because"}, "k", 400),
        ({"amount": 5}, "k", 400),
        ({"amount": 5, "reason": "because", "user_id": "x"}, "k", 400),
        ({"amount": 5, "reason": "nul \x00"}, "k", 400),
    ],
)
async def test_a_wrong_adjustment_says_so(
    client: httpx.AsyncClient,
    issuer: TokenIssuer,
    ledger: Ledger,
    *,
    body: dict[str, Any],
    key: str | None,
    status: int,
) -> None:
    user = ledger.user()
    headers = issuer.headers(**ADMIN)
    if key is not None:
        headers["Idempotency-Key"] = key
    answer = await client.post(
        f"/v1/admin/users/{user}/credits/adjustments", json=body, headers=headers
    )
    assert answer.status_code == status, answer.text
    assert ledger.balance(user) == (0, 0, 0)


async def test_somebody_unknown_has_no_credits(
    client: httpx.AsyncClient, issuer: TokenIssuer, database: TestDatabase
) -> None:
    headers = {**issuer.headers(**ADMIN), "Idempotency-Key": "k"}
    path = f"/v1/admin/users/{uuid.uuid4()}/credits"
    answers = [
        await client.get(path, headers=headers),
        await client.get(f"{path}/ledger", headers=headers),
        await client.post(
            f"{path}/adjustments", json={"amount": 1, "reason": "because"}, headers=headers
        ),
    ]
    assert [answer.status_code for answer in answers] == [404] * 3
    assert database.rows("select * from app.audit_log") == []


@pytest.mark.parametrize(
    "claims", [{}, {"app_metadata": {"role": "admin"}, "aal": "aal1"}, {"aal": "aal2"}]
)
async def test_only_admins_with_a_second_factor(
    client: httpx.AsyncClient, issuer: TokenIssuer, ledger: Ledger, claims: dict[str, Any]
) -> None:
    user = ledger.user(1)
    headers = {**issuer.headers(user, **claims), "Idempotency-Key": "k"}
    paths = ["/v1/admin/users", "/v1/admin/audit", f"/v1/admin/users/{user}/credits"]
    for path in [*paths, f"{paths[-1]}/ledger"]:
        assert (await client.get(path, headers=headers)).status_code == 403
    answer = await client.post(
        f"{paths[-1]}/adjustments", json={"amount": 99, "reason": "because"}, headers=headers
    )
    assert answer.status_code == 403
    assert ledger.balance(user) == (1, 0, 0)


async def test_the_break_glass_key_leaves_its_name(
    make_settings: Callable[..., Settings], ledger: Ledger, issuer: TokenIssuer
) -> None:
    key = "b" * 40
    user = ledger.user()
    headers = {"X-Admin-Key": key, "Idempotency-Key": "k"}
    async with api_client(
        make_settings(admin_dashboard_key=key), transport=issuer.transport()
    ) as client:
        answer = await client.post(
            f"/v1/admin/users/{user}/credits/adjustments",
            json={"amount": 3, "reason": "locked out"},
            headers=headers,
        )
        assert answer.status_code == 201, answer.text
        again = await client.post(
            f"/v1/admin/users/{user}/credits/adjustments",
            json={"amount": 3, "reason": "locked out"},
            headers=headers,
        )
        assert (again.json(), again.headers["idempotency-replayed"]) == (answer.json(), "true")
        (row,) = await pages(client, "/v1/admin/audit", headers)
        (line,) = await pages(client, f"/v1/admin/users/{user}/credits/ledger", headers)
    assert (row["actor"], line["actor"]) == ("break-glass", "break-glass")
