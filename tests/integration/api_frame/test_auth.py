"""From sign-up to the second factor, through the official client, and the account behind it."""

import base64
import hmac
import struct
import time
from typing import Any

import httpx

from tests.harness.database import TestDatabase
from tests.integration.api_frame.conftest import PASSWORD, AuthHarness, OpenAuth, bearer

ADA = "ada@example.com"


def _problem(response: httpx.Response) -> tuple[int, str, str | None]:
    body = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, body["type"].rpartition("/")[2], body.get("reason")


def _totp(secret: str, at: float) -> str:
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    digest = hmac.digest(key, struct.pack(">Q", int(at // 30)), "sha1")
    start = digest[-1] & 15
    number = int.from_bytes(digest[start : start + 4]) & 0x7FFF_FFFF
    return f"{number % 1_000_000:06d}"


async def test_sign_up_grants_credits_once_and_after_the_confirmation(
    auth: AuthHarness, database: TestDatabase
) -> None:
    answer = await auth.client.post("/v1/auth/sign-up", json={"email": ADA, "password": PASSWORD})
    assert answer.json() == {"status": "confirmation_sent", "session": None}
    early = await auth.client.post("/v1/auth/sign-in", json={"email": ADA, "password": PASSWORD})
    assert _problem(early) == (403, "not-allowed", "email_not_confirmed")
    assert database.rows("select from app.credit_accounts") == []

    confirmed = await auth.client.post(
        "/v1/auth/confirm", json={"token_hash": auth.token_hash(ADA)}
    )
    session = confirmed.json()["session"]
    assert session["account"] == {
        "opened": True,
        "granted": True,
        "credits": 10,
        "reason": None,
    }
    me = (await auth.client.get("/v1/me", headers=bearer(session))).json()
    assert me["email"] == ADA
    assert me["balance"] == {"available": 10, "reserved": 0, "debt": 0}
    assert (me["role"], me["aal"]) == ("user", "aal1")
    assert me["session_expires_at"].endswith("Z")

    again = await auth.client.post("/v1/auth/sign-in", json={"email": ADA, "password": PASSWORD})
    assert again.json()["account"]["granted"] is False
    assert database.row("select sum(amount) as sum from app.ledger_transfers")["sum"] == 10


async def test_confirming_by_code_and_only_once(auth: AuthHarness) -> None:
    await auth.sign_up(ADA)
    wrong = {"email": ADA, "code": "000000", "type": "signup"}
    refused = await auth.client.post("/v1/auth/confirm", json=wrong)
    assert _problem(refused) == (401, "bad-credentials", "otp_expired")
    body = {"email": ADA, "code": auth.code(ADA), "type": "signup"}
    confirmed = await auth.client.post("/v1/auth/confirm", json=body)
    assert confirmed.json()["status"] == "signed_in"
    assert _problem(await auth.client.post("/v1/auth/confirm", json=body))[0] == 401
    empty = await auth.client.post("/v1/auth/confirm", json={"type": "email"})
    assert _problem(empty)[:2] == (422, "invalid-input")


async def test_addresses_are_not_given_away(auth: AuthHarness) -> None:
    await auth.join(ADA)
    for email in (ADA, "nobody@example.com"):
        for route in ("sign-up", "recover", "resend"):
            body = {"email": email} | ({"password": PASSWORD} if route == "sign-up" else {})
            answer = await auth.client.post(f"/v1/auth/{route}", json=body)
            assert answer.status_code in {200, 202}
            assert answer.json() in (
                {"status": "confirmation_sent", "session": None},
                {"status": "sent_if_known"},
            )
        body = {"email": email, "password": "not the password"}
        answer = await auth.client.post("/v1/auth/sign-in", json=body)
        assert _problem(answer) == (401, "bad-credentials", "invalid_credentials")


async def test_refresh_rotates_and_logout_ends(auth: AuthHarness) -> None:
    session = await auth.join(ADA)
    body = {"refresh_token": session["refresh_token"]}
    second = (await auth.client.post("/v1/auth/refresh", json=body)).json()
    assert second["refresh_token"] != session["refresh_token"]
    assert (await auth.client.get("/v1/me", headers=bearer(second))).status_code == 200
    gone = await auth.client.post("/v1/auth/logout", headers=bearer(second))
    assert (gone.status_code, gone.content) == (204, b"")
    refused = await auth.client.post(
        "/v1/auth/refresh", json={"refresh_token": second["refresh_token"]}
    )
    assert _problem(refused)[0] == 401
    unknown = await auth.client.post("/v1/auth/refresh", json={"refresh_token": "unknown"})
    assert _problem(unknown) == (401, "bad-credentials", "refresh_token_not_found")


async def test_recovery_sets_a_new_password(auth: AuthHarness) -> None:
    await auth.join(ADA)
    asked = await auth.client.post("/v1/auth/recover", json={"email": ADA})
    assert (asked.status_code, asked.json()) == (202, {"status": "sent_if_known"})
    confirmed = await auth.client.post(
        "/v1/auth/confirm", json={"token_hash": auth.token_hash(ADA), "type": "recovery"}
    )
    headers = bearer(confirmed.json()["session"])
    weak = await auth.client.put("/v1/auth/password", headers=headers, json={"password": "a"})
    assert _problem(weak) == (422, "invalid-input", "weak_password")
    assert weak.json()["field"] == "password"
    same = await auth.client.put("/v1/auth/password", headers=headers, json={"password": PASSWORD})
    assert _problem(same) == (422, "invalid-input", "same_password")
    new = {"password": "another horse battery"}
    assert (
        await auth.client.put("/v1/auth/password", headers=headers, json=new)
    ).status_code == 204
    answer = await auth.client.post("/v1/auth/sign-in", json={"email": ADA, **new})
    assert answer.status_code == 200


async def test_second_factor(auth: AuthHarness) -> None:
    session = await auth.join(ADA)
    headers = bearer(session)
    enrolled = await auth.client.post(
        "/v1/auth/mfa/factors", headers=headers, json={"friendly_name": "phone"}
    )
    assert enrolled.status_code == 201
    factor = enrolled.json()
    assert factor["qr_code"].startswith("data:image/svg+xml")

    async def verify(code: str) -> httpx.Response:
        challenge = await auth.client.post(
            "/v1/auth/mfa/challenge", headers=headers, json={"factor_id": factor["id"]}
        )
        return await auth.client.post(
            "/v1/auth/mfa/verify",
            headers=headers,
            json={
                "factor_id": factor["id"],
                "challenge_id": challenge.json()["id"],
                "code": code,
            },
        )

    right = _totp(factor["secret"], time.time())
    wrong = f"{(int(right) + 1) % 1_000_000:06d}"
    assert _problem(await verify(wrong)) == (401, "bad-credentials", "mfa_verification_failed")
    verified = await verify(right)
    assert verified.status_code == 200, verified.text
    assert verified.json()["user"]["aal"] == "aal2"
    me = await auth.client.get("/v1/me", headers=bearer(verified.json()))
    assert me.json()["aal"] == "aal2"
    stranger = {"factor_id": "0192f3a1-b2c3-7d4e-8f90-a1b2c3d4e5f6"}
    missing = await auth.client.post("/v1/auth/mfa/challenge", headers=headers, json=stranger)
    assert _problem(missing)[:2] == (404, "not-found")
    removed = await auth.client.delete(
        f"/v1/auth/mfa/factors/{factor['id']}", headers=bearer(verified.json())
    )
    assert removed.status_code == 204


async def test_the_service_away_is_a_503(open_auth: OpenAuth) -> None:
    async with open_auth() as auth:
        await auth.arm_fault(method="POST", path_contains="/token", status=503)
        answer = await auth.client.post(
            "/v1/auth/sign-in", json={"email": ADA, "password": PASSWORD}
        )
        assert _problem(answer)[:2] == (503, "temporarily-unavailable")
        assert answer.headers["retry-after"]


async def test_a_blank_of_the_keyboard_is_no_part_of_the_address(auth: AuthHarness) -> None:
    await auth.join(ADA)
    for email in (f"{ADA} ", f"  {ADA}", f" {ADA} "):
        body = {"email": email, "password": PASSWORD}
        answer = await auth.client.post("/v1/auth/sign-in", json=body)
        assert answer.status_code == 200, email
        assert answer.json()["user"]["email"] == ADA


async def test_bodies_are_checked_before_anything_is_sent(auth: AuthHarness) -> None:
    bodies: tuple[Any, ...] = (
        {"email": "no-at-sign", "password": "x"},
        {"email": "nul\x00@example.com", "password": "x"},
        {"email": ADA, "password": ""},
        {"email": ADA, "password": "x" * 73},
        {"email": ADA},
        {"email": ADA, "password": "x", "more": 1},
        [],
    )
    for body in bodies:
        answer = await auth.client.post("/v1/auth/sign-up", json=body)
        assert _problem(answer)[:2] == (400, "invalid-request")
        assert answer.json()["errors"]
