"""What the provider answers when it does not deliver, and the end that each has."""

import io
from typing import Any

import pytest
from PIL import Image

from core.pixels.limits import OUTPUT_BYTES_MAX
from tests.harness.pipeline import FAL_URL, SUPABASE_URL, PhotoOwner, PipelineHarness
from tests.harness.pipeline_setup import fal_key
from tests.integration.generations.conftest import OpenPipeline


@pytest.mark.parametrize(
    ("fault", "args", "code"),
    [
        ("content_policy", {}, "content_refused"),
        ("result_error", {"type": "image_too_small", "status": 422}, "photo_too_small"),
        ("result_error", {"type": "image_too_large", "status": 422}, "photo_too_large"),
        ("result_error", {"type": "file_too_large", "status": 422}, "photo_file_too_large"),
        ("result_error", {"type": "image_load_error", "status": 422}, "photo_unreadable"),
        ("result_error", {"type": "unsupported_image_format", "status": 422}, "photo_format"),
        ("result_error", {"type": "one_of", "status": 422}, "params_refused"),
        ("result_error", {"status": 422}, "no_image"),
        ("result_error", {"type": "bad_request"}, "input_refused"),
    ],
)
async def test_a_refusal_is_final(
    fault: str, args: dict[str, Any], code: str, pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault(fault, **args)
    generation_id = await ada.start("scene")
    found = await pipeline.finish(generation_id)
    assert (found["state"], found["ending"]) == ("failed", code)
    assert pipeline.balance(ada) == (10, 0)
    call = pipeline.call(generation_id)
    assert (call["state"], call["is_resubmission"]) == ("failed", False)
    assert call["http_status"] in {400, 422}
    (paid,) = await pipeline.paid_calls()
    assert (paid["state"], paid["billable_units"]) == ("failed", 0)
    # The vendor's own words are for our records, not for the user.
    assert call["error_type"]


async def test_a_photo_that_the_provider_could_not_fetch_is_asked_for_again(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("result_error", type="file_download_error", status=422, times=1)
    first = await ada.start()
    assert (await pipeline.finish(first))["state"] == "succeeded"
    await pipeline.fault("result_error", type="file_download_error", status=422)
    second = await ada.start()
    found = await pipeline.finish(second)
    assert (found["state"], found["ending"]) == ("failed", "photo_not_fetched")
    assert len(pipeline.calls(second)) == 3
    said = (await ada.read(second))["problem"]["detail"]
    assert "from us" in said
    assert "this photo" not in said


async def test_a_model_that_is_not_there_for_a_moment(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    """The provider's edge is deployed: nobody's photo is at fault."""
    await pipeline.outage("path_not_found", routes=["submit"], times=3)
    generation_id = await ada.start("scene")
    found = await pipeline.finish(generation_id)
    assert (found["state"], found["attempts"]) == ("succeeded", 0)
    assert len(await pipeline.paid_calls()) == 1


async def test_a_model_that_was_removed(
    pipeline: PipelineHarness, ada: PhotoOwner, capsys: pytest.CaptureFixture[str]
) -> None:
    await pipeline.outage("path_not_found", routes=["submit"])
    generation_id = await ada.start("scene")
    found = await pipeline.finish(generation_id, rounds=20)
    assert (found["state"], found["ending"]) == ("failed", "model_missing")
    assert len(pipeline.calls(generation_id)) == 10
    assert pipeline.balance(ada) == (10, 0)
    assert "provider.model_missing" in capsys.readouterr().out
    assert "does not offer" in (await ada.read(generation_id))["problem"]["detail"]


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_submit_that_is_refused(
    status: int, pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("submit_4xx", status=status)
    generation_id = await ada.start("scene")
    found = await pipeline.finish(generation_id)
    assert (found["state"], found["ending"]) == ("failed", "input_refused")
    assert pipeline.states(generation_id) == ["queued", "submitting", "failed"]
    assert pipeline.balance(ada) == (10, 0)
    assert pipeline.call(generation_id)["state"] == "refused"
    assert await pipeline.paid_calls() == []


@pytest.mark.parametrize(
    "args",
    [
        {"status": 500},
        {"status": 503},
        {"status": 504},
        {"type": "generation_timeout", "status": 504},
        {"type": "downstream_service_error", "status": 400},
        {"type": "runner_disconnected"},
    ],
)
async def test_a_passing_failure_is_tried_again(
    args: dict[str, Any], pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("result_error", times=1, **args)
    generation_id = await ada.start()
    found = await pipeline.finish(generation_id)
    assert found["state"] == "succeeded"
    assert (found["attempts"], found["resubmissions"]) == (1, 0)
    assert [call["state"] for call in pipeline.calls(generation_id)] == ["failed", "succeeded"]
    assert [call["state"] for call in await pipeline.paid_calls()] == ["failed", "billed"]
    assert pipeline.balance(ada) == (9, 0)


async def test_attempts_have_an_end(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    await pipeline.fault("result_error", status=500)
    generation_id = await ada.start()
    found = await pipeline.finish(generation_id)
    assert (found["state"], found["ending"]) == ("failed", "provider_failed")
    assert [call["state"] for call in pipeline.calls(generation_id)] == ["failed"] * 3
    assert pipeline.balance(ada) == (10, 0)
    assert pipeline.jobs() == []


async def test_another_attempt_waits_a_moment(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    await pipeline.fault("result_error", times=1, status=500)
    generation_id = await ada.start()
    await pipeline.submit()
    await pipeline.run_tasks()
    found = pipeline.generation(generation_id)
    assert found["state"] == "queued"
    assert 1 < (found["available_at"] - pipeline.now()).total_seconds() < 5
    assert await pipeline.dispatch() == 0


@pytest.mark.parametrize("fault", ["status_5xx", "result_5xx"])
@pytest.mark.parametrize("args", [{"status": 500}, {"status": 503, "html": True}])
async def test_a_look_that_fails_says_nothing_about_the_image(
    fault: str, args: dict[str, Any], open_pipeline: OpenPipeline
) -> None:
    async with open_pipeline(provider_webhooks=False) as pipeline:
        ada = await pipeline.person()
        await pipeline.fault(fault, count=3, **args)
        generation_id = await ada.start()
        assert (await pipeline.finish(generation_id))["state"] == "succeeded"
        assert pipeline.call(generation_id)["state"] == "succeeded"
        assert len(await pipeline.paid_calls()) == 1


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_the_ingress_did_not_take_it(
    status: int, pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    """nginx answered for a gateway that it did not reach: surely not accepted, not an attempt."""
    await pipeline.fault("submit_html_error", times=4, status=status)
    generation_id = await ada.start()
    found = await pipeline.finish(generation_id)
    assert (found["state"], found["attempts"]) == ("succeeded", 0)
    assert [call["state"] for call in pipeline.calls(generation_id)] == ["refused"] * 4 + [
        "succeeded"
    ]
    assert len(await pipeline.paid_calls()) == 1


async def test_nobody_is_there(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    pipeline.router.refuse(FAL_URL)
    generation_id = await ada.start()
    assert await pipeline.dispatch() == 1
    assert pipeline.states(generation_id) == ["queued", "submitting", "queued"]
    assert pipeline.account()["cooldown_until"] > pipeline.now()
    assert pipeline.account()["breaker_state"] == "closed"
    assert await pipeline.dispatch() == 0, "the account pauses"

    pipeline.router.accept(FAL_URL)
    pipeline.pass_cooldown()
    found = await pipeline.finish(generation_id)
    assert (found["state"], found["attempts"]) == ("succeeded", 0)
    assert len(await pipeline.paid_calls()) == 1


async def test_our_own_storage_is_away(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    """No POST was made without the photo's URL; the generation waits."""
    generation_id = await ada.start()
    pipeline.router.refuse(SUPABASE_URL)
    await pipeline.dispatch()
    assert pipeline.state(generation_id) == "queued"
    assert await pipeline.paid_calls() == []
    pipeline.router.accept(SUPABASE_URL)
    found = await pipeline.finish(generation_id)
    assert (found["state"], found["attempts"]) == ("succeeded", 0)


async def test_a_photo_that_vanished(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    """Nothing was sent, so nothing is uncertain: the credits come back at once."""
    generation_id = await ada.start()
    key = pipeline.generation(generation_id)["input_key"]
    await pipeline.ctx.storage.delete(pipeline.ctx.settings.storage_bucket_uploads, [key])
    await pipeline.dispatch()
    found = pipeline.generation(generation_id)
    assert (found["state"], pipeline.balance(ada)) == ("failed", (10, 0))
    assert pipeline.call(generation_id)["state"] == "refused"
    assert pipeline.submits() == 0


async def test_parameters_written_by_hand(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    generation_id = await ada.start("packshot")
    await pipeline.move(
        "update app.generations set params = '{\"size\": 1}' where id = %s", (generation_id,)
    )
    await pipeline.dispatch()
    found = pipeline.generation(generation_id)
    assert (found["state"], found["ending"]) == ("failed", "params_invalid")
    assert pipeline.balance(ada) == (10, 0)
    assert pipeline.submits() == 0


@pytest.mark.parametrize("billed", [False, True])
async def test_a_request_that_the_provider_lost(
    billed: bool, pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("lost_request", times=1, seconds=0, billed=billed)
    generation_id = await ada.start()
    await pipeline.submit()
    await pipeline.poll()
    assert pipeline.state(generation_id) == "running", "one 404 may be a replica that lags"
    await pipeline.poll()
    assert pipeline.state(generation_id) == "queued"
    found = await pipeline.finish(generation_id)
    assert (found["state"], found["attempts"]) == ("succeeded", 1)
    assert [call["state"] for call in pipeline.calls(generation_id)] == ["lost", "succeeded"]
    assert pipeline.balance(ada) == (9, 0)


# --- outputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "args", "code", "error_type"),
    [
        ("output_missing", {}, "output_broken", "output_missing"),
        ("output_corrupt", {}, "output_undecodable", "undecodable"),
        ("output_corrupt", {"garbage": True}, "output_wrong_type", "wrong_type"),
        ("output_wrong_type", {}, "output_wrong_type", "wrong_type"),
        ("output_huge", {"size_bytes": OUTPUT_BYTES_MAX + 1}, "output_broken", "too_large"),
        ("output_foreign_host", {}, "output_broken", "url_not_allowed"),
        ("nsfw_flag", {}, "output_flagged", "flagged"),
    ],
)
async def test_an_output_that_cannot_be_delivered(
    *,
    fault: str,
    args: dict[str, Any],
    code: str,
    error_type: str,
    pipeline: PipelineHarness,
    ada: PhotoOwner,
) -> None:
    await pipeline.fault(fault, **args)
    generation_id = await ada.start("scene")
    found = await pipeline.finish(generation_id)
    assert (found["state"], found["ending"]) == ("failed", code)
    assert pipeline.balance(ada) == (10, 0), "the user gets it all back"
    call = pipeline.call(generation_id)
    (paid,) = await pipeline.paid_calls()
    assert paid["state"] == "billed"
    assert (call["state"], call["error_type"]) == ("succeeded", error_type)
    assert float(call["billable_units"]) == paid["billable_units"] > 0, "our cost is kept"
    assert pipeline.database.rows("select 1 from storage.objects where bucket_id = 'results'") == []


async def test_an_output_that_is_late_is_waited_for(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    """The CDN is a moment behind: the file is asked for again, the model is not."""
    generation_id = await ada.start()
    await pipeline.submit()
    output = "/files/"
    pipeline.router.refuse_paths(FAL_URL, output, status=404, times=2)
    assert await pipeline.run_tasks("provider_call.collect") == ["again"]
    found = await pipeline.finish(generation_id)
    assert found["state"] == "succeeded"
    assert len(await pipeline.paid_calls()) == 1


async def test_a_cutout_without_a_piece(open_pipeline: OpenPipeline) -> None:
    """The output rule of the locked lane: another shape than the photo cannot be laid on."""
    async with open_pipeline() as pipeline:
        ada = await pipeline.person(photo=_wide_photo())
        generation_id = await ada.start("packshot")
        found = await pipeline.finish(generation_id)
        assert (found["state"], found["ending"]) == ("failed", "output_size_mismatch")
        assert pipeline.balance(ada) == (10, 0)


def _wide_photo() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (128, 64), (214, 208, 199)).save(out, "PNG")
    return out.getvalue()


async def test_keys_never_leave_for_other_hosts(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline(fal_keys=(fal_key(1), fal_key(2))) as pipeline:
        ada = await pipeline.person()
        generation_id = await ada.start()
        await pipeline.finish(generation_id)
        with_key = [
            request
            for request in pipeline.router.sent
            if "Key " in str(request.headers.get("authorization"))
        ]
        assert with_key
        assert {(request.url.host, request.url.port) for request in with_key} == {
            ("127.0.0.1", 54330)
        }
        assert not any("/files/" in request.url.path for request in with_key)
