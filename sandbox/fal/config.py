"""What the fal sandbox is started with, and what may be changed while it runs."""

from collections.abc import Mapping
from pathlib import Path

import httpx
import msgspec

DEFAULT_ACCOUNT = "default"

# fal documents "10 times in the span of 2 hours"; compressed so that a test sees all of it.
WEBHOOK_SCHEDULE_SECONDS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0)


class FalSandboxConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`accounts` maps a key (`id:secret`) to its account; empty: every key is on one account."""

    accounts: Mapping[str, str] = {}
    account_limit: int = 2
    account_limits: Mapping[str, int] = {}
    model_seconds: float = 1.0
    prerendered: bool = False
    prerendered_side: int = 1024
    webhook_schedule_seconds: tuple[float, ...] = WEBHOOK_SCHEDULE_SECONDS
    webhook_timeout_seconds: float = 15.0
    state_dir: Path | None = None
    render_processes: int = 1
    # Keeps computed pictures for other stand-ins and later ones.
    picture_dir: Path | None = None
    # Where the sandbox is reached; None takes it from each request's Host header.
    base_url: str | None = None
    # Hosts besides loopback from which inputs may be read and to which webhooks may go
    # (names of an in-process transport).
    extra_hosts: frozenset[str] = frozenset()
    # Replaces the network for webhooks and inputs in in-process tests.
    transport: httpx.AsyncBaseTransport | None = None


class Tuning(msgspec.Struct, kw_only=True):
    """The part that `PATCH /__control/config` changes."""

    account_limit: int
    account_limits: dict[str, int]
    model_seconds: float
    model_seconds_by_endpoint: dict[str, float]
    prerendered: bool
    webhook_schedule_seconds: tuple[float, ...]

    @classmethod
    def from_config(cls, config: FalSandboxConfig) -> "Tuning":
        return cls(
            account_limit=config.account_limit,
            account_limits=dict(config.account_limits),
            model_seconds=config.model_seconds,
            model_seconds_by_endpoint={},
            prerendered=config.prerendered,
            webhook_schedule_seconds=config.webhook_schedule_seconds,
        )

    def limit_of(self, account: str) -> int:
        return self.account_limits.get(account, self.account_limit)

    def seconds_of(self, endpoint_id: str) -> float:
        return self.model_seconds_by_endpoint.get(endpoint_id, self.model_seconds)


class TuningPatch(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    account_limit: int | None = None
    account_limits: dict[str, int] | None = None
    model_seconds: float | None = None
    model_seconds_by_endpoint: dict[str, float] | None = None
    prerendered: bool | None = None
    webhook_schedule_seconds: tuple[float, ...] | None = None

    def apply(self, tuning: Tuning) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None:
                setattr(tuning, name, value)
