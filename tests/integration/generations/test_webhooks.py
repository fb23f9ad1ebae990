"""The provider's webhooks: genuine ones are hints, all others are nothing."""

import time
import uuid

import httpx
import msgspec
import pytest

from core.tasks.queues import Queue
from sandbox.fal.webhooks import Signer
from tests.harness.http import api_client
from tests.harness.pipeline import WEBHOOKS, PhotoOwner, PipelineHarness


def signer(pipeline: PipelineHarness) -> Signer:
    made: Signer = pipeline.provider.state.engine.signer
    return made


async def deliver(
    pipeline: PipelineHarness,
    path: str,
    *,
    request_id: str = "r-1",
    headers: dict[str, str] | None = None,
    client: httpx.AsyncClient | None = None,
) -> httpx.Response:
    """A webhook signed with the provider's own key; `headers` replace some of its headers."""
    body = msgspec.json.encode({"request_id": request_id, "status": "OK", "payload": {}})
    signed = signer(pipeline).headers(request_id=request_id, user_id="u", body=body)
    return await (client or pipeline.client).post(
        path, content=body, headers={**signed, **(headers or {})}
    )


async def running(pipeline: PipelineHarness, person: PhotoOwner) -> tuple[str, str]:
    """A generation that runs at the provider, and the path of its call's webhook."""
    await pipeline.fault("never_finishes")
    generation_id = await person.start()
    await pipeline.dispatch()
    (paid,) = await pipeline.paid_calls()
    return generation_id, httpx.URL(paid["webhook_url"]).path


async def test_a_genuine_one_makes_one_task(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    generation_id, path = await running(pipeline, ada)
    request_id = pipeline.call(generation_id)["request_id"]
    for _ in range(3):
        answer = await deliver(pipeline, path, request_id=request_id)
        assert (answer.status_code, answer.content) == (204, b"")
    assert pipeline.jobs().count("provider_call.collect") == 1
    await pipeline.until_woken(queue=Queue.PROVIDER)
    # The result decides, and the provider answers that it still runs.
    assert await pipeline.run_tasks("provider_call.collect") == ["done"]
    assert pipeline.state(generation_id) == "running"
    assert pipeline.call(generation_id)["next_poll_at"] is not None


async def test_two_at_the_same_moment_make_one_task(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("webhook_duplicate", count=3, gap=0)
    generation_id = await ada.start()
    await pipeline.submit()
    assert pipeline.jobs().count("provider_call.collect") == 1
    assert (await pipeline.finish(generation_id))["state"] == "succeeded"
    assert pipeline.balance(ada) == (9, 0)


@pytest.mark.parametrize("fault", ["webhook_unsigned", "webhook_bad_signature"])
async def test_forged_ones_are_refused(
    fault: str, pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault(fault)
    generation_id = await ada.start()
    await pipeline.submit()
    refused = [request for request in pipeline.router.sent if request.url.path.startswith(WEBHOOKS)]
    assert refused
    assert pipeline.state(generation_id) == "running"
    assert pipeline.jobs().count("provider_call.collect") == 0
    assert pipeline.call(generation_id)["webhook_at"] is None
    assert (await pipeline.finish(generation_id))["state"] == "succeeded", "polling finds it"


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"x-fal-webhook-timestamp": str(int(time.time()) - 400)}, "webhook_timestamp"),
        ({"x-fal-webhook-timestamp": "soon"}, "webhook_timestamp"),
        ({"x-fal-webhook-signature": "00" * 64}, "webhook_signature"),
        ({"x-fal-webhook-signature": "none"}, "webhook_signature"),
        ({"x-fal-webhook-user-id": "somebody else"}, "webhook_signature"),
    ],
)
async def test_altered_ones_are_refused(
    headers: dict[str, str], reason: str, pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    _, path = await running(pipeline, ada)
    answer = await deliver(pipeline, path, headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (403, reason)
    assert pipeline.jobs().count("provider_call.collect") == 0


async def test_the_token_names_the_call(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    generation_id, path = await running(pipeline, ada)
    call_id, token = path.rsplit("/", 2)[1:]
    for wrong in (
        f"{WEBHOOKS}{call_id}/{'0' * len(token)}",
        f"{WEBHOOKS}{call_id}/x",
        f"{WEBHOOKS}{uuid.uuid4()}/{token}",
    ):
        assert (await deliver(pipeline, wrong)).status_code == 404
    assert pipeline.call(generation_id)["webhook_at"] is None
    assert token not in str(pipeline.call(generation_id)), "only its hash is kept"


async def test_one_for_what_has_ended(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    await pipeline.fault("webhook_late", seconds=0)
    generation_id = await ada.start()
    await pipeline.finish(generation_id)
    (paid,) = await pipeline.paid_calls()
    before = pipeline.generation(generation_id)
    answer = await deliver(
        pipeline, httpx.URL(paid["webhook_url"]).path, request_id=paid["request_id"]
    )
    assert answer.status_code == 204
    assert pipeline.jobs() == []
    assert pipeline.generation(generation_id) == before


async def test_a_large_one_is_refused(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    _, path = await running(pipeline, ada)
    answer = await pipeline.client.post(path, content=b"x" * (1024 * 1024 + 1))
    assert answer.status_code == 413


async def test_keys_may_be_rotated(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    _, path = await running(pipeline, ada)
    assert (await deliver(pipeline, path)).status_code == 204
    signer(pipeline).rotate(keep_old=True)
    # This process asks again after half a minute; one that starts now knows both keys.
    async with api_client(pipeline.ctx.settings, transport=pipeline.router) as other:
        assert (await deliver(pipeline, path, client=other)).status_code == 204
