"""Signed URLs of a delivered image, and the image that came too late."""

import hashlib
import io
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from PIL import Image

from tests.integration.generations.world import Person, World


async def _fetch(world: World, url: str) -> httpx.Response:
    """As a browser that knows nothing but the URL."""
    async with httpx.AsyncClient(transport=world.wires) as stranger:
        return await stranger.get(url)


async def test_the_url_opens_the_image(world: World, ada: Person) -> None:
    generation_id = await ada.start("packshot")
    await world.finish(generation_id)

    answer = await ada.get(f"/v1/generations/{generation_id}/result")
    signed = answer.json()
    assert answer.status_code == 200
    expires_at = datetime.fromisoformat(signed["expires_at"])
    assert timedelta(minutes=55) < expires_at - datetime.now(UTC) < timedelta(minutes=61)

    file = await _fetch(world, signed["url"])
    assert file.status_code == 200
    assert file.headers["content-type"] == signed["content_type"] == "image/jpeg"
    assert signed["file_name"] in file.headers["content-disposition"]
    view = (await ada.look(generation_id))["image"]
    with Image.open(io.BytesIO(file.content)) as image:
        assert image.size == (view["width"], view["height"]) == (2000, 2000)
        pixels = hashlib.sha256(b"RGB:2000x2000:" + image.tobytes()).hexdigest()
        assert image.getpixel((0, 0)) == (255, 255, 255)
    assert len(file.content) == view["size_bytes"]
    assert pixels == view["pixel_sha256"]


@pytest.mark.parametrize("operation", ["cutout", "packshot"])
async def test_the_thumbnail_is_small(operation: str, world: World, ada: Person) -> None:
    generation_id = await ada.start(operation)
    await world.finish(generation_id)

    answer = await ada.get(f"/v1/generations/{generation_id}/result", thumbnail=True)
    signed = answer.json()
    file = await _fetch(world, signed["url"])
    assert file.status_code == 200
    assert "attachment" not in file.headers.get("content-disposition", "")
    with Image.open(io.BytesIO(file.content)) as image:
        assert max(image.size) < 1000
        kind = Image.MIME[str(image.format)]
    assert file.headers["content-type"] == kind
    assert signed["content_type"] == kind
    assert signed["file_name"].rpartition(".")[2] == kind.rpartition("/")[2].replace("jpeg", "jpg")


async def test_nobody_opens_it_without_the_signature(world: World, ada: Person) -> None:
    generation_id = await ada.start()
    await world.finish(generation_id)
    url = httpx.URL((await ada.get(f"/v1/generations/{generation_id}/result")).json()["url"])
    assert (await _fetch(world, str(url.copy_with(query=None)))).status_code >= 400
    forged = str(url).replace("/sign/", "/public/")
    assert (await _fetch(world, forged)).status_code >= 400


async def test_there_is_no_image_yet(world: World, ada: Person) -> None:
    generation_id = await ada.start()
    answer = await ada.get(f"/v1/generations/{generation_id}/result")
    told = answer.json()
    assert (answer.status_code, told["reason"], told["state"]) == (409, "no_image", "queued")
    assert (await ada.look(generation_id))["image"] is None
    assert world.state(generation_id) == "queued"


# --- late images ---------------------------------------------------------------------------------


async def late(world: World, person: Person) -> str:
    """A generation that was refunded at its deadline and whose image came all the same."""
    await world.fault("webhook_never", times=1)
    await world.tune(model_seconds=0.05)
    generation_id = await person.start("packshot")
    await world.dispatch()
    await world.pass_deadline(generation_id)
    await world.sweep()
    assert world.state(generation_id) == "failed"
    await world.move("delete from app.outbox where job = 'provider_call.cancel'")
    await world.settle()
    await world.poll()
    await world.run_tasks("provider_call.collect")
    return generation_id


async def test_a_late_image_is_offered_and_bought_once(world: World, ada: Person) -> None:
    generation_id = await late(world, ada)
    assert world.balance(ada) == (10, 0)
    view = await ada.look(generation_id)
    assert (view["state"], view["money"], view["image"]) == ("failed", "refunded", None)
    offer = view["late_image"]
    assert (offer["width"], offer["height"], offer["bought_as"]) == (2000, 2000, None)

    answer = await ada.post(f"/v1/generations/{generation_id}/late-image")
    bought = answer.json()
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/v1/generations/{bought['id']}"
    assert (bought["state"], bought["money"], bought["retry_of"]) == (
        "succeeded",
        "charged",
        generation_id,
    )
    assert world.balance(ada) == (9, 0)
    signed = (await ada.get(f"/v1/generations/{bought['id']}/result")).json()
    assert (await _fetch(world, signed["url"])).status_code == 200

    again = await ada.post(f"/v1/generations/{generation_id}/late-image")
    told = again.json()
    assert (again.status_code, told["reason"], told["generation_id"]) == (
        409,
        "already_bought",
        bought["id"],
    )
    assert world.balance(ada) == (9, 0)
    assert (await ada.look(generation_id))["late_image"]["bought_as"] == bought["id"]


async def test_a_late_image_that_cannot_be_bought(world: World, ada: Person, bob: Person) -> None:
    nothing = await ada.start()
    none = await ada.post(f"/v1/generations/{nothing}/late-image")
    assert (none.status_code, none.json()["kind"]) == (404, "late_image")
    await ada.post(f"/v1/generations/{nothing}/cancel")

    generation_id = await late(world, ada)
    theirs = await bob.post(f"/v1/generations/{generation_id}/late-image")
    assert theirs.status_code == 404

    await world.move("select app.reverse_credits(%s, 10, 'reversal:x', 'payment')", (ada.id,))
    assert (await ada.post(f"/v1/generations/{generation_id}/late-image")).status_code == 402
    world.ledger.grant(ada.id, 5)

    await world.move("update app.late_images set expires_at = now() - interval '1 s'")
    gone = await ada.post(f"/v1/generations/{generation_id}/late-image")
    assert (gone.status_code, gone.json()["kind"]) == (410, "late_image")
    assert (await ada.look(generation_id))["late_image"] is None
    assert world.balance(ada) == (5, 0)


async def test_an_expired_late_image_is_deleted_with_its_files(world: World, ada: Person) -> None:
    generation_id = await late(world, ada)
    kept = await late(world, ada)
    await ada.post(f"/v1/generations/{kept}/late-image")
    await world.move("update app.late_images set expires_at = now() - interval '1 s'")
    count = "select count(*) as files from storage.objects where bucket_id = 'results'"
    assert world.database.row(count)["files"] == 4

    await world.move("select app.add_task('late_images.expire', '{}', p_delay_seconds => 0)")
    assert await world.run_tasks("late_images.expire") == ["done"]
    assert world.database.row(count)["files"] == 2
    left = world.database.rows("select generation_id::text from app.late_images")
    assert [row["generation_id"] for row in left] == [kept]
    assert (await ada.post(f"/v1/generations/{generation_id}/late-image")).status_code == 404
