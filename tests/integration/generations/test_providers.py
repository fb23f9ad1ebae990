"""A second provider is one more entry: the pipeline knows the Protocol and nothing else."""

import io
from collections.abc import Sequence

import msgspec
from PIL import Image, ImageDraw

from core.catalog import service as catalog
from core.generations.providers import accounts
from core.generations.providers.base import CallAddress, HeldKey, ImageProvider, Submission
from core.generations.providers.types import (
    Accepted,
    CancelAccepted,
    Completed,
    Output,
    OutputImage,
)
from tests.harness.pipeline import FAL_URL, UPSCALE_ENDPOINT, PhotoOwner, PipelineHarness

KEY = HeldKey(provider="toy", account="main", name="TOY_KEY", fingerprint="toy-key")


def drawing() -> bytes:
    image = Image.new("RGB", (128, 128), (240, 240, 240))
    ImageDraw.Draw(image).rectangle((40, 40, 90, 90), fill=(180, 140, 50))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


class ToyProvider:
    """Takes everything, has it done at once, and names its requests without any URL."""

    name = "toy"
    keys: Sequence[HeldKey] = (KEY,)
    needs_upload = False

    def __init__(self) -> None:
        self.submissions: list[Submission] = []

    async def submit(self, submission: Submission) -> Accepted:
        self.submissions.append(submission)
        request_id = f"toy-{len(self.submissions)}"
        return Accepted(request_id=request_id, status_url="", response_url="", cancel_url="")

    async def fetch_status(self, call: CallAddress) -> Completed:
        assert call.request_id == f"toy-{len(self.submissions)}"
        return Completed()

    async def fetch_result(self, call: CallAddress) -> Output:
        assert call.key_fingerprint == KEY.fingerprint
        image = OutputImage(url="toy:image")
        return Output(image=image, is_flagged=False, billable_units=None)

    async def cancel(self, _: CallAddress) -> CancelAccepted:
        return CancelAccepted()

    async def upload(
        self, data: bytes, *, content_type: str, file_name: str, key_fingerprint: str
    ) -> str:
        raise NotImplementedError

    async def download(self, url: str, *, max_bytes: int) -> bytes:
        assert (url, max_bytes > 0) == ("toy:image", True)
        return drawing()


async def with_toy(pipeline: PipelineHarness) -> ToyProvider:
    """A worker that holds a key of it, and an operation whose first step is its own."""
    toy = ToyProvider()
    provider: ImageProvider = toy
    ctx = pipeline.ctx
    ctx.providers = {**ctx.providers, provider.name: provider}
    await ctx.db.run(lambda conn: accounts.register_keys(conn, ctx.providers, slots=1))
    steps = [
        {
            "adapter": "toy_edit",
            "provider": "toy",
            "endpoint": "toy/edit",
            "typical_seconds": 1,
            "defaults": {},
        },
        {
            "adapter": "upscale",
            "provider": "fal",
            "endpoint": UPSCALE_ENDPOINT,
            "typical_seconds": 1,
            "defaults": {"upscale_factor": 2},
        },
    ]
    pipeline.database.rows(
        "insert into app.operations (slug, version, title, description, lane, cost_credits,"
        " steps, output_rule, params_schema) values ('mixed', 1, 'Mixed', 'Two providers.',"
        " 'reimagined', 3, %s, 'as_delivered', '{\"type\": \"object\"}')",
        (msgspec.json.encode(steps).decode(),),
    )
    catalog.invalidate_cache()
    return toy


async def test_each_step_runs_at_its_own_provider(pipeline: PipelineHarness) -> None:
    toy = await with_toy(pipeline)
    ada = await pipeline.person()
    generation_id = await ada.start("mixed", params={})
    assert await pipeline.dispatch() == 1
    assert (len(toy.submissions), pipeline.submits()) == (1, 0)
    webhook = str(toy.submissions[0].webhook_url)
    assert "/v1/webhooks/toy/" in webhook

    found = await pipeline.finish(generation_id)
    assert found["state"] == "succeeded"
    first, second = pipeline.calls(generation_id)
    assert (first["provider"], first["endpoint"]) == ("toy", "toy/edit")
    assert (second["provider"], second["endpoint"]) == ("fal", UPSCALE_ENDPOINT)
    assert len(pipeline.router.posts_to(FAL_URL, f"/{UPSCALE_ENDPOINT}")) == 1
    assert pipeline.balance(ada) == (7, 0)


async def test_an_account_serves_the_steps_of_its_provider(
    pipeline: PipelineHarness, ada: PhotoOwner, bob: PhotoOwner
) -> None:
    toy = await with_toy(pipeline)
    await ada.start("mixed", params={})
    await bob.start("cutout")
    assert await pipeline.dispatch() == 2
    assert (len(toy.submissions), pipeline.submits()) == (1, 1)
    names = pipeline.database.rows(
        "select account.provider, call.provider as said from app.provider_calls as call"
        " join app.provider_accounts as account on account.id = call.account_id"
    )
    assert all(row["provider"] == row["said"] for row in names)
