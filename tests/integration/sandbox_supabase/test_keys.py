"""Signing keys: what verifiers see, across rotation, restart and legacy projects."""

import jwt
from jwt import PyJWK

from sandbox.supabase.gateway import legacy_api_keys
from tests.integration.sandbox_supabase.conftest import (
    BASE_URL,
    PASSWORD,
    PUBLISHABLE,
    Sandbox,
    Starter,
    credentials,
)

EMAIL = "emmy@example.com"
JWKS = f"{BASE_URL}/auth/v1/.well-known/jwks.json"


async def token_of(sandbox: Sandbox, email: str = EMAIL) -> str:
    client = await sandbox.signed_in(email)
    session = await client.auth.get_session()
    assert session is not None
    return session.access_token


async def key_set(sandbox: Sandbox) -> dict[str, PyJWK]:
    async with sandbox.http() as client:
        response = await client.get(JWKS)
    assert response.headers["cache-control"] == "public, max-age=600"
    return {key["kid"]: PyJWK(key) for key in response.json()["keys"]}


async def test_tokens_verify_by_the_key_set(sandbox: Sandbox) -> None:
    token = await token_of(sandbox)
    keys = await key_set(sandbox)
    header = jwt.get_unverified_header(token)
    assert header == {"alg": "ES256", "kid": header["kid"], "typ": "JWT"}
    claims = jwt.decode(
        token,
        keys[header["kid"]],
        algorithms=["ES256"],
        audience="authenticated",
        issuer=f"{BASE_URL}/auth/v1",
        options={"require": ["exp", "iat", "sub", "role", "session_id", "phone", "is_anonymous"]},
    )
    assert claims["email"] == EMAIL
    assert (claims["aal"], claims["amr"][0]["method"]) == ("aal1", "password")
    assert claims["app_metadata"] == {"provider": "email", "providers": ["email"]}


async def test_rotation_keeps_old_tokens_until_the_key_is_revoked(sandbox: Sandbox) -> None:
    old = await token_of(sandbox)
    user = {"apikey": PUBLISHABLE, "authorization": f"Bearer {old}"}
    async with sandbox.http() as client:
        rotated = (await client.post(f"{BASE_URL}/__control/rotate-key")).json()["kid"]
        assert (await client.get(f"{BASE_URL}/auth/v1/user", headers=user)).is_success
    new = await token_of(sandbox, "second@example.com")
    assert jwt.get_unverified_header(new)["kid"] == rotated
    assert len(await key_set(sandbox)) == 2
    async with sandbox.http() as client:
        await client.post(f"{BASE_URL}/__control/rotate-key?revoke=true")
        refused = await client.get(f"{BASE_URL}/auth/v1/user", headers=user)
    assert refused.status_code == 403
    assert len(await key_set(sandbox)) == 1


async def test_tokens_links_and_bytes_survive_a_restart(start_sandbox: Starter) -> None:
    async with start_sandbox() as sandbox:
        token = await token_of(sandbox)
        admin = await sandbox.admin()
        await admin.storage.create_bucket("kept")
        await admin.storage.from_("kept").upload("a.txt", b"hello")
        link = (await admin.storage.from_("kept").create_signed_url("a.txt", 60))["signedURL"]
    assert link is not None
    async with start_sandbox() as sandbox, sandbox.http() as client:
        user = {"apikey": PUBLISHABLE, "authorization": f"Bearer {token}"}
        assert (await client.get(f"{BASE_URL}/auth/v1/user", headers=user)).is_success
        assert (await client.get(link)).content == b"hello"
        stored = sandbox.config.data_dir / "keys.json"
        assert stored.stat().st_mode & 0o077 == 0


async def test_a_legacy_project_signs_with_its_secret(start_sandbox: Starter) -> None:
    secret = "a legacy secret of at least 32 characters"
    anon, service = legacy_api_keys(secret)
    async with start_sandbox(jwt_secret=secret) as sandbox:
        admin = await sandbox.supabase(service)
        await admin.auth.admin.create_user(
            {"email": EMAIL, "password": PASSWORD, "email_confirm": True}
        )
        client = await sandbox.supabase(anon)
        signed_in = await client.auth.sign_in_with_password(credentials(EMAIL))
        assert signed_in.session is not None
        token = signed_in.session.access_token
        jwt.decode(token, secret, algorithms=["HS256"], audience="authenticated")
        assert await key_set(sandbox) == {}
        assert await client.auth.get_claims() is not None
        assert await client.storage.list_buckets() is not None


async def test_wrong_algorithms_are_refused(sandbox: Sandbox) -> None:
    await token_of(sandbox)
    forged = jwt.encode({"sub": "x", "role": "service_role"}, "x" * 32, algorithm="HS256")
    async with sandbox.http(apikey=PUBLISHABLE, authorization=f"Bearer {forged}") as client:
        assert (await client.get(f"{BASE_URL}/auth/v1/admin/users")).status_code == 403
        listed = await client.get(f"{BASE_URL}/storage/v1/bucket")
        assert listed.json()["message"] == "signature verification failed"
