"""The runner of a model: checks the input, computes the output, computes the billed quantity."""

import base64
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from pydantic import ValidationError

from sandbox.fal.calls import Call
from sandbox.fal.downloads import Downloader, DownloadError
from sandbox.fal.errors import (
    Outcome,
    any_error,
    flat_error,
    listed_error,
    validation_error,
)
from sandbox.fal.faults import FaultKind
from sandbox.fal.inputs import FORBIDDEN_PROMPT_WORD, Input
from sandbox.fal.models import RunOutput
from sandbox.fal.outputs import RenderedImage, prerendered
from sandbox.fal.renderer import Renderer
from sandbox.fal.storage import FileStore, StoredFile

HUGE_BYTES = 64 * 1024 * 1024
FOREIGN_URL = "https://files.untrusted.example/output.png"
_WRONG_TYPE = b"<!doctype html><html><body>Sign in to continue</body></html>"


class Runner:
    def __init__(
        self,
        files: FileStore,
        downloader: Downloader,
        renderer: Renderer,
        *,
        prerendered_side: int,
    ) -> None:
        self._prerendered_side = prerendered_side
        self._files = files
        self._downloader = downloader
        self._renderer = renderer

    def refuse(self, call: Call) -> Outcome | None:
        """The failure that needs no pixels: bad input, forbidden prompt, an ordered error."""
        try:
            body = msgspec.json.decode(call.submission.body or b"null")
            call.input = call.submission.endpoint.schema.model_validate(body)
        except msgspec.DecodeError as error:
            return listed_error("json_invalid", field="body", message=str(error))
        except ValidationError as error:
            return validation_error(error)
        ordered = call.fault(FaultKind.RESULT_ERROR)
        if ordered is not None and call.attempts <= ordered.get("failures", call.attempts):
            return any_error(ordered.get("status"), ordered.get("type"))
        broken = call.fault(FaultKind.MODEL_5XX)
        if broken is not None:
            return any_error(None, broken.get("type", "internal_server_error"))
        field, prompt = call.input.prompt_of()
        if (
            FORBIDDEN_PROMPT_WORD in prompt.lower()
            or call.fault(FaultKind.CONTENT_POLICY) is not None
        ):
            return listed_error("content_policy_violation", field=field, received=prompt)
        return None

    def run_prerendered(self, call: Call) -> Outcome:
        parsed = _input_of(call)
        count: int = getattr(parsed, "num_images", 0) or getattr(parsed, "num_results", 1)
        wants_png = getattr(parsed, "output_format", "jpeg") == "png"
        image = prerendered(
            call.submission.endpoint.renderer, png=wants_png, side=self._prerendered_side
        )
        return self._succeed(call, [image] * count)

    async def run(self, call: Call) -> Outcome:
        parsed = _input_of(call)
        endpoint = call.submission.endpoint
        images = []
        try:
            for field, url in parsed.image_urls_of():
                content = await self._downloader.read(
                    field,
                    url,
                    base_url=call.submission.base_url,
                    bytes_max=endpoint.input_bytes_max,
                )
                images.append(content)
        except DownloadError as error:
            return error.outcome
        params = parsed.model_dump(
            exclude={"image_url", "image_urls", "ref_image_url", "sync_mode"}
        )
        result = await self._renderer.render(
            renderer=endpoint.renderer, endpoint_id=endpoint.id, images=images, params=params
        )
        if result.refusal is not None:
            refusal = result.refusal
            field = parsed.image_urls_of()[0][0] if images else "image_url"
            return listed_error(refusal.type, field=field, message=refusal.message, ctx=refusal.ctx)
        return self._succeed(call, result.images)

    def _succeed(self, call: Call, images: Sequence[RenderedImage]) -> Outcome:
        endpoint = call.submission.endpoint
        parsed = _input_of(call)
        seconds = time.time() - (call.started_at or call.accepted_at)
        pictures = [image for image in images if image.role == "image"]
        masks = [image for image in images if image.role == "mask"]
        files = [self._publish(call, image) for image in pictures]
        body: dict[str, Any] = {"images": files} if endpoint.many else {"image": files[0]}
        if masks:
            body["mask_image"] = self._publish(call, masks[0])
        flagged = call.fault(FaultKind.NSFW_FLAG) is not None
        for name in endpoint.extras:
            body[name] = _extra(name, parsed, seconds, len(files), flagged=flagged)
        if flagged:
            body["has_nsfw_concepts"] = [True] * len(files)
        made = RunOutput(
            params=parsed.model_dump(),
            images=len(files),
            megapixels=sum(image.width * image.height for image in pictures) / 1_000_000,
            seconds=seconds,
        )
        return Outcome(status=200, body=msgspec.json.encode(body), units=endpoint.units(made))

    def _publish(self, call: Call, image: RenderedImage) -> dict[str, Any]:
        suffix = image.content_type.removeprefix("image/")
        file = StoredFile(
            content=image.content,
            content_type=image.content_type,
            expires_at=call.submission.files_expire_at,
            request_id=call.id,
            account=call.submission.account,
        )
        if _input_of(call).sync_mode:
            data = base64.b64encode(image.content).decode()
            url = f"data:{image.content_type};base64,{data}"
        else:
            url = self._url_of(call, file, f"output.{suffix}")
        return {
            "url": url,
            "content_type": image.content_type,
            "file_name": f"output.{suffix}",
            "file_size": len(image.content),
            "width": image.width,
            "height": image.height,
        }

    def _url_of(self, call: Call, file: StoredFile, name: str) -> str:
        base_url = call.submission.base_url
        foreign = call.fault(FaultKind.OUTPUT_FOREIGN_HOST)
        if foreign is not None:
            return str(foreign.get("url", FOREIGN_URL))
        if call.fault(FaultKind.OUTPUT_MISSING) is not None:
            return f"{base_url}/files/sandbox/gone/{call.id}_{name}"
        corrupt = call.fault(FaultKind.OUTPUT_CORRUPT)
        if corrupt is not None:
            half = file.content[: len(file.content) // 2]
            garbage = half[::-1] if corrupt.get("garbage") else half
            file = msgspec.structs.replace(file, content=garbage)
        elif call.fault(FaultKind.OUTPUT_WRONG_TYPE) is not None:
            file = msgspec.structs.replace(file, content=_WRONG_TYPE, content_type="text/html")
        huge = call.fault(FaultKind.OUTPUT_HUGE)
        if huge is not None:
            file = msgspec.structs.replace(file, filler_bytes=huge.get("size_bytes", HUGE_BYTES))
        return base_url + self._files.put(file, name)


def crashed() -> Outcome:
    return flat_error("runner_server_error", detail="Internal Server Error")


def _input_of(call: Call) -> Input:
    assert call.input is not None
    return call.input


def _extra(name: str, parsed: Input, seconds: float, count: int, *, flagged: bool) -> Any:
    match name:
        case "seed":
            seed = getattr(parsed, "seed", None)
            return 42 if seed is None else seed
        case "timings":
            return {"inference": round(seconds, 4)}
        case "has_nsfw_concepts":
            return [flagged] * count
        case "prompt":
            return parsed.prompt_of()[1]
        case _:
            return ""
