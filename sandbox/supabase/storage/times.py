"""Times as the Storage API writes them."""

from datetime import UTC, datetime


def iso_milliseconds(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
