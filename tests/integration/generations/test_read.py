"""Lists, single generations, and that nobody sees another person's."""

import uuid

import pytest

from tests.harness.pipeline import PhotoOwner, PipelineHarness


async def _pages(person: PhotoOwner, **params: object) -> list[list[str]]:
    pages = []
    cursor = None
    while True:
        given = params | ({"cursor": cursor} if cursor else {})
        answer = await person.get("/v1/generations", **given)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        pages.append([item["id"] for item in page["items"]])
        cursor = page["next_cursor"]
        if cursor is None:
            return pages


async def test_pages_follow_each_other(ada: PhotoOwner) -> None:
    made = [await ada.start() for _ in range(7)]
    assert await _pages(ada, limit=3) == [made[:3:-1], made[3:0:-1], made[:1]]
    assert await _pages(ada, limit=7) == [made[::-1]]
    assert await _pages(ada) == [made[::-1]]


async def test_pages_stay_whole_while_rows_are_added(ada: PhotoOwner) -> None:
    made = [await ada.start() for _ in range(5)]
    first = (await ada.get("/v1/generations", limit=2)).json()
    newer = await ada.start()
    second = (await ada.get("/v1/generations", limit=2, cursor=first["next_cursor"])).json()
    await ada.start()
    third = (await ada.get("/v1/generations", limit=2, cursor=second["next_cursor"])).json()

    seen = [item["id"] for page in (first, second, third) for item in page["items"]]
    assert seen == made[::-1]
    assert newer not in seen
    assert third["next_cursor"] is None


async def test_rows_of_the_same_moment_are_told_apart(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    made = {await ada.start() for _ in range(5)}
    await pipeline.move("update app.generations set created_at = date_trunc('day', app.now())")
    seen = [name for page in await _pages(ada, limit=2) for name in page]
    assert len(seen) == 5
    assert set(seen) == made


async def test_filters(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    done = await ada.start("packshot")
    await pipeline.finish(done)
    other_upload = str(await pipeline.upload(ada.id))
    waiting = await ada.start("cutout", upload_id=other_upload)

    assert await _pages(ada, state="succeeded") == [[done]]
    assert await _pages(ada, state="queued") == [[waiting]]
    assert await _pages(ada, state="failed") == [[]]
    assert await _pages(ada, operation="packshot") == [[done]]
    assert await _pages(ada, operation="none") == [[]]
    assert await _pages(ada, upload_id=other_upload) == [[waiting]]
    assert await _pages(ada, upload_id=other_upload, state="succeeded") == [[]]


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"state": "gilded"}, 400),
        ({"limit": 0}, 400),
        ({"limit": 101}, 400),
        ({"upload_id": "x"}, 400),
        ({"cursor": "x"}, 422),
        ({"cursor": "WzFd"}, 422),
    ],
)
async def test_a_list_that_cannot_be(
    params: dict[str, str | int], status: int, ada: PhotoOwner
) -> None:
    answer = await ada.get("/v1/generations", **params)
    assert answer.status_code == status, answer.text


async def test_one_with_its_timeline(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    generation_id = await ada.start("packshot")
    queued = await ada.read(generation_id)
    assert [at["state"] for at in queued["timeline"]] == ["queued"]
    await pipeline.finish(generation_id)

    view = await ada.read(generation_id)
    assert [at["state"] for at in view["timeline"]] == [
        "queued",
        "submitting",
        "running",
        "collecting",
        "succeeded",
    ]
    times = [at["at"] for at in view["timeline"]]
    assert times == sorted(times)
    assert view["version"] == len(times)
    assert view["finished_at"] is not None
    assert view["image"]["content_type"] == "image/jpeg"
    assert view["image"]["facts"]["own_pixels"] is True
    assert view["late_image"] is None
    listed = (await ada.get("/v1/generations")).json()["items"][0]
    assert listed["timeline"] is None
    assert {**listed, "timeline": view["timeline"]} == view


async def test_no_secret_is_shown(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    generation_id = await ada.start("packshot")
    await pipeline.finish(generation_id)
    text = (await ada.get(f"/v1/generations/{generation_id}")).text
    call = pipeline.call(generation_id)
    for secret in (call["request_id"], call["key_fingerprint"], "storage_key", "normal.png"):
        assert secret not in text


async def test_somebody_else_sees_nothing(
    pipeline: PipelineHarness, ada: PhotoOwner, bob: PhotoOwner
) -> None:
    generation_id = await ada.start()
    for stranger_id in (generation_id, str(uuid.uuid4())):
        path = f"/v1/generations/{stranger_id}"
        answers = [
            await bob.get(path),
            await bob.get(f"{path}/result"),
            await bob.get(f"{path}/events"),
            await bob.post(f"{path}/cancel"),
            await bob.post(f"{path}/retry"),
            await bob.post(f"{path}/late-image"),
        ]
        assert [answer.status_code for answer in answers] == [404] * 6
        assert {answer.json()["kind"] for answer in answers} <= {"generation", "late_image"}
    assert await _pages(bob) == [[]]
    assert pipeline.state(generation_id) == "queued"
    assert pipeline.balance(bob) == (10, 0)


async def test_ids_have_a_form(ada: PhotoOwner) -> None:
    assert (await ada.get("/v1/generations/none")).status_code in {400, 404}
