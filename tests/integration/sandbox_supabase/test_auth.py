"""What stand-ins of Auth get wrong, one test each, mostly through the official client."""

import asyncio
import base64
import hashlib
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from supabase import AuthApiError
from supabase_auth.types import MFAVerifyParams

from sandbox.supabase.auth.factors import totp
from tests.harness.database import TestDatabase
from tests.integration.sandbox_supabase.conftest import (
    BASE_URL,
    PASSWORD,
    PUBLISHABLE,
    SECRET,
    Sandbox,
    Starter,
    by_hash,
    credentials,
)

EMAIL = "grace@example.com"
AUTH = f"{BASE_URL}/auth/v1"
NEW_SHAPE = {"x-supabase-api-version": "2024-01-01"}


async def post(
    sandbox: Sandbox, path: str, body: dict[str, Any], *, key: str = PUBLISHABLE, **headers: str
) -> httpx.Response:
    async with sandbox.http(apikey=key, **headers) as client:
        return await client.post(f"{AUTH}{path}", json=body)


async def call(
    sandbox: Sandbox, method: str, path: str, token: str, body: Any = None
) -> httpx.Response:
    """As a user, with the new shape of errors."""
    async with sandbox.http(apikey=PUBLISHABLE, authorization=f"Bearer {token}") as client:
        return await client.request(method, f"{AUTH}{path}", json=body, headers=NEW_SHAPE)


async def access_token(sandbox: Sandbox, email: str = EMAIL) -> str:
    client = await sandbox.signed_in(email)
    session = await client.auth.get_session()
    assert session is not None
    return session.access_token


async def test_errors_have_two_shapes(sandbox: Sandbox) -> None:
    wrong = {"email": EMAIL, "password": "wrong"}
    path = "/token?grant_type=password"
    old = await post(sandbox, path, wrong)
    assert old.status_code == 400
    assert old.json() == {
        "code": 400,
        "error_code": "invalid_credentials",
        "msg": "Invalid login credentials",
    }
    new = await post(sandbox, path, wrong, **NEW_SHAPE)
    assert new.json() == {"code": "invalid_credentials", "message": "Invalid login credentials"}
    assert new.headers["x-supabase-api-version"] == "2024-01-01"
    assert new.headers["x-sb-error-code"] == "invalid_credentials"


async def test_mails_answer_an_object_also_for_strangers(sandbox: Sandbox) -> None:
    await sandbox.signed_in(EMAIL)
    for path, body in (
        ("/otp", {"email": EMAIL}),
        ("/recover", {"email": EMAIL}),
        ("/recover", {"email": "nobody@example.com"}),
        ("/resend", {"type": "signup", "email": "nobody@example.com"}),
    ):
        response = await post(sandbox, path, body)
        assert (response.status_code, response.json()) == (200, {}), path
    assert sandbox.mailbox.list_mails(to="nobody@example.com") == []
    unknown = {"email": "nobody@example.com", "create_user": False}
    refused = await post(sandbox, "/otp", unknown)
    assert refused.json()["error_code"] == "otp_disabled"


async def test_repeated_sign_up_does_not_tell_who_has_an_account(sandbox: Sandbox) -> None:
    await sandbox.signed_in(EMAIL)
    body = {"email": EMAIL, "password": PASSWORD, "data": {"a": 1}}
    answers = [(await post(sandbox, "/signup", body)).json() for _ in range(2)]
    assert [answer["identities"] for answer in answers] == [[], []]
    assert [answer["role"] for answer in answers] == ["", ""]
    assert answers[0]["id"] != answers[1]["id"]
    assert sandbox.mailbox.list_mails(to=EMAIL) == []


async def test_second_sign_up_before_confirmation_keeps_the_password(sandbox: Sandbox) -> None:
    for password in (PASSWORD, "another one"):
        response = await post(sandbox, "/signup", {"email": EMAIL, "password": password})
        assert response.json()["identities"]
    mails = sandbox.mailbox.list_mails(to=EMAIL)
    assert len(mails) == 2
    client = await sandbox.supabase()
    with pytest.raises(AuthApiError, match="invalid or has expired"):
        await client.auth.verify_otp(by_hash(mails[0].data["token_hash"]))
    await client.auth.verify_otp(by_hash(mails[1].data["token_hash"]))
    await client.auth.sign_in_with_password(credentials(EMAIL))


async def test_sign_up_is_refused_where_production_refuses_it(start_sandbox: Starter) -> None:
    async with start_sandbox(autoconfirm=True) as sandbox:
        first = await post(sandbox, "/signup", {"email": EMAIL, "password": PASSWORD})
        assert first.json()["user"]["email_confirmed_at"]
        again = await post(sandbox, "/signup", {"email": EMAIL, "password": PASSWORD})
        assert (again.status_code, again.json()["error_code"]) == (422, "user_already_exists")
    async with start_sandbox(signup_enabled=False) as sandbox:
        closed = await post(sandbox, "/signup", {"email": "a@b.co", "password": PASSWORD})
        assert closed.json()["error_code"] == "signup_disabled"
        wrong = await post(sandbox, "/signup", {"email": "no address", "password": PASSWORD})
        assert wrong.status_code in {400, 422}


async def test_a_code_and_a_link_are_one_token(sandbox: Sandbox) -> None:
    client = await sandbox.supabase()
    await client.auth.sign_up({"email": EMAIL, "password": PASSWORD})
    mail = sandbox.mailbox.latest(to=EMAIL, kind="signup")
    code = mail.data["token"]
    expected = hashlib.sha224(f"{EMAIL}{code}".encode()).hexdigest()
    assert mail.data["token_hash"] == expected
    wrong = f"{(int(code) + 1) % 1_000_000:06d}"
    with pytest.raises(AuthApiError) as caught:
        await client.auth.verify_otp({"email": EMAIL, "token": wrong, "type": "signup"})
    assert caught.value.message == "Token has expired or is invalid"
    answer = await client.auth.verify_otp({"email": EMAIL, "token": code, "type": "signup"})
    assert answer.session is not None
    used = await post(sandbox, "/verify", {"token_hash": expected, "type": "email"})
    assert (used.status_code, used.json()["error_code"]) == (403, "otp_expired")


async def test_verify_by_hash_takes_nothing_else(sandbox: Sandbox) -> None:
    await post(sandbox, "/signup", {"email": EMAIL, "password": PASSWORD})
    mail = sandbox.mailbox.latest(to=EMAIL)
    body = {"token_hash": mail.data["token_hash"], "type": "email", "email": EMAIL}
    refused = await post(sandbox, "/verify", body)
    assert (refused.status_code, refused.json()["error_code"]) == (400, "validation_failed")


async def test_of_two_verifications_at_once_one_wins(sandbox: Sandbox) -> None:
    await post(sandbox, "/signup", {"email": EMAIL, "password": PASSWORD})
    body = {"token_hash": sandbox.mailbox.latest(to=EMAIL).data["token_hash"], "type": "email"}
    answers = await asyncio.gather(*(post(sandbox, "/verify", body) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 403, 403, 403]


async def test_an_expired_link_is_refused(sandbox: Sandbox, database: TestDatabase) -> None:
    await post(sandbox, "/signup", {"email": EMAIL, "password": PASSWORD})
    database.rows(
        "update auth.users set confirmation_sent_at = now() - interval '2 hours' where email = %s",
        (EMAIL,),
    )
    body = {"token_hash": sandbox.mailbox.latest(to=EMAIL).data["token_hash"], "type": "email"}
    assert (await post(sandbox, "/verify", body)).json()["error_code"] == "otp_expired"


async def test_a_followed_link_is_used_up_and_a_looked_at_one_is_not(sandbox: Sandbox) -> None:
    await post(sandbox, "/signup", {"email": EMAIL, "password": PASSWORD})
    token_hash = sandbox.mailbox.latest(to=EMAIL).data["token_hash"]
    target = "http://127.0.0.1:3000/welcome"
    url = f"{AUTH}/verify?token={token_hash}&type=signup&redirect_to={target}"
    async with sandbox.http() as client:
        assert (await client.head(url)).status_code == 405
        first, second = await client.get(url), await client.get(url)
    assert first.status_code == 303
    landed = urlsplit(first.headers["location"])
    assert landed._replace(fragment="").geturl() == target
    fragment = parse_qs(landed.fragment, keep_blank_values=True)
    assert fragment.keys() == {
        "access_token", "expires_at", "expires_in", "refresh_token", "sb", "token_type", "type",
    }  # fmt: skip
    assert fragment["type"] == ["signup"]
    assert second.headers["location"] == (
        f"{target}#error=access_denied&error_code=otp_expired"
        "&error_description=Email+link+is+invalid+or+has+expired&sb="
    )


@pytest.mark.parametrize(
    ("wanted", "landed"),
    [
        ("https://evil.example/x", "http://127.0.0.1:3000"),
        ("http://127.0.0.1:3000/fine", "http://127.0.0.1:3000/fine"),
        ("https://app.example.com/cb", "https://app.example.com/cb"),
        ("https://app.example.com/cb/deep", "http://127.0.0.1:3000"),
        ("javascript:alert(1)", "http://127.0.0.1:3000"),
    ],
)
async def test_unknown_redirects_become_the_site(
    start_sandbox: Starter, wanted: str, landed: str
) -> None:
    async with start_sandbox(redirect_allow_list=("https://app.example.com/*",)) as sandbox:
        client = await sandbox.supabase()
        await client.auth.sign_up(
            {"email": EMAIL, "password": PASSWORD, "options": {"email_redirect_to": wanted}}
        )
        assert sandbox.mailbox.latest(to=EMAIL).data["redirect_to"] == landed


async def test_pkce_links_land_with_a_code(sandbox: Sandbox) -> None:
    client = await sandbox.supabase(flow_type="pkce")
    await client.auth.sign_up({"email": EMAIL, "password": PASSWORD})
    token_hash = sandbox.mailbox.latest(to=EMAIL).data["token_hash"]
    assert token_hash.startswith("pkce_")
    async with sandbox.http() as browser:
        landed = await browser.get(f"{AUTH}/verify?token={token_hash}&type=signup")
    location = urlsplit(landed.headers["location"])
    assert location.fragment == ""
    code = parse_qs(location.query)["code"][0]
    wrong = {"auth_code": code, "code_verifier": "x" * 43}
    refused = await post(sandbox, "/token?grant_type=pkce", wrong)
    assert refused.json()["error_code"] == "bad_code_verifier"
    session = await client.auth.exchange_code_for_session(
        {"auth_code": code, "code_verifier": "", "redirect_to": ""}
    )
    assert session.session is not None
    used = await post(sandbox, "/token?grant_type=pkce", wrong)
    assert (used.status_code, used.json()["error_code"]) == (404, "flow_state_not_found")


async def test_the_pkce_prefix_may_be_left_out(sandbox: Sandbox) -> None:
    client = await sandbox.supabase(flow_type="pkce")
    await client.auth.sign_up({"email": EMAIL, "password": PASSWORD})
    token_hash = sandbox.mailbox.latest(to=EMAIL).data["token_hash"]
    await client.auth.verify_otp(by_hash(token_hash.removeprefix("pkce_")))


async def test_reuse_within_the_interval_is_no_theft(sandbox: Sandbox) -> None:
    client = await sandbox.signed_in(EMAIL)
    session = await client.auth.get_session()
    assert session is not None
    tokens = [session.refresh_token]
    for _ in range(2):
        answer = await post(
            sandbox, "/token?grant_type=refresh_token", {"refresh_token": tokens[-1]}
        )
        tokens.append(answer.json()["refresh_token"])
        assert answer.headers["sb-auth-session-id"]
    grandparent = {"refresh_token": tokens[0]}
    assert (await post(sandbox, "/token?grant_type=refresh_token", grandparent)).is_success


async def test_tabs_that_refresh_at_once_keep_their_session(sandbox: Sandbox) -> None:
    client = await sandbox.signed_in(EMAIL)
    session = await client.auth.get_session()
    assert session is not None
    body = {"refresh_token": session.refresh_token}
    path = "/token?grant_type=refresh_token"
    answers = await asyncio.gather(*(post(sandbox, path, body) for _ in range(5)))
    assert [answer.status_code for answer in answers] == [200] * 5
    assert len({answer.json()["refresh_token"] for answer in answers}) == 1


async def test_refresh_refusals(sandbox: Sandbox) -> None:
    path = "/token?grant_type=refresh_token"
    unknown = await post(sandbox, path, {"refresh_token": "nonsense"})
    assert unknown.json()["error_code"] == "refresh_token_not_found"
    empty = await post(sandbox, path, {"refresh_token": ""})
    assert empty.json() == {
        "error": "invalid_request",
        "error_description": "refresh_token required",
    }


async def test_bearer_problems(sandbox: Sandbox) -> None:
    token = await access_token(sandbox)
    async with sandbox.http() as client:
        assert (await client.get(f"{AUTH}/user")).status_code == 401
        wrong = await client.get(f"{AUTH}/user", headers={"apikey": "sb_publishable_other"})
        assert wrong.json()["message"] == "Invalid API key"
        none = await client.get(f"{AUTH}/user", headers={"apikey": PUBLISHABLE} | NEW_SHAPE)
        assert (none.status_code, none.json()["code"]) == (401, "no_authorization")
        swapped = {"apikey": PUBLISHABLE, "authorization": f"Bearer {SECRET}"}
        assert (await client.get(f"{AUTH}/user", headers=swapped)).status_code == 401
    for bad in ("junk", PUBLISHABLE, token[:-4] + "AAAA"):
        answer = await call(sandbox, "GET", "/user", bad)
        assert (answer.status_code, answer.json()["code"]) == (403, "bad_jwt"), bad
    assert (await call(sandbox, "GET", "/user", token)).json()["email"] == EMAIL


async def test_the_admin_api_needs_the_secret_key(sandbox: Sandbox) -> None:
    token = await access_token(sandbox)
    for bearer in (token, PUBLISHABLE):
        answer = await call(sandbox, "GET", "/admin/users", bearer)
        assert (answer.status_code, answer.json()["code"]) == (403, "not_admin")
    async with sandbox.http(apikey=SECRET) as client:
        assert (await client.get(f"{AUTH}/admin/users")).is_success
        browser = {"user-agent": "Mozilla/5.0 (X11; Linux x86_64)"}
        refused = await client.get(f"{AUTH}/admin/users", headers=browser)
        assert refused.status_code == 401
        # A secret key beside a user's token is that user.
        user = {"authorization": f"Bearer {token}"}
        assert (await client.get(f"{AUTH}/admin/users", headers=user)).status_code == 403


async def test_admin_users(sandbox: Sandbox) -> None:
    admin = (await sandbox.admin()).auth.admin
    made = await admin.create_user(
        {
            "email": EMAIL,
            "password": PASSWORD,
            "email_confirm": True,
            "app_metadata": {"role": "admin"},
            "user_metadata": {"name": "Grace"},
        }
    )
    user_id = made.user.id
    assert made.user.app_metadata["role"] == "admin"
    with pytest.raises(AuthApiError) as caught:
        await admin.create_user({"email": EMAIL, "password": PASSWORD})
    assert caught.value.code == "email_exists"
    assert [user.id for user in await admin.list_users()] == [user_id]
    changed = await admin.update_user_by_id(
        user_id, {"user_metadata": {"name": None, "city": "Izmir"}, "ban_duration": "24h"}
    )
    assert "name" not in changed.user.user_metadata
    assert changed.user.user_metadata["city"] == "Izmir"
    client = await sandbox.supabase()
    with pytest.raises(AuthApiError) as caught:
        await client.auth.sign_in_with_password(credentials(EMAIL))
    assert caught.value.code == "user_banned"
    await admin.update_user_by_id(user_id, {"ban_duration": "none"})
    await client.auth.sign_in_with_password(credentials(EMAIL))
    await admin.delete_user(user_id, should_soft_delete=True)
    await admin.create_user({"email": EMAIL, "password": PASSWORD})
    await admin.delete_user(user_id)
    with pytest.raises(AuthApiError) as caught:
        await admin.get_user_by_id(user_id)
    assert (caught.value.status, caught.value.code) == (404, "user_not_found")


async def test_admin_pages(sandbox: Sandbox) -> None:
    admin = (await sandbox.admin()).auth.admin
    for number in range(3):
        await admin.create_user({"email": f"p{number}@example.com", "password": PASSWORD})
    assert len(await admin.list_users(page=2, per_page=2)) == 1
    async with sandbox.http(apikey=SECRET) as client:
        answer = await client.get(f"{AUTH}/admin/users?page=1&per_page=2")
    assert answer.headers["x-total-count"] == "3"
    assert 'rel="next"' in answer.headers["link"]


async def test_invitations(sandbox: Sandbox) -> None:
    admin = (await sandbox.admin()).auth.admin
    invited = await admin.invite_user_by_email(EMAIL)
    assert invited.user.invited_at is not None
    client = await sandbox.supabase()
    token_hash = sandbox.mailbox.latest(to=EMAIL, kind="invite").data["token_hash"]
    await client.auth.verify_otp(by_hash(token_hash, "invite"))
    await client.auth.update_user({"password": PASSWORD})
    await client.auth.sign_in_with_password(credentials(EMAIL))
    with pytest.raises(AuthApiError) as caught:
        await admin.invite_user_by_email(EMAIL)
    assert caught.value.code == "email_exists"


async def test_generated_links_send_no_mail(sandbox: Sandbox) -> None:
    admin = (await sandbox.admin()).auth.admin
    link = await admin.generate_link({"type": "magiclink", "email": EMAIL})
    assert link.properties.verification_type == "signup"
    assert sandbox.mailbox.list_mails() == []
    async with sandbox.http() as browser:
        landed = await browser.get(link.properties.action_link)
    assert "access_token=" in landed.headers["location"]
    recovery = await admin.generate_link({"type": "recovery", "email": EMAIL})
    client = await sandbox.supabase()
    await client.auth.verify_otp(by_hash(recovery.properties.hashed_token, "recovery"))
    with pytest.raises(AuthApiError) as caught:
        await admin.generate_link({"type": "recovery", "email": "nobody@example.com"})
    assert caught.value.code == "user_not_found"


async def test_a_new_password_ends_the_other_sessions(sandbox: Sandbox) -> None:
    client = await sandbox.signed_in(EMAIL)
    other = await sandbox.supabase()
    signed_in = await other.auth.sign_in_with_password(credentials(EMAIL))
    assert signed_in.session is not None
    with pytest.raises(AuthApiError) as caught:
        await client.auth.update_user({"password": PASSWORD})
    assert caught.value.code == "same_password"
    await client.auth.update_user({"password": "something new"})
    with pytest.raises(AuthApiError) as caught:
        await other.auth.get_user(signed_in.session.access_token)
    assert caught.value.code == "session_not_found"
    assert await client.auth.get_user() is not None


async def test_recovery_lets_a_forgotten_password_be_set(sandbox: Sandbox) -> None:
    await sandbox.signed_in(EMAIL)
    client = await sandbox.supabase()
    await client.auth.reset_password_for_email(EMAIL)
    mail = sandbox.mailbox.latest(to=EMAIL, kind="recovery")
    assert mail.data["link"].startswith("http://127.0.0.1:3000/auth/confirm?token_hash=")
    assert "type=recovery" in mail.data["link"]
    await client.auth.verify_otp(by_hash(mail.data["token_hash"], "recovery"))
    await client.auth.update_user({"password": "something new"})
    await client.auth.sign_in_with_password(credentials(EMAIL, "something new"))


async def test_a_secure_email_change_takes_both_addresses(sandbox: Sandbox) -> None:
    client = await sandbox.signed_in(EMAIL)
    changed = await client.auth.update_user({"email": "new@example.com"})
    assert changed.user.new_email == "new@example.com"
    current = sandbox.mailbox.latest(to=EMAIL, kind="email_change")
    new = sandbox.mailbox.latest(to="new@example.com", kind="email_change")
    body = {"type": "email_change", "token_hash": current.data["token_hash"]}
    half = await post(sandbox, "/verify", body)
    assert half.json()["code"] == "200"
    assert "access_token" not in half.json()
    whole = await post(sandbox, "/verify", body | {"token_hash": new.data["token_hash"]})
    assert whole.json()["user"]["email"] == "new@example.com"
    await client.auth.sign_in_with_password(credentials("new@example.com"))


async def test_reauthentication_guards_old_sessions(
    start_sandbox: Starter, database: TestDatabase
) -> None:
    async with start_sandbox(reauthentication_required=True) as sandbox:
        client = await sandbox.signed_in(EMAIL)
        database.rows("update auth.sessions set created_at = now() - interval '25 hours'")
        with pytest.raises(AuthApiError) as caught:
            await client.auth.update_user({"password": "something new"})
        assert caught.value.code == "reauthentication_needed"
        await client.auth.reauthenticate()
        nonce = sandbox.mailbox.latest(to=EMAIL, kind="reauthentication").data["token"]
        await client.auth.update_user({"password": "something new", "nonce": nonce})


async def test_sign_out_scopes(sandbox: Sandbox, database: TestDatabase) -> None:
    client = await sandbox.signed_in(EMAIL)
    other = await sandbox.supabase()
    await other.auth.sign_in_with_password(credentials(EMAIL))
    await client.auth.sign_out({"scope": "others"})
    assert database.row("select count(*) as n from auth.sessions")["n"] == 1
    assert await client.auth.get_user() is not None
    await client.auth.sign_out({"scope": "local"})
    assert database.row("select count(*) as n from auth.sessions")["n"] == 0


async def test_second_factor_refusals(sandbox: Sandbox, database: TestDatabase) -> None:
    client = await sandbox.signed_in(EMAIL)
    unnamed = await client.auth.mfa.enroll({"factor_type": "totp"})
    assert unnamed.friendly_name == ""
    assert unnamed.totp is not None
    assert "<svg" in unnamed.totp.qr_code
    named = await client.auth.mfa.enroll({"factor_type": "totp", "friendly_name": "phone"})
    assert named.totp is not None
    with pytest.raises(AuthApiError) as caught:
        await client.auth.mfa.enroll({"factor_type": "totp", "friendly_name": "phone"})
    assert caught.value.code == "mfa_factor_name_conflict"

    challenge = await client.auth.mfa.challenge({"factor_id": named.id})
    answer: MFAVerifyParams = {
        "factor_id": named.id,
        "challenge_id": challenge.id,
        "code": totp(named.totp.secret),
    }
    sandbox.client_ip = "127.0.0.2"
    elsewhere = await sandbox.supabase()
    session = await client.auth.get_session()
    assert session is not None
    await elsewhere.auth.set_session(session.access_token, session.refresh_token)
    with pytest.raises(AuthApiError) as caught:
        await elsewhere.auth.mfa.verify(answer)
    assert caught.value.code == "mfa_ip_address_mismatch"
    database.rows("update auth.mfa_challenges set created_at = now() - interval '6 minutes'")
    with pytest.raises(AuthApiError) as caught:
        await client.auth.mfa.verify(answer)
    assert caught.value.code == "mfa_challenge_expired"

    fresh = await client.auth.mfa.challenge({"factor_id": named.id})
    answer["challenge_id"] = fresh.id
    await client.auth.mfa.verify(answer)
    with pytest.raises(AuthApiError) as caught:
        await client.auth.mfa.verify(answer)
    assert caught.value.code == "mfa_ip_address_mismatch"
    factors = await client.auth.mfa.list_factors()
    assert [factor.id for factor in factors.totp] == [named.id]
    assert [factor.id for factor in factors.all] == [named.id]

    weak = await sandbox.supabase()
    await weak.auth.sign_in_with_password(credentials(EMAIL))
    with pytest.raises(AuthApiError) as caught:
        await weak.auth.mfa.unenroll({"factor_id": named.id})
    assert (caught.value.status, caught.value.code) == (422, "insufficient_aal")
    with pytest.raises(AuthApiError) as caught:
        await weak.auth.mfa.enroll({"factor_type": "totp", "friendly_name": "second"})
    assert (caught.value.status, caught.value.code) == (403, "insufficient_aal")
    await client.auth.mfa.unenroll({"factor_id": named.id})
    refreshed = await client.auth.refresh_session()
    assert refreshed.session is not None
    claims = await client.auth.get_claims(refreshed.session.access_token)
    assert claims is not None
    assert claims["claims"]["aal"] == "aal1"


async def test_limits_can_be_turned_on(start_sandbox: Starter) -> None:
    async with start_sandbox(email_interval_seconds=60) as sandbox:
        await post(sandbox, "/signup", {"email": EMAIL, "password": PASSWORD})
        again = await post(sandbox, "/resend", {"type": "signup", "email": EMAIL})
        assert again.status_code == 429
        assert again.json()["error_code"] == "over_email_send_rate_limit"
        assert again.json()["msg"].startswith("For security purposes, you can only request this")
    async with start_sandbox(rate_limits_enabled=True) as sandbox:
        body = {"email": "nobody@example.com"}
        codes = [(await post(sandbox, "/recover", body)).status_code for _ in range(31)]
        assert codes == [200] * 30 + [429]
        forwarded = {"sb-forwarded-for": "198.51.100.7"}
        assert (await post(sandbox, "/recover", body, key=SECRET, **forwarded)).is_success
    async with start_sandbox(emails_per_hour_max=1) as sandbox:
        await post(sandbox, "/signup", {"email": "a@example.com", "password": PASSWORD})
        over = await post(sandbox, "/signup", {"email": "b@example.com", "password": PASSWORD})
        assert over.json()["error_code"] == "over_email_send_rate_limit"


async def test_challenges_are_checked_as_they_come(sandbox: Sandbox) -> None:
    verifier = "v" * 43
    digest = hashlib.sha256(verifier.encode()).digest()
    challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    lonely = await post(sandbox, "/recover", {"email": EMAIL, "code_challenge": challenge})
    assert lonely.json()["error_code"] == "validation_failed"
    short = {"email": EMAIL, "code_challenge": "short", "code_challenge_method": "s256"}
    assert (await post(sandbox, "/recover", short)).status_code == 400


async def test_bodies_that_are_no_json(sandbox: Sandbox) -> None:
    async with sandbox.http(apikey=PUBLISHABLE) as client:
        broken = await client.post(f"{AUTH}/signup", content=b"{")
        assert broken.json()["error_code"] == "bad_json"
        listed = await client.post(f"{AUTH}/signup", json=["a"])
        assert listed.json()["error_code"] == "bad_json"
        typed = await client.post(f"{AUTH}/signup", json={"email": 1, "password": "x"})
        assert typed.json()["error_code"] == "bad_json"
        large = await client.post(f"{AUTH}/signup", content=b" " * (1024 * 1024 + 1))
        assert large.status_code == 413


async def test_what_is_not_offered_says_so(sandbox: Sandbox) -> None:
    token = await access_token(sandbox)
    async with sandbox.http() as client:
        assert (await client.get(f"{AUTH}/authorize?provider=google")).status_code == 400
        assert (await client.get(f"{AUTH}/health")).json()["name"] == "GoTrue"
        assert (await client.get(f"{AUTH}/settings")).json()["external"]["email"] is True
    linked = await call(sandbox, "GET", "/user/identities/authorize?provider=google", token)
    assert (linked.status_code, linked.json()["code"]) == (404, "manual_linking_disabled")
    user = (await call(sandbox, "GET", "/user", token)).json()
    only = user["identities"][0]["identity_id"]
    unlinked = await call(sandbox, "DELETE", f"/user/identities/{only}", token)
    assert unlinked.json()["code"] == "single_identity_not_deletable"
