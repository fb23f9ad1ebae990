"""The OpenAPI document against the application: requests that nobody would think of.

Each documented route gets requests made from the document, some right and some wrong, from a user
and from an admin. No answer is a 500, and each is one that the document names.
"""

import asyncio
import contextlib
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from core.payments.service import list_packs
from core.payments.stripe import events
from core.payments.stripe.client import StripeClient
from core.payments.stripe.types import received_event
from core.payments.sync import sync_order
from core.pixels.pool import PixelPool
from sandbox.stack import EmbeddedValkey
from sandbox.stripe.app import create_app as create_stripe
from sandbox.stripe.config import StripeSandboxConfig
from sandbox.stripe.in_process import InProcessTransport
from scripts.stripe_setup import set_up
from tests.harness.database import cloned_database
from tests.harness.http import borrowed_app
from tests.harness.payments import STRIPE_URL, payments_settings
from tests.harness.payments_api import STRIPE_ORIGIN
from tests.harness.pipeline import API_URL, PhotoOwner, PipelineHarness
from tests.harness.pipeline_setup import pipeline_settings, set_up_pipeline
from tests.harness.run import Run
from tests.harness.settings import NOWHERE, build_settings

METHODS = {"get", "post", "put", "patch", "delete"}
EXAMPLES = 8
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def _document() -> dict[str, Any]:
    nowhere = "postgresql://nobody@127.0.0.1:9/none"
    offline = build_settings(
        database_url=nowhere,
        worker_database_url=nowhere,
        redis_url="redis://127.0.0.1:9/0",
        redis_prefix="offline",
        supabase_url=NOWHERE,
    )
    with borrowed_app(offline) as app:
        return app.openapi_schema.to_schema()


DOCUMENT = _document()
ROUTES = [
    (method.upper(), path)
    for path, item in DOCUMENT["paths"].items()
    for method in item
    if method in METHODS
]


class RunningPipeline:
    """A pipeline that runs on a loop of its own, for tests that are not coroutines."""

    def __init__(self, portal: BlockingPortal, pipeline: PipelineHarness) -> None:
        self._portal = portal
        self._pipeline = pipeline
        self.ids: dict[str, str] = {}
        self.headers: dict[str, dict[str, str]] = {}
        portal.call(self._make_data)

    async def _make_data(self) -> None:
        """A user with a finished and an open generation, and data for admins."""
        pipeline = self._pipeline
        ada = await pipeline.person(1000)
        done = await ada.start()
        await pipeline.finish(done)
        await pipeline.move("select app.add_task('gild', '{}', p_delay_seconds => 0)")
        await pipeline.run_tasks()
        (letter,) = pipeline.dead_letters()
        made = await pipeline.client.post(
            "/v1/admin/codes", json={"kind": "promo", "credits": 1}, headers=pipeline.admin()
        )
        (code,) = made.json()["codes"]
        self.headers = {"user": ada.headers, "admin": pipeline.admin(), "nobody": {}}
        self.ids = {
            **await self._buy(ada),
            "generation_id": done,
            "upload_id": str(ada.upload_id),
            "user_id": str(ada.id),
            "letter_id": str(letter["id"]),
            "code_id": code["id"],
            "issue_id": made.json()["issue_id"],
            "slug": "packshot",
        }

    async def _buy(self, ada: PhotoOwner) -> dict[str, str]:
        """A payment with a refund, and an event that waits."""
        pipeline = self._pipeline
        provider: StripeClient = pipeline.api.state.resources.payments
        sandbox = create_stripe(StripeSandboxConfig(base_url=STRIPE_URL))
        wire = InProcessTransport(sandbox)
        pipeline.router.connect(STRIPE_ORIGIN, wire)
        with contextlib.redirect_stdout(None):
            packs = await pipeline.ctx.db.run(list_packs)
            await set_up(pipeline.ctx.settings, provider, packs, endpoint=False)
        order = (await ada.post("/v1/checkout", {"pack": "credits_100"})).json()
        row = pipeline.database.row("select session_id from app.orders")
        async with httpx.AsyncClient(transport=wire, base_url=STRIPE_URL) as stripe:
            await stripe.post(f"/__control/sessions/{row['session_id']}/pay", json={})
            sent = (await stripe.get("/__control/events")).json()["events"]
        event = next(each for each in sent if each["type"] == "checkout.session.completed")
        await pipeline.ctx.db.run(lambda conn: events.receive(conn, received_event(event)))
        await sync_order(pipeline.ctx.db, provider, uuid.UUID(order["id"]))
        refund = await ada.post("/v1/refunds", {"order_id": order["id"], "credits": 10})
        return {
            "order_id": order["id"],
            "payment_id": order["id"],
            "refund_id": refund.json()["id"],
            "event_id": event["id"],
        }

    def send(self, case: Case[Any], who: str) -> httpx.Response:
        asked = case.as_transport_kwargs(base_url=API_URL)
        body = asked.get("data")
        is_text = isinstance(body, str | bytes)
        request = self._pipeline.client.build_request(
            asked["method"],
            asked["url"],
            params=asked.get("params"),
            headers=_headers(asked["headers"], self.headers[who]),
            cookies=asked.get("cookies"),
            json=asked.get("json"),
            content=body if is_text else None,
            data=None if is_text else body,
            files=[_part(*part) for part in asked["files"]] if asked.get("files") else None,
        )
        return self._portal.call(self._send, request)

    async def _send(self, request: httpx.Request) -> httpx.Response:
        await request.aread()  # the checks read what was sent
        async with asyncio.timeout(30):
            return await self._pipeline.client.send(request)

    def get(self, method: str, path: str, who: str) -> httpx.Response:
        request = self._pipeline.client.build_request(method, path, headers=self.headers[who])
        return self._portal.call(self._send, request)

    def drift(self) -> list[Any]:
        return list(self._pipeline.database.drift())


def _part(name: str, value: Any) -> tuple[str, Any]:
    """A form's part may be drawn as any JSON; what goes over the wire is bytes."""
    if not isinstance(value, tuple):
        return name, value if isinstance(value, bytes) else str(value).encode()
    file_name, content, *rest = value
    return name, (file_name, _part(name, content)[1], *rest)


def _headers(drawn: dict[str, Any], own: dict[str, str]) -> list[tuple[bytes, bytes]]:
    merged = {name.lower(): str(value) for name, value in drawn.items()}
    merged |= {name.lower(): value for name, value in own.items()}
    return [(name.encode(), value.encode("latin-1")) for name, value in merged.items()]


@pytest.fixture(scope="module")
def running_pipeline(
    test_run: Run, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningPipeline]:
    folder = Path(tmp_path_factory.mktemp("pipeline"))
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(cloned_database(test_run))
        valkey = stack.enter_context(
            EmbeddedValkey(test_run.new_folder("shared") / "valkey", durable=False)
        )
        ours = build_settings(
            database_url=database.api_url,
            worker_database_url=database.worker_url,
            redis_url=valkey.url(),
            redis_prefix="pipeline",
            **pipeline_settings(),
            **payments_settings(),
        )
        portal = stack.enter_context(start_blocking_portal())
        pixels = PixelPool(1)
        pipeline = stack.enter_context(
            portal.wrap_async_context_manager(set_up_pipeline(ours, database, pixels, folder))
        )
        made = RunningPipeline(portal, pipeline)
        yield made
        assert made.drift() == []
        portal.call(pixels.close)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("method", "path"), ROUTES, ids=lambda part: part)
def test_nothing_breaks_it(method: str, path: str, running_pipeline: RunningPipeline) -> None:
    operation = schemathesis.openapi.from_dict(DOCUMENT)[path][method]
    modes = [
        operation.as_strategy(generation_mode=mode)
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        if mode is GenerationMode.POSITIVE or _takes_anything(method, path)
    ]
    known = set(re.findall(r"{(\w+)}", path)) & set(running_pipeline.ids)

    @settings(
        max_examples=EXAMPLES * len(modes),
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=st.one_of(modes),
        who=st.sampled_from(["user", "user", "admin", "nobody"]),
        is_real=st.booleans(),
    )
    def attack(case: Case[Any], who: str, is_real: bool) -> None:
        if is_real:
            case.path_parameters.update({name: running_pipeline.ids[name] for name in known})
        response = running_pipeline.send(case, who)
        case.validate_response(response, checks=CHECKS)

    attack()


def _takes_anything(method: str, path: str) -> bool:
    operation = DOCUMENT["paths"][path][method.lower()]
    return bool(operation.get("parameters") or operation.get("requestBody"))


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=lambda part: part)
def test_every_documented_route_is_there(
    method: str, path: str, running_pipeline: RunningPipeline
) -> None:
    """Without a sign-in the answer says so; a path without a route would be a plain 404."""
    filled = re.sub(r"{\w+}", str(uuid.uuid4()), path)
    for who in ("nobody", "admin"):
        answer = running_pipeline.get(method, filled, who)
        assert answer.status_code != 405
        if answer.status_code == 404:
            assert "kind" in answer.json(), "no route"
    assert running_pipeline.get(method, "/nowhere" + filled, "admin").status_code == 404
