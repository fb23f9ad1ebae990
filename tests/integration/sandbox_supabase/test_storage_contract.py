"""Replies recorded from a real Storage server, replayed against the stand-in.

What is compared is the text of the body, with ids, times and tokens masked; the beginning of it
where only that was kept.
"""

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from sandbox.supabase.keystore import KeyStore
from tests.integration.sandbox_supabase.conftest import BASE_URL, Sandbox

RECORDED: dict[str, Any] = msgspec.json.decode(
    Path(__file__).with_name("storage_recordings.json").read_bytes()
)
USER, OTHER = str(uuid.uuid4()), str(uuid.uuid4())

_MASKS = (
    (re.compile(r"eyJ[\w\-]*(\.[\w\-]*){0,2}"), "<jwt>"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "<time>"),
    (re.compile(r'"nextCursor":"[^"]*"'), '"nextCursor":"<cursor>"'),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "<id>"),
)

OWN_FOLDER = "bucket_id = 'docs' and (storage.foldername(name))[1] = (select auth.uid())::text"


def mask(text: str) -> str:
    text = text.replace(USER, "{user}")
    for pattern, name in _MASKS:
        text = pattern.sub(name, text)
    return text


def fill(value: Any) -> Any:
    """`{user}` and `{other}` in paths and bodies."""
    if isinstance(value, str):
        return value.replace("{user}", USER).replace("{other}", OTHER)
    if isinstance(value, list):
        return [fill(entry) for entry in value]
    if isinstance(value, dict):
        return {name: fill(entry) for name, entry in value.items()}
    return value


class Replay:
    """Sends recorded steps. There is no gateway in front, as there was none: no `apikey`."""

    def __init__(self, client: httpx.AsyncClient, keys: KeyStore, stranger: KeyStore) -> None:
        self._client = client
        self._kept: dict[str, str] = {}
        person = {"role": "authenticated", "aud": "authenticated", "exp": time.time() + 600}
        self._tokens = {
            "service": keys.sign_access({"role": "service_role", "exp": time.time() + 600}),
            "user": keys.sign_access(person | {"sub": USER}),
            "other": keys.sign_access(person | {"sub": OTHER}),
            "expired": keys.sign_access(person | {"sub": USER, "exp": 1}),
            "roleless": keys.sign_access({"sub": USER, "exp": time.time() + 600}),
            "forged": stranger.sign_access(person | {"sub": USER}),
            "junk": "junk",
            "literal": "sb_secret_anything",
        }

    async def send(self, step: dict[str, Any]) -> httpx.Response:
        url = f"{BASE_URL}/storage/v1{fill(step['path'])}"
        if "token" in step:
            token = self._kept[step["token"]]
            if step.get("tamper"):
                head, body, signature = token.split(".")
                token = f"{head}.{body}.{'A' * len(signature)}"
            url += f"?token={token}{step.get('query', '')}"
        headers = dict(step.get("headers", {}))
        if step["as"] in self._tokens:
            headers["authorization"] = f"Bearer {self._tokens[step['as']]}"
        if "wait_seconds" in step:
            await asyncio.sleep(step["wait_seconds"])
        response = await self._client.request(
            step["method"], url, headers=headers, **_content(step)
        )
        if "keep" in step:
            found = re.search(r"eyJ[\w\-.]+", response.text)
            assert found is not None, response.text
            self._kept[step["keep"]] = found[0]
        return response


def _content(step: dict[str, Any]) -> dict[str, Any]:
    if "json" in step:
        return {"json": fill(step["json"])}
    if "raw" in step:
        return {"content": step["raw"]}
    if step.get("multipart_without_file"):
        return {"files": {"cacheControl": (None, "60")}}
    if "upload" not in step:
        return {}
    upload = step["upload"]
    file = ("file.bin", upload["content"].encode(), upload["mime"])
    return {"data": {"cacheControl": upload["cache"]}, "files": {step.get("part", "file"): file}}


def differences(step: dict[str, Any], response: httpx.Response) -> list[str]:
    """What is not as recorded, in words."""
    wanted, body = step["reply"], mask(response.text)
    found = []
    if response.status_code != wanted["status"]:
        found.append(f"status {response.status_code}, recorded {wanted['status']}")
    if wanted["type"] and response.headers.get("content-type") != wanted["type"]:
        found.append(f"type {response.headers.get('content-type')}, recorded {wanted['type']}")
    same = body.startswith(wanted["body"]) if wanted.get("cut") else body == wanted["body"]
    if not same:
        found.append(f"body {body}, recorded {wanted['body']}")
    for name, value in wanted.get("headers", {}).items():
        if response.headers.get(name) != value:
            found.append(f"{name}: {response.headers.get(name)}, recorded {value}")
    found.extend(f"no {name}" for name in wanted.get("present", []) if name not in response.headers)
    return found


@pytest.fixture
async def replay(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Replay]:
    keys = KeyStore(sandbox.config.data_dir, jwt_secret=None)
    async with sandbox.http() as client:
        yield Replay(client, keys, KeyStore(tmp_path / "stranger", jwt_secret=None))


async def test_recorded_sequence(replay: Replay, storage_sql: Callable[[str], None]) -> None:
    storage_sql(
        f"create policy own on storage.objects to authenticated using ({OWN_FOLDER})"
        f" with check ({OWN_FOLDER})"
    )
    wrong = {}
    for step in RECORDED["sequence"]:
        found = differences(step, await replay.send(step))
        if found:
            wrong[step["step"]] = found
    assert wrong == {}


async def _fill_bucket(replay: Replay, *names: str) -> None:
    """Bucket `m` with these objects, made by the service."""
    bucket = {"id": "m", "name": "m", "public": False}
    steps = [{"method": "POST", "path": "/bucket", "json": bucket}]
    upload = {"content": "hello", "mime": "text/plain", "cache": "60"}
    steps += [{"method": "POST", "path": f"/object/m/{name}", "upload": upload} for name in names]
    for step in steps:
        response = await replay.send(step | {"as": "service"})
        assert response.status_code == 200, response.text


async def test_recorded_single_replies(replay: Replay) -> None:
    await _fill_bucket(replay, "e.txt")
    wrong = {}
    for step in RECORDED["singles"]:
        found = differences(step, await replay.send(step))
        if found:
            wrong[step["step"]] = found
    assert wrong == {}


async def test_recorded_keys(replay: Replay) -> None:
    await _fill_bucket(replay)
    found = {}
    for key in RECORDED["keys"]:
        encoded = "".join(f"%{byte:02X}" for byte in key.encode())
        upload = {"content": "x", "mime": "text/plain", "cache": "60"}
        path = f"/object/m/{encoded}"
        step = {"as": "service", "method": "POST", "path": path, "upload": upload}
        found[key] = _outcome(await replay.send(step))
    assert found == RECORDED["keys"]


def _outcome(response: httpx.Response) -> str:
    if response.status_code == 200:
        return "empty" if response.text == "[]" else "ok"
    body = response.json()
    return f"{body['statusCode']}/{body['error']}"


VERBS = {"I": "insert", "S": "select", "U": "update", "D": "delete"}


def _policies(letters: str) -> list[str]:
    statements = ["drop policy if exists m_" + letter + " on storage.objects" for letter in VERBS]
    for letter in [] if letters == "none" else letters.split("+"):
        verb = VERBS[letter]
        using = "" if verb == "insert" else " using (bucket_id = 'm')"
        check = "" if verb in {"select", "delete"} else " with check (bucket_id = 'm')"
        statements.append(
            f"create policy m_{letter} on storage.objects for {verb} to authenticated{using}{check}"
        )
    return statements


UPLOAD = {"content": "x", "mime": "text/plain", "cache": "60"}
UPSERT = {"x-upsert": "true"}
OPERATIONS: dict[str, dict[str, Any]] = {
    "upload new": {"method": "POST", "path": "/object/m/new", "upload": UPLOAD},
    "upsert new": {"method": "POST", "path": "/object/m/up", "upload": UPLOAD, "headers": UPSERT},
    "upsert existing": {
        "method": "POST", "path": "/object/m/e.txt", "upload": UPLOAD, "headers": UPSERT,
    },
    "update(PUT) existing": {"method": "PUT", "path": "/object/m/e.txt", "upload": UPLOAD},
    "download": {"method": "GET", "path": "/object/m/e.txt"},
    "list": {"method": "POST", "path": "/object/list/m", "json": {"prefix": ""}},
    "sign": {"method": "POST", "path": "/object/sign/m/e.txt", "json": {"expiresIn": "60"}},
    "sign upload": {"method": "POST", "path": "/object/upload/sign/m/s.txt"},
    "copy": {
        "method": "POST", "path": "/object/copy",
        "json": {"bucketId": "m", "sourceKey": "e.txt", "destinationKey": "copy"},
    },
    "move": {
        "method": "POST", "path": "/object/move",
        "json": {"bucketId": "m", "sourceKey": "e.txt", "destinationKey": "moved"},
    },
    "remove": {"method": "DELETE", "path": "/object/m", "json": {"prefixes": ["e.txt"]}},
}  # fmt: skip


async def test_policies_each_operation_needs(
    replay: Replay, storage_sql: Callable[[str], None]
) -> None:
    """The measured table: which policies on storage.objects let which operation through."""
    assert OPERATIONS.keys() == RECORDED["policies"].keys()
    await _fill_bucket(replay)
    found: dict[str, dict[str, str]] = {name: {} for name in OPERATIONS}
    for letters in RECORDED["policies"]["move"]:
        for statement in _policies(letters):
            storage_sql(statement)
        for name, step in OPERATIONS.items():
            await replay.send({"as": "service", "method": "POST", "path": "/bucket/m/empty"})
            existing = {"method": "POST", "path": "/object/m/e.txt", "upload": UPLOAD}
            await replay.send(existing | {"as": "service"})
            found[name][letters] = _outcome(await replay.send(step | {"as": "user"}))
    assert found == RECORDED["policies"]
