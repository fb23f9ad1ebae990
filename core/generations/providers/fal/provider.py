"""fal.ai as a provider of images: its queue, its endpoints and its files behind the Protocol."""

from collections.abc import Sequence

import httpx

from core.generations.providers.base import CallAddress, HeldKey, Submission
from core.generations.providers.fal import models
from core.generations.providers.fal.client import FalClient, ModelOutput
from core.generations.providers.types import (
    CancelOutcome,
    Output,
    ResultOutcome,
    StatusOutcome,
    SubmitOutcome,
)
from core.settings import Settings, is_loopback

NAME = "fal"


class FalProvider:
    def __init__(self, settings: Settings, http: httpx.AsyncClient) -> None:
        self._client = FalClient(settings, http)
        # fal cannot fetch from our own machine, unless it is a stand-in on the same one.
        self._needs_upload = is_loopback(settings.supabase_url) and not is_loopback(
            settings.fal_queue_url
        )
        self._keys = tuple(
            HeldKey(provider=NAME, account=key.account, name=key.name, fingerprint=known_as)
            for known_as, key in self._client.keys.items()
        )

    @property
    def name(self) -> str:
        return NAME

    @property
    def keys(self) -> Sequence[HeldKey]:
        return self._keys

    @property
    def needs_upload(self) -> bool:
        return self._needs_upload

    async def submit(self, submission: Submission) -> SubmitOutcome:
        body = models.build_body(
            step=submission.step,
            params=submission.params,
            presets=submission.presets,
            image_url=submission.image_url,
        )
        return await self._client.submit(
            fingerprint=submission.key_fingerprint,
            endpoint=submission.step.endpoint,
            body=body,
            webhook_url=submission.webhook_url,
            start_timeout_seconds=submission.start_timeout_seconds,
            tags={"operation": submission.operation},
        )

    async def fetch_status(self, call: CallAddress) -> StatusOutcome:
        return await self._client.status(
            fingerprint=call.key_fingerprint,
            status_url=call.status_url or self._urls_of(call)[0],
            account=call.account,
        )

    async def fetch_result(self, call: CallAddress) -> ResultOutcome:
        outcome = await self._client.result(
            fingerprint=call.key_fingerprint,
            response_url=call.response_url or self._urls_of(call)[1],
            account=call.account,
        )
        if not isinstance(outcome, ModelOutput):
            return outcome
        read = models.read_output(outcome.payload)
        return Output(
            image=read.image, is_flagged=read.is_flagged, billable_units=outcome.billable_units
        )

    async def cancel(self, call: CallAddress) -> CancelOutcome:
        return await self._client.cancel(
            fingerprint=call.key_fingerprint,
            cancel_url=call.cancel_url or self._urls_of(call)[2],
            account=call.account,
        )

    def _urls_of(self, call: CallAddress) -> tuple[str, str, str]:
        assert call.request_id is not None, "nothing names the request"
        return self._client.derive_urls(call.endpoint, call.request_id)

    async def upload(
        self, data: bytes, *, content_type: str, file_name: str, key_fingerprint: str
    ) -> str:
        return await self._client.upload(data, content_type, file_name, fingerprint=key_fingerprint)

    async def download(self, url: str, *, max_bytes: int) -> bytes:
        return await self._client.download(url, max_bytes=max_bytes)
