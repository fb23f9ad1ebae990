"""What the Stripe sandbox is started with, and what may be changed while it runs."""

from pathlib import Path

import httpx
import msgspec

# The version whose shapes are served: the one the installed SDK is generated from.
API_VERSION = "2026-10-28.endive"

# Stripe retries "for up to three days with an exponential back off"; compressed so that a demo
# sees several attempts.  https://docs.stripe.com/webhooks#retries
WEBHOOK_SCHEDULE_SECONDS = (0.0, 1.0, 3.0, 10.0, 30.0, 120.0, 600.0)


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A webhook endpoint that exists from the start, with its secret already known."""

    url: str
    secrets: tuple[str, ...]  # the first is the newest; each signs
    enabled_events: tuple[str, ...] = ("*",)


class StripeSandboxConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`keys` are the accepted secret keys; empty: every `sk_test_` or `rk_test_` key."""

    keys: frozenset[str] = frozenset()
    endpoints: tuple[Endpoint, ...] = ()
    webhook_schedule_seconds: tuple[float, ...] = WEBHOOK_SCHEDULE_SECONDS
    webhook_jitter_seconds: float = 0.0
    webhook_timeout_seconds: float = 15.0
    # Keep deliveries until `POST /__control/webhooks/release` sends them in an order of its own.
    webhooks_held: bool = False
    refunds_pending: bool = False  # new refunds wait for `POST /__control/refunds/{id}`
    tax_percent: float = 20.0  # what `automatic_tax` finds
    portal_saved: bool = False  # whether somebody saved the portal's settings in the Dashboard
    seed: int = 0  # of jitter and fault rates
    # Objects survive a restart in `stripe.sqlite3` there; None keeps them in memory only.
    state_dir: Path | None = None
    # Where the sandbox is reached; None takes it from each request's Host header.
    base_url: str | None = None
    # Hosts besides loopback to which webhooks may go (names of an in-process transport).
    extra_hosts: frozenset[str] = frozenset()
    # Replaces the network for webhooks in in-process tests.
    transport: httpx.AsyncBaseTransport | None = None


class Tuning(msgspec.Struct, kw_only=True):
    """The part that `PATCH /__control/config` changes."""

    webhook_schedule_seconds: tuple[float, ...]
    webhook_jitter_seconds: float
    webhooks_held: bool
    refunds_pending: bool
    tax_percent: float
    portal_saved: bool

    @classmethod
    def from_config(cls, config: StripeSandboxConfig) -> "Tuning":
        return cls(**{name: getattr(config, name) for name in cls.__struct_fields__})


class TuningPatch(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    webhook_schedule_seconds: tuple[float, ...] | None = None
    webhook_jitter_seconds: float | None = None
    webhooks_held: bool | None = None
    refunds_pending: bool | None = None
    tax_percent: float | None = None
    portal_saved: bool | None = None

    def apply(self, tuning: Tuning) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None:
                setattr(tuning, name, value)
