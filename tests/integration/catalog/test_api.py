"""The catalogue and estimates over HTTP."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from core.settings import Settings
from tests.harness.database import TestDatabase
from tests.harness.http import api_client
from tests.harness.settings import NOWHERE
from tests.harness.tokens import TokenIssuer


class Visitor(msgspec.Struct):
    client: httpx.AsyncClient
    database: TestDatabase
    issuer: TokenIssuer

    def sign_in(self, *, confirmed: bool = True) -> dict[str, str]:
        user_id = uuid.uuid4()
        self.database.rows(
            "insert into auth.users (id, aud, role, email, email_confirmed_at, created_at) values"
            " (%s, 'authenticated', 'authenticated', %s, case when %s then now() end, now())",
            (user_id, f"{user_id}@example.com", confirmed),
        )
        return self.issuer.headers(user_id)

    async def estimate(
        self, headers: dict[str, str], expected: int = 200, **body: Any
    ) -> dict[str, Any]:
        answer = await self.client.post("/v1/estimates", json=body, headers=headers)
        assert answer.status_code == expected, answer.text
        reply: dict[str, Any] = answer.json()
        return reply


@pytest.fixture
async def visitor(settings: Settings, database: TestDatabase) -> AsyncIterator[Visitor]:
    issuer = TokenIssuer(NOWHERE, database)
    async with api_client(settings, transport=issuer.transport()) as client:
        yield Visitor(client, database, issuer)


async def test_everybody_may_read_the_catalogue(visitor: Visitor) -> None:
    answer = await visitor.client.get("/v1/operations")
    assert answer.status_code == 200
    page = answer.json()
    assert page["next_cursor"] is None
    by_slug = {item["slug"]: item for item in page["items"]}
    scene = by_slug["scene"]
    assert scene["lane"] == "reimagined"
    assert "redraws" in scene["lane_explained"]
    assert "own pixels" in by_slug["packshot"]["lane_explained"]
    assert [preset["slug"] for preset in scene["presets"]] == [
        "marble",
        "velvet",
        "daylight",
        "dark_cards",
        "botanical",
    ]
    assert scene["params_schema"]["properties"]["prompt"]["maxLength"] == 1000
    assert by_slug["scene_hd"]["models"] == [
        "fal-ai/nano-banana-2/edit",
        "fal-ai/seedvr/upscale/image",
    ]
    assert by_slug["scene_hd"]["typical_seconds"] == 23
    single = await visitor.client.get("/v1/operations/scene")
    assert single.json() == scene


async def test_no_such_operation(visitor: Visitor) -> None:
    answer = await visitor.client.get("/v1/operations/no-such")
    assert (answer.status_code, answer.json()["kind"]) == (404, "operation")
    reply = await visitor.estimate(visitor.sign_in(), 404, operation="no-such")
    assert reply["kind"] == "operation"


async def test_an_estimate_needs_a_sign_in(visitor: Visitor) -> None:
    await visitor.estimate({}, 401, operation="packshot")
    reply = await visitor.estimate(visitor.sign_in(confirmed=False), 403, operation="packshot")
    assert reply["reason"] == "email_not_verified"


async def test_what_it_would_cost(visitor: Visitor) -> None:
    headers = visitor.sign_in()
    reply = await visitor.estimate(headers, operation="scene", count=2, params={"preset": "velvet"})
    assert (reply["cost_credits"], reply["total_credits"], reply["count"]) == (4, 8, 2)
    assert reply["balance"] == {"available": 10, "reserved": 0, "debt": 0}
    assert (reply["is_enough"], reply["missing_credits"]) == (True, 0)
    assert reply["params"] == {"preset": "velvet", "aspect_ratio": "1:1", "resolution": "1K"}
    assert reply["lane"] == "reimagined"
    reply = await visitor.estimate(headers, operation="scene", count=3)
    assert (reply["is_enough"], reply["missing_credits"], reply["params"]) == (False, 2, None)
    assert visitor.database.rows("select from app.reservations") == []


async def test_what_is_wrong_with_the_parameters(visitor: Visitor) -> None:
    reply = await visitor.estimate(
        visitor.sign_in(), 422, operation="packshot", params={"size": 99, "glitter": 1}
    )
    assert reply["type"].endswith("/problems/invalid-input")
    assert (reply["field"], reply["reason"]) == ("params", "params_do_not_fit")
    assert reply["errors"] == [
        {
            "pointer": "#/params/glitter",
            "detail": "is not a parameter here; there are: aspect_ratio, margin_percent, shadow, "
            "size",
        },
        {"pointer": "#/params/size", "detail": "must be at least 1024"},
    ]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"operation": "packshot", "count": 0},
        {"operation": "packshot", "count": 1001},
        {"operation": "packshot", "count": "two"},
        {"operation": "packshot", "params": [1]},
        {"operation": "packshot", "coupon": "x"},
        {"operation": "x" * 65},
    ],
)
async def test_a_body_of_another_form(visitor: Visitor, body: dict[str, Any]) -> None:
    reply = await visitor.estimate(visitor.sign_in(), 400, **body)
    assert reply["type"].endswith("/problems/invalid-request")


async def test_debt_is_part_of_what_is_missing(visitor: Visitor) -> None:
    headers = visitor.sign_in()
    await visitor.estimate(headers, operation="scene")
    visitor.database.rows(
        "select app.reverse_credits(id, 13, 'reversal:test', 'payment') from app.users"
    )
    reply = await visitor.estimate(headers, operation="scene")
    assert reply["balance"] == {"available": 0, "reserved": 0, "debt": 3}
    assert (reply["is_enough"], reply["missing_credits"]) == (False, 7)
