"""The official client, unmodified, through a person's whole life with the project."""

from collections.abc import Callable

import pytest
from storage3.exceptions import StorageApiError
from supabase import AsyncClient, AuthApiError
from supabase_auth.errors import AuthWeakPasswordError
from supabase_auth.types import MFAVerifyParams

from sandbox.supabase.auth.factors import totp
from tests.integration.sandbox_supabase.conftest import (
    PASSWORD,
    Sandbox,
    Starter,
    as_type,
    by_hash,
    credentials,
)

EMAIL = "ada@example.com"


async def _refused(code: str, awaitable: object) -> AuthApiError:
    with pytest.raises(AuthApiError) as caught:
        await awaitable  # type: ignore[misc]  # any of the client's coroutines
    assert caught.value.code == code
    return caught.value


async def _token_of(client: AsyncClient) -> str:
    session = await client.auth.get_session()
    assert session is not None
    return session.access_token


async def test_sign_up_confirm_refresh_second_factor_sign_out(start_sandbox: Starter) -> None:
    async with start_sandbox(refresh_reuse_seconds=0) as sandbox:
        client = await sandbox.supabase()
        signed_up = await client.auth.sign_up({"email": EMAIL, "password": PASSWORD})
        assert signed_up.session is None
        assert signed_up.user is not None
        assert signed_up.user.identities

        sign_in = client.auth.sign_in_with_password(credentials(EMAIL))
        await _refused("email_not_confirmed", sign_in)

        mail = sandbox.mailbox.latest(to=EMAIL, kind="signup")
        confirm = by_hash(mail.data["token_hash"])
        verified = await client.auth.verify_otp(confirm)
        assert verified.session is not None
        again = await sandbox.supabase()
        await _refused("otp_expired", again.auth.verify_otp(confirm))

        await _rotation(sandbox, verified.session.refresh_token)
        await _second_factor(sandbox)


async def _rotation(sandbox: Sandbox, first: str) -> None:
    """The parent of the active token is taken again, its grand-parent ends the session."""
    client = await sandbox.supabase()
    second = await client.auth.refresh_session(first)
    assert second.session is not None
    assert second.session.refresh_token != first
    parent = await client.auth.refresh_session(first)
    assert parent.session is not None
    assert parent.session.refresh_token == second.session.refresh_token
    third = await client.auth.refresh_session(second.session.refresh_token)
    assert third.session is not None
    token = third.session.access_token
    await _refused("refresh_token_already_used", client.auth.refresh_session(first))
    refusal = await _refused("session_not_found", client.auth.get_user(token))
    assert refusal.status == 403


async def _second_factor(sandbox: Sandbox) -> None:
    other = await sandbox.supabase()
    await other.auth.sign_in_with_password(credentials(EMAIL))
    other_token = await _token_of(other)

    client = await sandbox.supabase()
    signed_in = await client.auth.sign_in_with_password(credentials(EMAIL))
    assert signed_in.session is not None
    factor = await client.auth.mfa.enroll({"factor_type": "totp", "friendly_name": "phone"})
    assert factor.totp is not None
    challenge = await client.auth.mfa.challenge({"factor_id": factor.id})
    answer: MFAVerifyParams = {
        "factor_id": factor.id,
        "challenge_id": challenge.id,
        "code": "000",
    }
    await _refused("mfa_verification_failed", client.auth.mfa.verify(answer))
    answer["code"] = totp(factor.totp.secret)
    await client.auth.mfa.verify(answer)

    claims = await client.auth.get_claims()
    assert claims is not None
    before = await client.auth.get_claims(signed_in.session.access_token)
    assert before is not None
    assert claims["claims"]["aal"] == "aal2"
    assert claims["claims"]["session_id"] == before["claims"]["session_id"]
    assert {entry["method"] for entry in claims["claims"]["amr"]} == {"password", "totp"}
    await _refused("session_not_found", other.auth.get_user(other_token))

    refreshed = await client.auth.refresh_session()
    assert refreshed.session is not None
    kept = await client.auth.get_claims(refreshed.session.access_token)
    assert kept is not None
    assert kept["claims"]["aal"] == "aal2"

    weak = await sandbox.supabase()
    await weak.auth.sign_in_with_password(credentials(EMAIL))
    level = await weak.auth.mfa.get_authenticator_assurance_level()
    assert (level.current_level, level.next_level) == ("aal1", "aal2")
    refusal = await _refused("insufficient_aal", weak.auth.update_user({"password": "another one"}))
    assert refusal.status == 401

    token = await _token_of(client)
    await client.auth.sign_out()
    assert await client.auth.get_claims(token) is not None
    await _refused("session_not_found", client.auth.get_user(token))


async def test_uploads_follow_the_policies_of_the_database(
    sandbox: Sandbox, storage_sql: Callable[[str], None]
) -> None:
    storage_sql(
        "create policy own on storage.objects to authenticated"
        " using (bucket_id = 'docs' and (storage.foldername(name))[1] = (select auth.uid())::text)"
        " with check (bucket_id = 'docs' and (storage.foldername(name))[1]"
        " = (select auth.uid())::text)"
    )
    admin = await sandbox.admin()
    limits = {"file_size_limit": 1000, "allowed_mime_types": ["image/*", "text/plain"]}
    await admin.storage.create_bucket("docs", options=limits)  # type: ignore[arg-type]
    client = await sandbox.signed_in(EMAIL)
    user = await client.auth.get_user()
    assert user is not None
    bucket, folder = client.storage.from_("docs"), user.user.id

    await bucket.upload(f"{folder}/a.txt", b"hello", as_type("text/plain"))
    assert await bucket.download(f"{folder}/a.txt") == b"hello"
    for path, content, kind, status, code in (
        (f"{folder}/a.txt", b"hello", "text/plain", "409", "Duplicate"),
        ("someone/a.txt", b"hello", "text/plain", "403", "Unauthorized"),
        (f"{folder}/a.pdf", b"hello", "application/pdf", "415", "invalid_mime_type"),
        (f"{folder}/b.txt", b"h" * 1001, "text/plain", "413", "Payload too large"),
    ):
        with pytest.raises(StorageApiError) as caught:
            await bucket.upload(path, content, as_type(kind))
        assert (caught.value.status, caught.value.code) == (status, code)

    signed = await bucket.create_signed_url(f"{folder}/a.txt", 60)
    async with sandbox.http() as plain_client:
        url = signed["signedURL"]
        assert url is not None
        answer = await plain_client.get(url)
        assert answer.content == b"hello"
        elsewhere = url.replace("a.txt", "b.txt")
        assert (await plain_client.get(elsewhere)).json()["error"] == "InvalidSignature"


async def test_weak_password_says_why(sandbox: Sandbox) -> None:
    client = await sandbox.supabase()
    with pytest.raises(AuthWeakPasswordError) as caught:
        await client.auth.sign_up({"email": EMAIL, "password": "short"})
    assert caught.value.reasons == ["length"]
