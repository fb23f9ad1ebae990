"""Redeeming: what a code gives, to whom, how often, and what is said when it gives nothing."""

import datetime as dt
import uuid
from collections.abc import Callable

import httpx

from core.codes.types import digest_of, new_code_text
from core.settings import Settings
from tests.harness.codes import CodesHarness, problem
from tests.harness.database import TestDatabase
from tests.harness.http import api_client
from tests.harness.ledger import Ledger, connect, refused, scoped, user_claims
from tests.harness.tokens import TokenIssuer

LATER = "2999-01-01T00:00:00+00:00"
NOT_VALID = (404, "code-not-valid")


async def test_a_code_gives_a_lot_of_its_own_once(
    codes: CodesHarness, client: httpx.AsyncClient, ledger: Ledger
) -> None:
    user = ledger.user(3)
    code = await codes.code(kind="gift", credits_expire_after_days=30, expires_at=LATER)
    answer = await codes.redeem(user, code["code"])
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["kind"], body["credits"], body["paid_debt"]) == ("gift", 25, 0)
    lives = dt.datetime.fromisoformat(body["credits_expire_at"]) - dt.datetime.fromisoformat(
        body["redeemed_at"]
    )
    assert lives == dt.timedelta(days=30)
    assert ledger.balance(user) == (28, 0, 0)
    lots = (await client.get("/v1/credits", headers=codes.of(user))).json()["lots"]
    assert (lots[0]["id"], lots[0]["source"], lots[0]["granted"]) == (body["lot_id"], "gift", 25)
    key = ledger.value("select idempotency_key from app.credit_lots where source = 'gift'")
    assert key == f"code:{code['id']}:{user}"


async def test_the_same_person_gets_the_same_answer(codes: CodesHarness, ledger: Ledger) -> None:
    """Also after the credits were spent and the code was withdrawn, used up and expired."""
    user, other = ledger.user(), ledger.user()
    code = await codes.code(uses_max=2, expires_at=codes.tomorrow())
    first = await codes.redeem(user, code["code"])
    await codes.redeem(other, code["code"])
    ledger.confirm(user, ledger.reserve(user, 20))
    assert (await codes.disable(f"codes/{code['id']}")).status_code == 200
    ledger.clock.advance(days=2)
    again = await codes.redeem(user, code["code"].lower().replace("-", " "))
    assert (again.status_code, again.json()) == (200, first.json())
    assert again.content == first.content
    assert ledger.balance(user) == (5, 0, 0)
    assert (await codes.read(code["id"]))["uses"] == 2


async def test_two_accounts_of_one_person_are_one(codes: CodesHarness, ledger: Ledger) -> None:
    code = await codes.code(uses_max=5)
    first, second = ledger.verified("ada@example.com"), ledger.verified("ada+2@example.com")
    assert (await codes.redeem(first, code["code"])).status_code == 200
    assert problem(await codes.redeem(second, code["code"])) == (409, "conflict")
    assert (await codes.redeem(first, code["code"])).status_code == 200
    assert (await codes.read(code["id"]))["uses"] == 1


async def test_debt_is_paid_first(codes: CodesHarness, ledger: Ledger) -> None:
    user = ledger.user()
    ledger.reverse(user, 10, "re_1")
    code = await codes.code()
    body = (await codes.redeem(user, code["code"])).json()
    assert (body["credits"], body["paid_debt"]) == (25, 10)
    assert ledger.balance(user) == (15, 0, 0)
    assert ledger.transfers(user)[1:] == [
        ("grant", "promo", "debt", 10), ("grant", "promo", "available", 15),
    ]  # fmt: skip


async def test_the_first_call_opens_the_account_of_a_verified_person(
    codes: CodesHarness, ledger: Ledger
) -> None:
    code = await codes.code(uses_max=2)
    ada = ledger.verified("ada@example.com")
    assert (await codes.redeem(ada, code["code"])).status_code == 200
    assert ledger.balance(ada) == (35, 0, 0)
    eve = ledger.verified("eve@example.com", is_confirmed=False)
    answer = await codes.redeem(eve, code["code"])
    assert problem(answer) == (403, "not-allowed")
    assert answer.json()["reason"] == "email_not_verified"
    assert (await codes.read(code["id"]))["uses"] == 1


async def test_nobody_who_is_not_signed_in(codes: CodesHarness, client: httpx.AsyncClient) -> None:
    code = await codes.code()
    answer = await client.post("/v1/codes/redeem", json={"code": code["code"]})
    assert problem(answer) == (401, "unauthenticated")


async def test_withdrawn_and_unknown_look_alike(codes: CodesHarness, ledger: Ledger) -> None:
    user = ledger.user()
    code = await codes.code()
    await codes.disable(f"codes/{code['id']}")
    answers = [
        await codes.redeem(user, text) for text in (code["code"], new_code_text(), "open sesame")
    ]
    assert [problem(answer) for answer in answers] == [NOT_VALID] * 3
    documents = [{**answer.json(), "request_id": ""} for answer in answers]
    assert documents[0] == documents[1] == documents[2]
    assert ledger.balance(user) == (0, 0, 0)


async def test_a_holder_is_told_that_it_is_over(
    codes: CodesHarness, ledger: Ledger, database: TestDatabase
) -> None:
    user = ledger.user()
    tomorrow = codes.tomorrow()
    expired, used_up = await codes.code(expires_at=tomorrow), await codes.code()
    database.clock.advance(days=2)
    assert (await codes.redeem(ledger.user(), used_up["code"])).status_code == 200
    late = await codes.redeem(user, expired["code"])
    assert problem(late) == (410, "code-expired")
    assert late.json()["expired_at"] == tomorrow
    assert problem(await codes.redeem(user, used_up["code"])) == (409, "code-used-up")
    assert ledger.balance(user) == (0, 0, 0)
    assert (await codes.read(used_up["id"]))["uses"] == 1


async def test_a_wrong_body_says_so(
    codes: CodesHarness, client: httpx.AsyncClient, ledger: Ledger
) -> None:
    headers = codes.of(ledger.user())
    for body in ({}, {"code": ""}, {"code": 7}, {"code": "x" * 101}, {"code": "x", "user_id": "y"}):
        answer = await client.post("/v1/codes/redeem", json=body, headers=headers)
        assert problem(answer) == (400, "invalid-request")


async def test_ten_tries_an_hour(codes: CodesHarness, ledger: Ledger) -> None:
    user, other = ledger.user(), ledger.user()
    code = await codes.code(uses_max=2)
    for _ in range(10):
        assert problem(await codes.redeem(user, new_code_text())) == NOT_VALID
    answer = await codes.redeem(user, code["code"])
    assert problem(answer) == (429, "rate-limited")
    assert answer.json()["policy"] == "codes"
    assert int(answer.headers["retry-after"]) > 60
    assert ledger.balance(user) == (0, 0, 0)
    assert (await codes.redeem(other, code["code"])).status_code == 200


async def test_sixty_tries_an_hour_from_one_address(
    make_settings: Callable[..., Settings], issuer: TokenIssuer, ledger: Ledger
) -> None:
    settings = make_settings()
    people = [ledger.user() for _ in range(7)]
    async with api_client(settings, transport=issuer.transport()) as client:
        codes = CodesHarness(client, issuer)
        tries = [await codes.redeem(user, "x") for user in people[:6] for _ in range(10)]
        assert {problem(answer) for answer in tries} == {NOT_VALID}
        answer = await codes.redeem(people[6], "x")
    assert (problem(answer), answer.json()["policy"]) == ((429, "rate-limited"), "codes-ip")
    transport = issuer.transport()
    async with api_client(settings, transport=transport, client_ip="198.51.100.9") as client:
        answer = await CodesHarness(client, issuer).redeem(people[6], "x")
    assert problem(answer) == NOT_VALID


async def test_an_alias_and_a_deleted_account_redeem_nothing_more(
    codes: CodesHarness, ledger: Ledger, database: TestDatabase
) -> None:
    code = await codes.code(uses_max=9)
    first = ledger.verified("ada.love@proton.me")
    assert (await codes.redeem(first, code["code"])).status_code == 200
    headers = codes.of(first)
    database.rows("delete from auth.users where id = %s", (first,))
    # The token lives on; the account does not.
    gone = await codes.redeem_as(headers, (await codes.code())["code"])
    assert (gone.status_code, gone.json()["reason"]) == (401, "session_not_found")
    for spelling in ("adalove+2@proton.me", "ada-love@pm.me", "ada.love@proton.me"):
        again = ledger.verified(spelling)
        answer = await codes.redeem(again, code["code"])
        assert problem(answer) == (409, "conflict"), spelling
        assert answer.json()["reason"] == "redeemed_with_another_account"
        database.rows("delete from auth.users where id = %s", (again,))


async def test_only_a_verified_address_redeems(
    codes: CodesHarness, ledger: Ledger, database: TestDatabase
) -> None:
    ada = ledger.verified("ada@example.com")
    code = (await codes.code())["code"]
    assert (await codes.redeem(ada, "JSG-0000-0000-0000-0000")).status_code == 404
    database.rows("update auth.users set email_confirmed_at = null where id = %s", (ada,))
    answer = await codes.redeem(ada, code)
    assert (answer.status_code, answer.json()["reason"]) == (403, "email_not_verified")


def test_the_function_needs_an_identity_and_an_account(database: TestDatabase) -> None:
    digest = digest_of(new_code_text())
    stranger = uuid.uuid4()
    database.sign_in(stranger)
    for claims, sqlstate in (({}, "JS401"), (user_claims(stranger), "JS404")):
        with (
            refused(sqlstate),
            connect(database.api_url) as conn,
            scoped(conn, "jewelshot_user", claims),
        ):
            conn.execute("select app.redeem_code(%s)", (digest,))
