"""Header and query parameters that several routes share, described once."""

from typing import Annotated

from litestar.params import HeaderParameter

IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        description="Repeat a request with the same key and it is carried out once. 24 hours.",
        max_length=255,
    ),
]
Prefer = Annotated[
    str | None,
    HeaderParameter(
        name="Prefer", description="`wait=n`: answer after at most n ≤ 25 s (RFC 7240)."
    ),
]
