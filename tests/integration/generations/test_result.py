"""Signed URLs of a delivered image, and the image that came too late."""

import hashlib
import io
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from PIL import Image

from tests.harness.pipeline import PhotoOwner, PipelineHarness


async def _fetch(pipeline: PipelineHarness, url: str) -> httpx.Response:
    """As a browser that knows nothing but the URL."""
    async with httpx.AsyncClient(transport=pipeline.router) as stranger:
        return await stranger.get(url)


async def test_the_url_opens_the_image(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    generation_id = await ada.start("packshot")
    await pipeline.finish(generation_id)

    answer = await ada.get(f"/v1/generations/{generation_id}/result")
    signed = answer.json()
    assert answer.status_code == 200
    expires_at = datetime.fromisoformat(signed["expires_at"])
    assert timedelta(minutes=55) < expires_at - datetime.now(UTC) < timedelta(minutes=61)

    file = await _fetch(pipeline, signed["url"])
    assert file.status_code == 200
    assert file.headers["content-type"] == signed["content_type"] == "image/jpeg"
    assert signed["file_name"] in file.headers["content-disposition"]
    view = (await ada.read(generation_id))["image"]
    with Image.open(io.BytesIO(file.content)) as image:
        assert image.size == (view["width"], view["height"]) == (1024, 1024)
        pixels = hashlib.sha256(b"RGB:1024x1024:" + image.tobytes()).hexdigest()
        assert image.getpixel((0, 0)) == (255, 255, 255)
    assert len(file.content) == view["size_bytes"]
    assert pixels == view["pixel_sha256"]


@pytest.mark.parametrize("operation", ["cutout", "packshot"])
async def test_the_thumbnail_is_small(
    operation: str, pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    generation_id = await ada.start(operation)
    await pipeline.finish(generation_id)

    answer = await ada.get(f"/v1/generations/{generation_id}/result", thumbnail=True)
    signed = answer.json()
    file = await _fetch(pipeline, signed["url"])
    assert file.status_code == 200
    assert "attachment" not in file.headers.get("content-disposition", "")
    with Image.open(io.BytesIO(file.content)) as image:
        assert max(image.size) < 1000
        kind = Image.MIME[str(image.format)]
    assert file.headers["content-type"] == kind
    assert signed["content_type"] == kind
    assert signed["file_name"].rpartition(".")[2] == kind.rpartition("/")[2].replace("jpeg", "jpg")


async def test_nobody_opens_it_without_the_signature(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    generation_id = await ada.start()
    await pipeline.finish(generation_id)
    url = httpx.URL((await ada.get(f"/v1/generations/{generation_id}/result")).json()["url"])
    assert (await _fetch(pipeline, str(url.copy_with(query=None)))).status_code >= 400
    forged = str(url).replace("/sign/", "/public/")
    assert (await _fetch(pipeline, forged)).status_code >= 400


async def test_there_is_no_image_yet(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    generation_id = await ada.start()
    answer = await ada.get(f"/v1/generations/{generation_id}/result")
    problem = answer.json()
    assert (answer.status_code, problem["reason"], problem["state"]) == (409, "no_image", "queued")
    assert (await ada.read(generation_id))["image"] is None
    assert pipeline.state(generation_id) == "queued"


# --- late images ---------------------------------------------------------------------------------


async def late(pipeline: PipelineHarness, person: PhotoOwner) -> str:
    """A generation that was refunded at its deadline and whose image came all the same."""
    await pipeline.fault("webhook_never", times=1)
    await pipeline.tune(model_seconds=0.05)
    generation_id = await person.start("packshot")
    await pipeline.dispatch()
    pipeline.pass_deadline(generation_id)
    await pipeline.sweep()
    assert pipeline.state(generation_id) == "failed"
    await pipeline.move("delete from app.outbox where job = 'provider_call.cancel'")
    await pipeline.settle()
    await pipeline.poll()
    await pipeline.run_tasks("provider_call.collect")
    return generation_id


async def test_a_late_image_is_offered_and_bought_once(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    generation_id = await late(pipeline, ada)
    assert pipeline.balance(ada) == (10, 0)
    view = await ada.read(generation_id)
    assert (view["state"], view["money"], view["image"]) == ("failed", "refunded", None)
    offer = view["late_image"]
    assert (offer["width"], offer["height"], offer["bought_as"]) == (1024, 1024, None)

    answer = await ada.post(f"/v1/generations/{generation_id}/late-image", key="late")
    bought = answer.json()
    assert "idempotency-replayed" not in answer.headers
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/v1/generations/{bought['id']}"
    assert (bought["state"], bought["money"], bought["retry_of"]) == (
        "succeeded",
        "charged",
        generation_id,
    )
    assert pipeline.balance(ada) == (9, 0)
    signed = (await ada.get(f"/v1/generations/{bought['id']}/result")).json()
    assert (await _fetch(pipeline, signed["url"])).status_code == 200

    repeated = await ada.post(f"/v1/generations/{generation_id}/late-image", key="late")
    assert (repeated.status_code, repeated.content) == (201, answer.content)
    assert repeated.headers["idempotency-replayed"] == "true"
    assert repeated.headers["location"] == answer.headers["location"]

    again = await ada.post(f"/v1/generations/{generation_id}/late-image")
    problem = again.json()
    assert (again.status_code, problem["reason"], problem["generation_id"]) == (
        409,
        "already_bought",
        bought["id"],
    )
    assert pipeline.balance(ada) == (9, 0)
    assert (await ada.read(generation_id))["late_image"]["bought_as"] == bought["id"]


async def test_a_late_image_that_cannot_be_bought(
    pipeline: PipelineHarness, ada: PhotoOwner, bob: PhotoOwner
) -> None:
    nothing = await ada.start()
    none = await ada.post(f"/v1/generations/{nothing}/late-image")
    assert (none.status_code, none.json()["kind"]) == (404, "late_image")
    await ada.post(f"/v1/generations/{nothing}/cancel")

    generation_id = await late(pipeline, ada)
    theirs = await bob.post(f"/v1/generations/{generation_id}/late-image")
    assert theirs.status_code == 404

    await pipeline.move("select app.reverse_credits(%s, 10, 'reversal:x', 'payment')", (ada.id,))
    assert (await ada.post(f"/v1/generations/{generation_id}/late-image")).status_code == 402
    pipeline.ledger.grant(ada.id, 5)

    pipeline.clock.advance_past("select max(expires_at) from app.late_images")
    gone = await ada.post(f"/v1/generations/{generation_id}/late-image")
    assert (gone.status_code, gone.json()["kind"]) == (410, "late_image")
    assert (await ada.read(generation_id))["late_image"] is None
    assert pipeline.balance(ada) == (5, 0)


async def test_an_expired_late_image_is_deleted_with_its_files(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    generation_id = await late(pipeline, ada)
    kept = await late(pipeline, ada)
    await ada.post(f"/v1/generations/{kept}/late-image")
    unbought = "select expires_at from app.late_images where bought_as is null"
    pipeline.clock.advance_past(unbought)
    count = "select count(*) as files from storage.objects where bucket_id = 'results'"
    add = "select app.add_task('late_images.expire', '{}', p_delay_seconds => 0)"
    for days, files in ((0, 4), (1, 2)):  # at first somebody may be paying for it
        pipeline.clock.advance(days=days)
        await pipeline.move(add)
        assert await pipeline.run_tasks("late_images.expire") == ["done"]
        assert pipeline.database.row(count)["files"] == files
    left = pipeline.database.rows("select generation_id::text from app.late_images")
    assert [row["generation_id"] for row in left] == [kept]
    assert (await ada.post(f"/v1/generations/{generation_id}/late-image")).status_code == 404
