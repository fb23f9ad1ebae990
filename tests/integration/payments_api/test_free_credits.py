"""Free credits that a new account came without, and the purchase that brings them."""

import uuid
from typing import Any

import pytest

from tests.harness.payments_api import Buyer, PaymentsApiHarness


def joined(payments_api: PaymentsApiHarness, email: str) -> Buyer:
    """Somebody whom Auth has just verified, without an account."""
    user_id = uuid.uuid4()
    payments_api.database.rows(
        "insert into auth.users (id, aud, role, email, email_confirmed_at, created_at)"
        " values (%s, 'authenticated', 'authenticated', %s, now(), now())",
        (user_id, email),
    )
    return Buyer(payments_api.client, user_id, payments_api.issuer.token(user_id, email=email))


async def withheld(buyer: Buyer) -> dict[str, Any] | None:
    found: dict[str, Any] | None = (await buyer.read("/v1/me"))["free_credits_withheld"]
    return found


@pytest.mark.parametrize("domain", ["mailinator.com", "foo.yopmail.com"])
async def test_a_throw_away_address_gets_them_with_a_purchase(
    payments_api: PaymentsApiHarness, domain: str
) -> None:
    ada = joined(payments_api, f"ada-{uuid.uuid4()}@{domain}")
    told = await withheld(ada)
    assert told is not None
    assert (told["reason"], told["given_by"]) == ("disposable_address", "purchase")
    assert "pack" in told["detail"]
    assert payments_api.balance(ada) == (0, 0, 0)
    await payments_api.bought(ada)
    assert payments_api.balance(ada) == (60, 0, 0)
    assert await withheld(ada) is None
    await payments_api.bought(ada)
    assert payments_api.balance(ada) == (110, 0, 0)


async def test_who_had_them_gets_none_with_a_purchase(payments_api: PaymentsApiHarness) -> None:
    name = f"ada.{uuid.uuid4().hex}"
    first = joined(payments_api, f"{name}@proton.me")
    assert await withheld(first) is None
    assert payments_api.balance(first) == (10, 0, 0)
    second = joined(payments_api, f"{name.replace('.', '-')}@pm.me")
    told = await withheld(second)
    assert told is not None
    assert (told["reason"], told["given_by"]) == ("person_had_credits", None)
    await payments_api.bought(second)
    assert payments_api.balance(second) == (50, 0, 0)


async def test_two_throw_away_accounts_of_one_person_that_buy(
    payments_api: PaymentsApiHarness,
) -> None:
    """Both came without; the first that buys has them."""
    name = uuid.uuid4().hex
    ada, twin = (
        joined(payments_api, f"{spelling}@mailinator.com") for spelling in (name, f"{name}+2")
    )
    for buyer in (ada, twin):
        assert await withheld(buyer) is not None
        await payments_api.bought(buyer)
    assert [payments_api.balance(buyer)[0] for buyer in (ada, twin)] == [60, 50]


async def test_the_operator_speaks_over_the_list(payments_api: PaymentsApiHarness) -> None:
    ours, theirs = f"{uuid.uuid4().hex}.example", "guerrillamail.com"
    payments_api.database.rows(
        "insert into app.mail_domains values (%s, true), (%s, false)", (ours, theirs)
    )
    told = await withheld(joined(payments_api, f"ada@mail.{ours}"))
    assert told is not None
    assert told["reason"] == "disposable_address"
    assert await withheld(joined(payments_api, f"{uuid.uuid4().hex}@{theirs}")) is None
    payments_api.database.rows("delete from app.mail_domains")
