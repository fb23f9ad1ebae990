"""Which tokens are believed, and how the key set is fetched, kept and rotated."""

import asyncio
import base64
import hmac
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import jwt
import pytest
from structlog.testing import capture_logs

from core.errors import TemporarilyUnavailableError
from core.identity import passwords
from core.identity.errors import BadCredentialsError
from core.identity.tokens import Claims, TokenVerifier
from core.settings import Settings
from tests.harness.tokens import TokenIssuer

LEGACY_SECRET = "a-legacy-project-secret-of-at-least-32-bytes"


class _Clock:
    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def make_verifier(
    make_settings: Callable[..., Settings], issuer: TokenIssuer, clock: _Clock
) -> Callable[..., TokenVerifier]:
    def make(**overrides: object) -> TokenVerifier:
        http = httpx.AsyncClient(transport=issuer.transport())
        return TokenVerifier(make_settings(**overrides), http, now=clock)

    return make


@pytest.fixture
def verifier(make_verifier: Callable[..., TokenVerifier]) -> TokenVerifier:
    return make_verifier()


async def _reason(verifier: TokenVerifier, token: str) -> str:
    with pytest.raises(BadCredentialsError) as caught:
        await verifier.verify(token)
    return str(caught.value.fields["reason"])


async def test_claims_of_a_good_token(verifier: TokenVerifier, issuer: TokenIssuer) -> None:
    user_id = uuid.uuid4()
    claims = await verifier.verify(
        issuer.token(user_id, aal="aal2", app_metadata={"role": "admin"})
    )
    assert isinstance(claims, Claims)
    assert (claims.user_id, claims.aal, claims.is_admin) == (user_id, "aal2", True)
    assert claims.payload["sub"] == str(user_id)
    assert "user_metadata" not in claims.payload


async def test_rsa_keys_work_too(verifier: TokenVerifier, issuer: TokenIssuer) -> None:
    issuer.add_key("RS256")
    assert (await verifier.verify(issuer.token())).role == "authenticated"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": 1_000_000_000}, "expired_token"),
        ({"aud": "anon"}, "invalid_token"),
        ({"aud": None}, "invalid_token"),
        ({"iss": "https://evil.example.com/auth/v1"}, "invalid_token"),
        ({"iss": None}, "invalid_token"),
        ({"exp": None}, "invalid_token"),
        ({"sub": None}, "invalid_token"),
        ({"sub": "not-a-uuid"}, "invalid_token"),
        ({"session_id": None}, "invalid_token"),
        ({"session_id": "1"}, "invalid_token"),
        ({"role": None}, "invalid_token"),
        ({"role": "service_role"}, "not_a_user_token"),
        ({"role": "anon"}, "not_a_user_token"),
        ({"nbf": 9_999_999_999}, "invalid_token"),
    ],
)
async def test_other_claims_are_refused(
    changes: dict[str, Any], reason: str, verifier: TokenVerifier, issuer: TokenIssuer
) -> None:
    assert await _reason(verifier, issuer.token(**changes)) == reason


async def test_forgeries_are_refused(verifier: TokenVerifier, issuer: TokenIssuer) -> None:
    good = issuer.token()
    header, payload, signature = good.split(".")
    other = issuer.token(app_metadata={"role": "admin"}).split(".")[1]
    assert await _reason(verifier, f"{header}.{other}.{signature}") == "invalid_token"
    unsigned = _base64url(b'{"alg":"none"}')
    assert await _reason(verifier, f"{unsigned}.{payload}.") == "algorithm_not_allowed"
    for text in ("", "a", "a.b", "a.b.c", "é.ü.ß", good + "x" * 20_000):
        assert await _reason(verifier, text) in {"malformed_token", "invalid_token"}


async def test_a_public_key_is_no_hmac_secret(verifier: TokenVerifier, issuer: TokenIssuer) -> None:
    """The classic confusion: HS256 over the published key."""
    key = json.dumps(issuer.jwks[0]).encode()
    header = _base64url(json.dumps({"alg": "HS256", "kid": issuer.key_id}).encode())
    signed = f"{header}.{_base64url(json.dumps(issuer.claims()).encode())}"
    forged = f"{signed}.{_base64url(hmac.digest(key, signed.encode(), 'sha256'))}"
    assert await _reason(verifier, forged) == "algorithm_not_allowed"


async def test_legacy_secret_only_when_set(
    make_verifier: Callable[..., TokenVerifier], verifier: TokenVerifier, issuer: TokenIssuer
) -> None:
    token = jwt.encode(issuer.claims(), LEGACY_SECRET, algorithm="HS256")
    assert await _reason(verifier, token) == "algorithm_not_allowed"
    legacy = make_verifier(supabase_jwt_secret=LEGACY_SECRET)
    assert (await legacy.verify(token)).email == "ada@example.com"
    wrong = jwt.encode(issuer.claims(), LEGACY_SECRET + "x", algorithm="HS256")
    assert await _reason(legacy, wrong) == "invalid_token"
    assert (await legacy.verify(issuer.token())).role == "authenticated"


async def test_the_key_set_is_fetched_once(verifier: TokenVerifier, issuer: TokenIssuer) -> None:
    await asyncio.gather(*(verifier.verify(issuer.token()) for _ in range(20)))
    assert issuer.fetches == 1


async def test_a_known_token_expires_all_the_same(
    verifier: TokenVerifier, issuer: TokenIssuer, clock: _Clock
) -> None:
    token = issuer.token(exp=int(time.time()) + 60)
    await verifier.verify(token)
    clock.offset = 50
    await verifier.verify(token)
    clock.offset = 91
    assert await _reason(verifier, token) == "expired_token"


async def test_forged_keys_do_not_refuse_the_first_token_of_a_new_one(
    make_settings: Callable[..., Settings], issuer: TokenIssuer
) -> None:
    """The set is fetched for each of a few at once; who comes after these waits for the next."""
    verifier = TokenVerifier(
        make_settings(), httpx.AsyncClient(transport=issuer.transport()), refetch_seconds=0.2
    )
    await verifier.verify(issuer.token())
    issuer.add_key()
    assert (await verifier.verify(issuer.token())).role == "authenticated"
    assert issuer.fetches == 2, "though it had only just looked"
    stranger = TokenIssuer("http://127.0.0.1:9")
    for _ in range(8):
        assert await _reason(verifier, stranger.token()) == "unknown_key"
    issuer.add_key()
    forged = [verifier.verify(stranger.token()) for _ in range(50)]
    genuine = [verifier.verify(issuer.token()) for _ in range(5)]
    answers = await asyncio.gather(*forged, *genuine, return_exceptions=True)
    assert all(isinstance(answer, BadCredentialsError) for answer in answers[:50])
    assert all(isinstance(answer, Claims) for answer in answers[50:])
    # All of them share a fetch: a flood costs the publisher one request in each pause.
    before = issuer.fetches
    await asyncio.gather(
        *(verifier.verify(stranger.token()) for _ in range(50)), return_exceptions=True
    )
    assert issuer.fetches - before == 1
    await verifier.close()


async def test_a_removed_key_ends_its_tokens(
    verifier: TokenVerifier, issuer: TokenIssuer, clock: _Clock
) -> None:
    old_key, old_token = issuer.key_id, issuer.token()
    await verifier.verify(old_token)
    issuer.add_key()
    issuer.remove_key(old_key)
    clock.offset = 601
    await verifier.verify(old_token)  # answered from what we know; the refresh runs behind it
    await _settle(verifier)
    assert issuer.fetches == 2
    assert await _reason(verifier, old_token) == "unknown_key"


async def test_old_keys_serve_while_the_endpoint_is_away(
    verifier: TokenVerifier, issuer: TokenIssuer, clock: _Clock
) -> None:
    await verifier.verify(issuer.token())
    issuer.is_down = True
    clock.offset = 3_000
    assert (await verifier.verify(issuer.token(exp=int(time.time()) + 9_000))).role
    await _settle(verifier)
    assert (await verifier.verify(issuer.token(exp=int(time.time()) + 9_000))).role


async def test_without_any_key_it_is_not_the_callers_fault(
    verifier: TokenVerifier, issuer: TokenIssuer, clock: _Clock
) -> None:
    issuer.is_down = True
    for _ in range(3):
        with pytest.raises(TemporarilyUnavailableError):
            await verifier.verify(issuer.token())
    assert issuer.fetches == 1
    issuer.is_down = False
    clock.offset = 11
    await verifier.verify(issuer.token())


async def test_odd_keys_do_not_spoil_the_set(verifier: TokenVerifier, issuer: TokenIssuer) -> None:
    issuer.jwks[:0] = [
        {"kty": "OKP", "crv": "Ed25519", "kid": "okp", "x": "AAAA"},
        {"kty": "EC", "crv": "P-256", "kid": "broken", "x": "AA", "y": "AA"},
        {"kty": "oct", "kid": "secret", "k": "AAAA"},
        {"kty": "RSA"},
    ]
    assert (await verifier.verify(issuer.token())).role == "authenticated"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


async def _settle(verifier: TokenVerifier) -> None:
    task = verifier._keys._refresh
    assert task is not None
    await task


async def test_a_clock_that_is_half_a_minute_behind_refuses_nobody(
    verifier: TokenVerifier, issuer: TokenIssuer
) -> None:
    now = int(time.time())
    assert (await verifier.verify(issuer.token(iat=now + 25))).role
    with capture_logs() as lines:
        assert await _reason(verifier, issuer.token(iat=now + 45)) == "invalid_token"
    assert [line["event"] for line in lines] == ["auth.clock_is_behind"]


@pytest.mark.parametrize(
    "claims",
    [
        {"aal": ["aal2"]},
        {"aal": {"aal2": 1}},
        {"aal": 2},
        {"app_metadata": ["admin"]},
        {"app_metadata": {"role": ["admin"]}},
        {"email": ["ada@example.com"]},
    ],
)
async def test_claims_of_other_types_raise_nobody(
    verifier: TokenVerifier, issuer: TokenIssuer, claims: dict[str, Any]
) -> None:
    found = await verifier.verify(issuer.token(**claims))
    assert (found.aal, found.is_admin) == ("aal1", False)


async def test_ids_have_one_spelling_for_us_and_for_the_database(
    verifier: TokenVerifier, issuer: TokenIssuer
) -> None:
    user_id = uuid.uuid4()
    spelled = f"urn:uuid:{user_id}".upper().replace("URN:UUID", "urn:uuid")
    found = await verifier.verify(issuer.token(user_id, sub=spelled, session_id=spelled))
    assert {found.payload["sub"], found.payload["session_id"]} == {str(user_id)}
    assert (found.user_id, found.session_id) == (user_id, str(user_id))


@pytest.mark.parametrize("amr", [[{"method": ["otp"]}], [{"method": {}}], ["otp"], "otp", None])
async def test_how_a_session_began_may_be_of_any_type(
    verifier: TokenVerifier, issuer: TokenIssuer, amr: Any
) -> None:
    found = await verifier.verify(issuer.token(amr=amr))
    assert not passwords._came_by_mail(found)


@pytest.mark.parametrize(
    "claims",
    [
        {"role": ["authenticated"]},
        {"sub": ["x"]},
        {"session_id": {"a": 1}},
        {"exp": "soon"},
        {"exp": 10**30},
        {"iat": "1e999"},
        {"aud": {"authenticated": 1}},
    ],
)
async def test_claims_that_cannot_be_read_are_refused(
    verifier: TokenVerifier, issuer: TokenIssuer, claims: dict[str, Any]
) -> None:
    assert await _reason(verifier, issuer.token(**claims))


async def test_a_header_nested_without_end_is_malformed(verifier: TokenVerifier) -> None:
    header = base64.urlsafe_b64encode(b'{"alg":' + b"[" * 9_000).decode().rstrip("=")
    assert await _reason(verifier, f"{header}.e30.AA") == "malformed_token"
