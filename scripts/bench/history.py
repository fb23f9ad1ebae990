"""A history of any length: finished generations with all their money, calls and events.

Set-based SQL by a superuser with triggers and foreign keys off. The rows are those that the
product would have written; the proofs find no drift in them.
"""

import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg

GRANTED = 1_000_000
# One step of time between two generations: a million of them is about a year.
_STEP_SECONDS = 30

_PEOPLE = """
create unlogged table bench.person as
select number,
  gen_random_uuid() as id,
  gen_random_uuid() as upload_id,
  gen_random_uuid() as lot_id,
  now() - make_interval(secs => %(generations)s::bigint * %(step)s + 3600) as since
from generate_series(0, %(people)s - 1) as number
"""

# Generations have time-ordered ids, as core.ids makes them; the other ids are random.
_PAST = """
create unlogged table bench.past as
select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0')
    || '7' || substr(noise, 1, 3) || '8' || substr(noise, 4, 15))::uuid as id,
  person.id as user_id, person.upload_id, person.lot_id,
  md5('reservation' || noise)::uuid as reservation_id, md5('call' || noise)::uuid as call_id, at
from (
  select number, md5(number::text) as noise,
    now() - make_interval(secs => (%(generations)s::bigint - number) * %(step)s + 1800) as at
  from generate_series(1, %(generations)s::bigint) as number
) as moment
join bench.person on person.number = moment.number %% %(people)s
"""

_USERS = "insert into app.users (id, created_at) select id, since from bench.person"

# Everybody is signed in, in a session that has their own id.
_SIGN_INS = """
with known as (
  insert into auth.users (id, email, email_confirmed_at)
  select id, id || '@people.example', since
  from bench.person
)
insert into auth.sessions (id, user_id, aal)
select id, id, 'aal1'
from bench.person
"""

_ACCOUNTS = """
insert into app.credit_accounts (user_id, available)
select person.id, %(granted)s::bigint - count(past.id)
from bench.person
left join bench.past on past.user_id = person.id
group by person.id
"""

_LOTS = """
insert into app.credit_lots (
  id, user_id, source, granted, remaining, idempotency_key, created_at
)
select person.lot_id, person.id, 'adjustment', %(granted)s::bigint, account.available,
  'admin:' || person.id || ':bench', person.since
from bench.person
join app.credit_accounts as account on account.user_id = person.id
"""

# Why they have so many credits.
_AUDIT = """
with line as (
  insert into app.audit_log (actor, action, target, created_at)
  select 'system', 'credits.adjust', id::text, since
  from bench.person
  returning id
)
insert into app.audit_details (audit_id, detail)
select id, jsonb_build_object(
  'amount', %(granted)s::bigint, 'reason', 'measurement', 'idempotency_key', 'bench')
from line
"""

_UPLOADS = """
insert into app.uploads (
  id, user_id, state, storage_key, normal_key, content_type, width, height, pixel_sha256,
  created_at, settled_at
)
select upload_id, id, 'ready', id || '/original', id || '/normal.jpg', 'image/jpeg', 1024, 1024,
  md5(id::text), since, since
from bench.person
"""

_GENERATIONS = """
insert into app.generations (
  id, user_id, upload_id, operation, operation_version, lane, cost_credits, params, state, version,
  current_call_id, input_key, started_at, give_up_at, deadline_at, available_at, created_at,
  finished_at, charged_credits, result
)
select id, user_id, upload_id, 'packshot', 1, 'locked', 1,
  '{"margin_percent": 8, "aspect_ratio": "1:1", "size": 2000, "shadow": "none"}',
  'succeeded', 5, call_id, user_id || '/normal.jpg', at, at + interval '13 minutes',
  at + interval '15 minutes', at, at, at + interval '20 seconds', 1,
  jsonb_build_object(
    'storage_key', user_id || '/' || id || '/' || call_id || '/image.jpg',
    'thumbnail_key', user_id || '/' || id || '/' || call_id || '/thumb.jpg',
    'content_type', 'image/jpeg', 'width', 2000, 'height', 2000, 'size_bytes', 412345,
    'pixel_sha256', md5(id::text), 'facts', '{"own_pixels": true}'::jsonb)
from bench.past
order by at
"""

_EVENTS = """
insert into app.events (user_id, type, subject_id, version, payload, created_at)
select user_id, 'generation.' || event.change, id, event.version,
  jsonb_build_object('state', event.state, 'operation', 'packshot', 'lane', 'locked',
    'cost_credits', 1, 'step', 0),
  at + event.version * interval '4 seconds'
from bench.past
cross join (
  values (1, 'created', 'queued'), (2, 'changed', 'submitting'), (3, 'changed', 'running'),
    (4, 'changed', 'collecting'), (5, 'succeeded', 'succeeded')
) as event (version, change, state)
order by at, event.version
"""

_CALLS = """
insert into app.provider_calls (
  id, generation_id, user_id, step, attempt, account_id, key_fingerprint, endpoint, token_sha256,
  state, request_id, status_url, response_url, cancel_url, lease_until, accepted_at, webhook_at,
  ended_at, http_status, billable_units, created_at
)
select call_id, id, user_id, 0, 1, account.account_id, account.fingerprint,
  'fal-ai/birefnet/v2', sha256(call_id::text::bytea), 'succeeded', reservation_id::text,
  'https://queue.fal.run/fal-ai/birefnet/requests/' || reservation_id || '/status',
  'https://queue.fal.run/fal-ai/birefnet/requests/' || reservation_id,
  'https://queue.fal.run/fal-ai/birefnet/requests/' || reservation_id || '/cancel',
  at + interval '75 seconds', at + interval '1 second', at + interval '18 seconds',
  at + interval '20 seconds', 200, 1, at
from bench.past
cross join (select account_id, fingerprint from app.provider_keys limit 1) as account
order by at
"""

_RESERVATIONS = """
insert into app.reservations (
  id, user_id, subject_id, purpose, amount, state, confirmed_amount, created_at, resolved_at
)
select reservation_id, user_id, id, 'run', 1, 'confirmed', 1, at, at + interval '20 seconds'
from bench.past
order by at
"""

_RESERVATION_LOTS = """
insert into app.reservation_lots (reservation_id, lot_id, amount)
select reservation_id, lot_id, 1
from bench.past
order by at
"""

# A trigger computes the digest, so that one stays on.
_SEAL = "alter table app.ledger_transfers enable always trigger ledger_transfers_seal"
_TRANSFERS = """
insert into app.ledger_transfers (
  idempotency_key, kind, debit, credit, amount, user_id, lot_id, reservation_id, subject_id, actor,
  created_at
)
select key, kind, debit, credit, amount, user_id, lot_id, reservation_id, subject_id, actor, at
from (
  select since as at, 'grant:admin:' || id || ':bench:available' as key, 'grant' as kind,
    'adjustments' as debit, 'available' as credit, %(granted)s::bigint as amount, id as user_id,
    lot_id, null::uuid as reservation_id, null::uuid as subject_id, 'system' as actor
  from bench.person
  union all
  select at, 'reserve:run:' || id || ':' || lot_id, 'reserve', 'available', 'reserved', 1,
    user_id, lot_id, reservation_id, id, 'user'
  from bench.past
  union all
  select at + interval '20 seconds', 'confirm:run:' || id, 'confirm', 'reserved', 'usage', 1,
    user_id, null, reservation_id, id, 'system'
  from bench.past
) as posted
order by at
"""
_UNSEAL = "alter table app.ledger_transfers enable trigger ledger_transfers_seal"

# Two connections share the work, one a core; with foreign keys off the order does not matter.
_LANES = (
    (_USERS, _SIGN_INS, _ACCOUNTS, _LOTS, _AUDIT, _UPLOADS, _GENERATIONS, _EVENTS, _CALLS),
    (_SEAL, _TRANSFERS, _UNSEAL, _RESERVATIONS, _RESERVATION_LOTS),
)


def write_history(url: str, *, generations: int, people: int) -> list[tuple[uuid.UUID, uuid.UUID]]:
    """(user, upload) of each person. `url` is a superuser's; one provider key must be known."""
    values: dict[str, Any] = {
        "generations": generations,
        "people": people,
        "granted": GRANTED,
        "step": _STEP_SECONDS,
    }
    _run(url, ("create schema bench", _PEOPLE, _PAST, "analyze bench.past"), values)
    with ThreadPoolExecutor(len(_LANES)) as threads:
        for done in [threads.submit(_run, url, lane, values) for lane in _LANES]:
            done.result()
    with psycopg.connect(url, autocommit=True) as conn:
        made = conn.execute("select id, upload_id from bench.person").fetchall()
        conn.execute("drop schema bench cascade")
        # What autovacuum would do in the middle of the measurement.
        conn.execute("vacuum (analyze)")
        conn.execute("checkpoint")
    return made


def _run(url: str, statements: Sequence[str], values: dict[str, Any]) -> None:
    with psycopg.connect(url, prepare_threshold=None) as conn:
        conn.execute("set local session_replication_role = replica")
        conn.execute("set local work_mem = '64MB'")
        for statement in statements:
            conn.execute(statement, values)
