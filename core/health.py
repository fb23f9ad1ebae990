"""What is alive and what lags, as the database tells it, and its figures for monitoring."""

from pathlib import Path
from typing import Any

import msgspec

from core.db import Connection, fetch_all, fetch_one

MIGRATIONS = Path(__file__).resolve().parents[1] / "migrations"


class Health(msgspec.Struct, frozen=True):
    """The answer of app.health(); members that a newer database adds are ignored."""

    workers: int
    provider_accounts: int
    provider_accounts_healthy: int
    outbox_lag_seconds: float
    queue_age_seconds: float
    dead_letters_last_hour: int


class PaymentsHealth(msgspec.Struct, frozen=True):
    """The answer of app.payments_health(): what lags or differs. All zeros and false is well."""

    events_waiting: int
    orders_in_review: int
    refunds_waiting: int
    days_differing: int
    webhooks_silent: bool

    @property
    def is_well(self) -> bool:
        return not any(msgspec.structs.astuple(self))


class Sample(msgspec.Struct, frozen=True):
    name: str
    labels: dict[str, Any]
    value: float


def shipped_schema_version(directory: Path = MIGRATIONS) -> str | None:
    """The newest migration beside this code; None where the files are not shipped."""
    return max((path.name.partition("_")[0] for path in directory.glob("*.sql")), default=None)


async def get_health(conn: Connection) -> tuple[Health, str | None]:
    """Health, and the schema's version."""
    row = await fetch_one(
        conn, "select app.health() as health, app.schema_version() as schema_version"
    )
    assert row is not None
    return msgspec.convert(row["health"], Health), row["schema_version"]


async def get_payments_health(conn: Connection) -> PaymentsHealth:
    row = await fetch_one(conn, "select app.payments_health() as health")
    assert row is not None
    return msgspec.convert(row["health"], PaymentsHealth)


async def list_samples(conn: Connection) -> list[Sample]:
    rows = await fetch_all(
        conn,
        "select sample.name, sample.labels, sample.value"
        " from (select * from app.metrics() union all select * from app.payments_metrics())"
        "   as sample"
        " order by sample.name, sample.labels::text",
    )
    return msgspec.convert(rows, list[Sample])
