"""The seam to providers of images: the calls that the pipeline makes, the same for each provider.

A provider uses no database and no money. Its methods return a struct with what is known, and raise
nothing for failures of the network or the provider; only the two that move files raise.
Everything that differs between providers (URLs of a request, names of parameters,
shapes of errors and of outputs) stays behind this Protocol.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from core.catalog.types import Preset, Step
from core.generations.providers.types import (
    CancelOutcome,
    ResultOutcome,
    StatusOutcome,
    SubmitOutcome,
)


class HeldKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key in this process's environment, known by its fingerprint; the secret stays there."""

    provider: str
    account: str
    name: str
    fingerprint: str


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """One POST. `params` are checked and have their defaults; `image_url` is the step's input."""

    step: Step
    params: Mapping[str, Any]
    presets: Sequence[Preset]
    image_url: str
    operation: str
    key_fingerprint: str
    webhook_url: str | None
    start_timeout_seconds: float


class CallAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a call is at its provider, as far as it is known.

    Only the provider reads the URLs, and it derives the ones that are missing from the request's
    id: a webhook may name the request of a submit whose answer was lost. Where the key that
    submitted is gone, another one of the account asks.
    """

    account: str
    key_fingerprint: str
    endpoint: str
    request_id: str | None
    status_url: str | None = None
    response_url: str | None = None
    cancel_url: str | None = None

    @property
    def is_known(self) -> bool:
        """False while nothing names the request at the provider."""
        return self.request_id is not None


class ImageProvider(Protocol):
    @property
    def name(self) -> str:
        """The word that the catalogue's steps, the accounts and the calls name it by."""
        ...

    @property
    def keys(self) -> Sequence[HeldKey]:
        """Only keys of this process's environment: it opens calls for these, and polls the calls of
        their accounts."""
        ...

    @property
    def needs_upload(self) -> bool:
        """True when the provider cannot fetch from our storage: inputs go through `upload`."""
        ...

    async def submit(self, submission: Submission) -> SubmitOutcome:
        """Exactly one POST. Replay: another request, which is paid as well."""
        ...

    async def fetch_status(self, call: CallAddress) -> StatusOutcome:
        """Where a known call stands; how it ended, only `fetch_result` tells."""
        ...

    async def fetch_result(self, call: CallAddress) -> ResultOutcome:
        """How a known call ended; this decides."""
        ...

    async def cancel(self, call: CallAddress) -> CancelOutcome:
        """Requests that a known call stops; it may finish (and bill) all the same."""
        ...

    async def upload(
        self, data: bytes, *, content_type: str, file_name: str, key_fingerprint: str
    ) -> str:
        """A URL that the provider can fetch.  Raises: UploadError.  Replay: another file."""
        ...

    async def download(self, url: str, *, max_bytes: int) -> bytes:
        """The bytes of an output, at most `max_bytes`.

        Raises: OutputMissingError (retryable, for a while), RetryableError (a transfer that
        broke), OutputTooLargeError, OutputRefusedError.
        """
        ...
