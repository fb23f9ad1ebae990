"""The SQL of codes. Row level security says who may read; functions do all the writing."""

import uuid
from collections.abc import Sequence
from datetime import datetime

import msgspec
from psycopg.types.json import Jsonb

from core.codes.types import (
    Code,
    CodeFilters,
    KeptCode,
    PlainCode,
    Redemption,
    RedemptionRow,
    Terms,
    digest_of,
)
from core.db import Connection, fetch_all, fetch_one

_CODES = """
select id, issue_id, prefix, kind, credits, uses_max, uses, expires_at,
  credits_expire_after_days, campaign, note, created_by, created_at, disabled_at, status
from (
  select id, issue_id, prefix, kind, credits, uses_max, uses, expires_at,
    credits_expire_after_days, campaign, note, created_by, created_at, disabled_at,
    case
      when disabled_at is not null then 'disabled'
      when expires_at <= app.now() then 'expired'
      when uses >= uses_max then 'used_up'
      else 'active'
    end as status
  from app.codes
) as code
"""

# Ids are made in the order of time.
_LIST = (
    _CODES
    + """
where (%(before)s::uuid is null or id < %(before)s)
  and (%(kind)s::text is null or kind = %(kind)s)
  and (%(status)s::text is null or status = %(status)s)
  and (%(campaign)s::text is null or campaign = %(campaign)s)
  and (%(issue_id)s::uuid is null or issue_id = %(issue_id)s)
  and (%(prefix)s::text is null or prefix = %(prefix)s)
order by id desc
limit %(limit)s
"""
)

_ONE = _CODES + "where id = %s"

_REDEMPTIONS = """
select user_id, lot_id, credits, paid_debt, credits_expire_at, redeemed_at
from app.code_redemptions
where code_id = %(code_id)s
  and (
    %(before)s::timestamptz is null
    or (redeemed_at, user_id) < (%(before)s, %(before_user)s)
  )
order by redeemed_at desc, user_id desc
limit %(limit)s
"""


async def create_codes(
    conn: Connection, issue_id: uuid.UUID, terms: Terms, codes: Sequence[PlainCode]
) -> None:
    listed = []
    for code in codes:
        digest = digest_of(code.text)
        assert digest is not None
        listed.append(KeptCode(code.id, sha256=digest.hex(), prefix=code.prefix))
    await conn.execute(
        "select app.create_codes(%s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            issue_id,
            terms.kind.value,
            terms.credits,
            terms.uses_max,
            terms.expires_at,
            terms.credits_expire_after_days,
            terms.campaign,
            terms.note,
            Jsonb(msgspec.to_builtins(listed)),
        ),
    )


async def disable_codes(
    conn: Connection, *, code_id: uuid.UUID | None, issue_id: uuid.UUID | None
) -> int:
    row = await fetch_one(conn, "select app.disable_codes(%s, %s) as disabled", (code_id, issue_id))
    assert row is not None
    return int(row["disabled"])


async def redeem_code(conn: Connection, digest: bytes) -> Redemption:
    row = await fetch_one(conn, "select app.redeem_code(%s) as redemption", (digest,))
    assert row is not None
    return msgspec.convert(row["redemption"], Redemption)


async def list_codes(
    conn: Connection, filters: CodeFilters, *, before: uuid.UUID | None, limit: int
) -> list[Code]:
    params = {**msgspec.structs.asdict(filters), "before": before, "limit": limit}
    return msgspec.convert(await fetch_all(conn, _LIST, params), list[Code])


async def find_code(conn: Connection, code_id: uuid.UUID) -> Code | None:
    row = await fetch_one(conn, _ONE, (code_id,))
    return msgspec.convert(row, Code) if row else None


async def list_redemptions(
    conn: Connection,
    code_id: uuid.UUID,
    *,
    before: tuple[datetime, uuid.UUID] | None,
    limit: int,
) -> list[RedemptionRow]:
    rows = await fetch_all(
        conn,
        _REDEMPTIONS,
        {
            "code_id": code_id,
            "before": before[0] if before else None,
            "before_user": before[1] if before else None,
            "limit": limit,
        },
    )
    return msgspec.convert(rows, list[RedemptionRow])
