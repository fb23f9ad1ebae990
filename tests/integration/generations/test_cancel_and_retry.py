"""Cancelling, which is free before the start and a request afterwards; and doing it again."""

from tests.harness.pipeline import WEBHOOKS, PhotoOwner, PipelineHarness


async def test_cancelling_before_the_start_is_free(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    generation_id = await ada.start("scene")
    assert pipeline.balance(ada) == (6, 4)

    answer = await ada.post(f"/v1/generations/{generation_id}/cancel")
    view = answer.json()
    assert (answer.status_code, view["state"], view["money"]) == (200, "cancelled", "refunded")
    assert view["problem"]["code"] == "cancelled"
    assert pipeline.balance(ada) == (10, 0)
    again = await ada.post(f"/v1/generations/{generation_id}/cancel")
    assert (again.status_code, again.json()["version"]) == (200, view["version"])
    # Its ticket serves whoever waits; nobody does.
    assert await pipeline.run_tasks() == ["done"]
    assert pipeline.submits() == 0


async def test_cancelling_at_the_provider_is_a_request(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("never_finishes")
    generation_id = await ada.start("scene")
    await pipeline.dispatch()

    answer = await ada.post(f"/v1/generations/{generation_id}/cancel")
    view = answer.json()
    assert (answer.status_code, view["state"], view["money"]) == (200, "running", "reserved")
    assert view["is_cancel_requested"] is True
    assert view["version"] == 4, "a request is a change too"
    assert pipeline.balance(ada) == (6, 4), "money moves on the verified end"

    assert await pipeline.run_tasks("provider_call.cancel") == ["done"]
    found = await pipeline.finish(generation_id)
    assert (found["state"], found["ending"]) == ("cancelled", "cancelled")
    assert pipeline.balance(ada) == (10, 0)
    assert pipeline.call(generation_id)["state"] == "cancelled"
    (paid,) = await pipeline.paid_calls()
    assert paid["state"] == "cancelled"


async def test_cancelling_twice_asks_once(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    await pipeline.fault("never_finishes")
    generation_id = await ada.start("scene")
    await pipeline.dispatch()
    first = await ada.post(f"/v1/generations/{generation_id}/cancel")
    second = await ada.post(f"/v1/generations/{generation_id}/cancel")
    assert second.json()["version"] == first.json()["version"]
    assert pipeline.jobs().count("provider_call.cancel") == 1


async def test_an_image_that_is_delivered_all_the_same_is_charged(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("cancel_race")
    pipeline.router.hold(WEBHOOKS)
    generation_id = await ada.start()
    await pipeline.dispatch()
    assert (await ada.post(f"/v1/generations/{generation_id}/cancel")).status_code == 200
    await pipeline.run_tasks("provider_call.cancel")
    await pipeline.router.let_through()
    await pipeline.settle()

    found = await pipeline.finish(generation_id)
    assert found["state"] == "succeeded"
    assert pipeline.balance(ada) == (9, 0)
    view = await ada.read(generation_id)
    assert (view["money"], view["is_cancel_requested"]) == ("charged", True)


async def test_a_cancel_that_comes_before_the_submits_answer(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    """The call cannot be named yet; the cancel is asked for as soon as it can."""
    await pipeline.fault("never_finishes")
    generation_id = await ada.start()
    (intent,) = await pipeline.open_calls()
    assert (await ada.post(f"/v1/generations/{generation_id}/cancel")).status_code == 200
    await pipeline.run_tasks("provider_call.cancel")
    await pipeline.send(intent)
    assert pipeline.state(generation_id) == "running"

    found = await pipeline.finish(generation_id)
    assert found["state"] == "cancelled"
    assert pipeline.balance(ada) == (10, 0)
    assert [call["state"] for call in await pipeline.paid_calls()] == ["cancelled"]


async def test_a_cancelled_one_is_not_submitted_again(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    """Refused with a passing error after the cancel: no other attempt."""
    await pipeline.fault("submit_html_error", times=1)
    generation_id = await ada.start()
    (intent,) = await pipeline.open_calls()
    assert (await ada.post(f"/v1/generations/{generation_id}/cancel")).status_code == 200
    await pipeline.send(intent)
    pipeline.pass_backoff()
    await pipeline.sweep()
    await pipeline.dispatch()

    assert pipeline.state(generation_id) == "cancelled"
    assert pipeline.balance(ada) == (10, 0)
    assert await pipeline.paid_calls() == []
    assert len(pipeline.calls(generation_id)) == 1


async def test_what_has_ended_cannot_be_cancelled(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    generation_id = await ada.start()
    await pipeline.finish(generation_id)
    answer = await ada.post(f"/v1/generations/{generation_id}/cancel")
    problem = answer.json()
    assert (answer.status_code, problem["reason"], problem["state"]) == (
        409,
        "already_finished",
        "succeeded",
    )
    assert pipeline.balance(ada) == (9, 0)


async def test_doing_it_again(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    await pipeline.fault("content_policy", times=1)
    old = await ada.start("packshot", params={"shadow": "soft"}, priority="batch")
    assert (await pipeline.finish(old))["state"] == "failed"

    answer = await ada.post(f"/v1/generations/{old}/retry")
    view = answer.json()
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/generations/{view['id']}"
    assert answer.headers["retry-after"]
    assert (view["retry_of"], view["operation"], view["priority"]) == (old, "packshot", "batch")
    assert view["params"]["shadow"] == "soft"
    assert pipeline.balance(ada) == (9, 1)
    assert (await pipeline.finish(view["id"]))["state"] == "succeeded"
    assert pipeline.balance(ada) == (9, 0)


async def test_doing_it_again_is_paid_again(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    old = await ada.start()
    open_one = await ada.post(f"/v1/generations/{old}/retry")
    assert (open_one.status_code, open_one.json()["reason"]) == (409, "not_finished")
    await pipeline.finish(old)
    async with pipeline.working():
        again = await ada.post(f"/v1/generations/{old}/retry", wait=20)
    assert (again.status_code, again.json()["state"]) == (200, "succeeded")
    assert pipeline.balance(ada) == (8, 0)

    await pipeline.move("select app.reverse_credits(%s, 8, 'reversal:x', 'payment')", (ada.id,))
    refused = await ada.post(f"/v1/generations/{old}/retry")
    assert refused.status_code == 402
