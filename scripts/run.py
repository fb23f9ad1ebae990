"""The whole product, left running: `make run`. Ctrl-C stops all of it; data survives in .state/.

Prints the addresses, a demo user, an admin with a second factor, and three curl lines.
"""

import argparse
import asyncio
import signal
import sys
import threading
from pathlib import Path

import httpx
import msgspec
from supabase import AsyncClient, AsyncClientOptions, AuthApiError, acreate_client

from sandbox.stack.errors import StackError
from sandbox.stack.local import DEFAULT_STATE_DIR
from sandbox.stack.passwords import Passwords
from sandbox.stack.product import ROOT, Product
from sandbox.supabase.auth.factors import totp

USER = "demo@jewelshot.example"
ADMIN = "admin@jewelshot.example"
API_PORT = 8000
_WATCH_SECONDS = 1.0


class SignIns(msgspec.Struct, frozen=True):
    user_password: str
    admin_password: str
    admin_totp_secret: str


async def _client(environ: dict[str, str], key: str) -> AsyncClient:
    return await acreate_client(
        environ["SUPABASE_URL"],
        environ[key],
        AsyncClientOptions(flow_type="implicit", auto_refresh_token=False, persist_session=False),
    )


async def prepare_people(product: Product) -> SignIns:
    """A confirmed user with an open account and an admin with a second factor. Repeatable."""
    environ = product.environ()
    passwords = Passwords(product.state_dir / "people.json")
    user, admin = passwords.get("user"), passwords.get("admin")
    await _ensure_user(environ, USER, user)
    await _ensure_user(environ, ADMIN, admin)
    async with httpx.AsyncClient(base_url=product.api_url) as http:
        session = (
            await (await _client(environ, "SUPABASE_PUBLISHABLE_KEY")).auth.sign_in_with_password(
                {"email": USER, "password": user}
            )
        ).session
        assert session is not None
        opened = await http.get(
            "/v1/me", headers={"Authorization": f"Bearer {session.access_token}"}
        )
        opened.raise_for_status()
    kept = product.state_dir / "admin-totp.txt"
    secret = _read(kept)
    if secret is None:
        secret = await _enroll_second_factor(environ, admin)
        _write_secret(kept, secret)
    return SignIns(user, admin, secret)


async def _ensure_user(environ: dict[str, str], email: str, password: str) -> None:
    client = await _client(environ, "SUPABASE_SECRET_KEY")
    try:
        await client.auth.admin.create_user(
            {
                "email": email,
                "password": password,
                "email_confirm": True,
            }
        )
    except AuthApiError as error:
        if error.code != "email_exists":
            raise


async def _enroll_second_factor(environ: dict[str, str], password: str) -> str:
    """The admin's new TOTP secret; Auth shows it once, so it is kept in the state directory.

    The role comes after it: who gives the role answers for the factors that are there.
    """
    client = await _client(environ, "SUPABASE_PUBLISHABLE_KEY")
    signed_in = await client.auth.sign_in_with_password({"email": ADMIN, "password": password})
    assert signed_in.user is not None
    enrolled = await client.auth.mfa.enroll(
        {"factor_type": "totp", "friendly_name": "local", "issuer": "Jewelshot"}
    )
    assert enrolled.totp is not None
    secret = enrolled.totp.secret
    await client.auth.mfa.challenge_and_verify({"factor_id": enrolled.id, "code": totp(secret)})
    owner = await _client(environ, "SUPABASE_SECRET_KEY")
    await owner.auth.admin.update_user_by_id(signed_in.user.id, {"app_metadata": {"role": "admin"}})
    return secret


def _read(path: Path) -> str | None:
    return path.read_text().strip() if path.exists() else None


def _write_secret(path: Path, secret: str) -> None:
    path.touch(mode=0o600)
    path.write_text(secret + "\n")


def describe(product: Product, people: SignIns) -> str:
    url = product.api_url
    read = "python3 -c 'import json,sys; d=json.load(sys.stdin); print({})'"
    token = read.format('d["access_token"]')
    sample = (ROOT / "tests/data/samples/ring.jpg").relative_to(ROOT)
    return f"""
API      {url}
Docs     {url}/docs      OpenAPI {url}/schema/openapi.json
Health   {url}/readyz    Metrics {url}/metrics
Mail     {product.supabase_url}/__mail
Logs     {product.state_dir}/logs

User     {USER}   password {people.user_password}
Admin    {ADMIN}  password {people.admin_password}
         second factor (TOTP secret) {people.admin_totp_secret}

Try it (from this folder):

TOKEN=$(curl -s {url}/v1/auth/sign-in -H 'Content-Type: application/json' \
-d '{{"email":"{USER}","password":"{people.user_password}"}}' | {token})

UPLOAD=$(curl -s {url}/v1/uploads -H "Authorization: Bearer $TOKEN" -H 'Prefer: wait=25' \
-F 'file=@{sample}' | {read.format('d["id"]')})

curl -s {url}/v1/generations -H "Authorization: Bearer $TOKEN" -H 'Prefer: wait=25' \
-H 'Content-Type: application/json' \
-d "{{\\"operation\\":\\"packshot\\",\\"upload_id\\":\\"$UPLOAD\\"}}"

Ctrl-C stops everything; the data stays in {product.state_dir}.
"""


def _wait(product: Product, stop: threading.Event) -> int:
    """Until asked to stop, or until one of the processes ends by itself."""
    while not stop.wait(_WATCH_SECONDS):
        for child in (
            product.api,
            product.supabase,
            product.fal,
            product.stripe,
            *product.workers,
        ):
            if not child.is_running():
                print(f"run: {child.name} ended:\n{child.tail()}", file=sys.stderr)
                return 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="make run", description=__doc__)
    parser.add_argument("--state-dir", type=Path, default=DEFAULT_STATE_DIR)
    parser.add_argument("--port", type=int, default=API_PORT, help="of the API, when it is free")
    arguments = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    print("Starting PostgreSQL, Valkey, the sandbox, the API and a worker.", flush=True)
    try:
        with Product(arguments.state_dir, api_port=arguments.port) as product:
            people = asyncio.run(prepare_people(product))
            print(describe(product, people), flush=True)
            outcome = _wait(product, stop)
            print("Stopping.", flush=True)
    except StackError as error:
        print(f"run: {error}", file=sys.stderr)
        return 1
    print("Everything is stopped.")
    return outcome


if __name__ == "__main__":
    sys.exit(main())
