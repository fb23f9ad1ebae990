"""From a waiting generation to one POST at the provider.

A call is opened in one transaction (who is served, by which key, under which call id); the POST
is made outside of any; its outcome is recorded in another. A worker that is killed in between
leaves a call whose lease expires, which the sweep turns into an ambiguous one.
"""

import asyncio
import time

import psycopg
import structlog

from core import errors
from core.catalog import params as catalog_params
from core.changes import Change
from core.db import Connection
from core.generations.endings import Ending, ending_of_refusal
from core.generations.pipeline import queries
from core.generations.pipeline.fail import announce
from core.generations.pipeline.tools import PipelineTools
from core.generations.pipeline.types import CallEnd, CallIntent, RefusalAbout
from core.generations.providers import accounts
from core.generations.providers.base import ImageProvider, Submission
from core.generations.providers.types import (
    Accepted,
    Ambiguous,
    NotAccepted,
    NotAcceptedReason,
    SubmitOutcome,
    UploadError,
)
from core.generations.types import CallState
from core.settings import Settings
from core.tasks.jobs import DONE, Backoff, Outcome
from core.tasks.outbox import Task

log = structlog.get_logger()

# A pause until the provider is reachable again: doubles with each call of the generation.
_BACKOFF = Backoff(seconds_max=30)
# The provider may fetch the photo late in its queue: longer than any deadline of ours.
_INPUT_URL_SECONDS = 86_400
_RECORD_PAUSE_SECONDS = 0.5
_ANSWERED_GRACE_SECONDS = 30.0
_CALLS_AT_ONCE = 32
# A model that is not there for the time of a deployment at the provider's edge comes back within
# these tries (two to three minutes); one that the provider has removed does not.
_MODEL_MISSING_MAX = 10


async def dispatch_for(tools: PipelineTools, _: Task) -> Outcome:
    """The ticket of a generation: serves the next one in fairness, which need not be that one."""
    for intent in await tools.db.run(lambda conn: _open_calls(tools, conn, limit=1)):
        submit_in_background(tools, intent)
    return DONE


async def dispatch_waiting(tools: PipelineTools) -> int:
    """Fills the free slots; returns how many calls were opened."""
    opened = 0
    while True:
        intents = await tools.db.run(lambda conn: _open_calls(tools, conn, limit=_CALLS_AT_ONCE))
        if not intents:
            return opened
        opened += len(intents)
        for intent in intents:
            submit_in_background(tools, intent)


def lease_seconds(settings: Settings) -> float:
    """Covers the POST's own timeouts and the recording of its outcome."""
    return settings.provider_submit_timeout_seconds + 15


async def _open_calls(tools: PipelineTools, conn: Connection, *, limit: int) -> list[CallIntent]:
    return await queries.open_calls(
        conn,
        accounts.fingerprints_of(tools.providers),
        limit=limit,
        lease_seconds=lease_seconds(tools.settings),
    )


def submit_in_background(
    tools: PipelineTools, intent: CallIntent, *, handed_over: bool = False
) -> None:
    tools.start_background(
        submit(tools, intent, handed_over=handed_over), name=f"submit {intent.call_id}"
    )


async def submit(tools: PipelineTools, intent: CallIntent, *, handed_over: bool = False) -> None:
    """The one POST of an intent, and the record of its outcome.

    `handed_over`: the slot came from the step before, so the health of the account was not checked.
    """
    await tools.changes.publish(intent.change)
    started = time.monotonic()
    outcome: SubmitOutcome
    if handed_over and not intent.account_is_open:
        outcome = _not_sent(NotAcceptedReason.ACCOUNT_UNHEALTHY)
    else:
        try:
            outcome = await _post(tools, intent)
        except errors.InvalidInputError as error:  # reached only by rows that were changed by hand
            detail = str(error.fields.get("reason"))
            await _end_without_call(tools, intent, Ending.PARAMS_INVALID, detail)
            return
        except errors.NotFoundError:
            await _end_without_call(tools, intent, Ending.PHOTO_MISSING, intent.input_key)
            return
    tools.counters.observe(
        "jewelshot_provider_submit_seconds", time.monotonic() - started, account=intent.account
    )
    tools.counters.add(
        "jewelshot_provider_submits_total",
        account=intent.account,
        outcome=type(outcome).__name__.lower(),
    )
    await _record(tools, intent, outcome, until=started + lease_seconds(tools.settings))


async def _post(tools: PipelineTools, intent: CallIntent) -> SubmitOutcome:
    settings, provider = tools.settings, tools.providers[intent.provider]
    params = catalog_params.check(intent.params_schema, intent.params)
    if intent.seconds_left <= 1:
        return _not_sent(NotAcceptedReason.OUT_OF_TIME)
    try:
        image_url = await _input_url(tools, provider, intent)
    except UploadError as error:
        return _not_sent(NotAcceptedReason.PROVIDER_STORAGE_UNAVAILABLE, error)
    except (errors.RetryableError, errors.PermanentError, errors.TemporarilyUnavailableError):
        return _not_sent(NotAcceptedReason.STORAGE_UNAVAILABLE)
    callback = f"/v1/webhooks/{provider.name}/{intent.call_id}/{intent.callback_token}"
    return await provider.submit(
        Submission(
            step=intent.provider_step,
            params=params,
            presets=intent.presets,
            image_url=image_url,
            operation=intent.operation,
            key_fingerprint=intent.key_fingerprint,
            webhook_url=(
                f"{settings.public_base_url}{callback}" if settings.provider_webhooks else None
            ),
            start_timeout_seconds=intent.seconds_left,
        )
    )


async def _input_url(tools: PipelineTools, provider: ImageProvider, intent: CallIntent) -> str:
    """Our signed URL; or the provider's own storage, when it cannot fetch from ours."""
    bucket = (
        tools.settings.storage_bucket_uploads
        if intent.step == 0
        else tools.settings.storage_bucket_results
    )
    if not provider.needs_upload:
        return await tools.storage.sign(bucket, intent.input_key, _INPUT_URL_SECONDS)
    data = await tools.storage.get(bucket, intent.input_key)
    extension = intent.input_key.rpartition(".")[2]
    return await provider.upload(
        data,
        content_type="image/png" if extension == "png" else "image/jpeg",
        file_name=f"input.{extension}",
        key_fingerprint=intent.key_fingerprint,
    )


def _not_sent(reason: NotAcceptedReason, error: UploadError | None = None) -> NotAccepted:
    """No POST was made; `error` may say why the account should pause."""
    return NotAccepted(
        reason=reason,
        http_status=None,
        error_type=reason,
        detail=None if error is None else str(error),
        retry_after_seconds=None if error is None else error.retry_after_seconds,
        account_effect="none" if error is None else error.account_effect,
        is_final=False,
    )


def _first_poll_seconds(settings: Settings, typical_seconds: float) -> float:
    """After the model's usual time; half of it without webhooks."""
    if settings.provider_poll_first_seconds is not None:
        return settings.provider_poll_first_seconds
    return typical_seconds if settings.provider_webhooks else max(1.0, typical_seconds / 2)


def _grace_seconds(settings: Settings, intent: CallIntent, outcome: Ambiguous) -> float:
    """How long a webhook is waited for, and the slot kept.

    An answer of the provider's own (a 500 with JSON) most likely means that it did not take the
    request. If it did, the webhook comes with the model's end: twice its usual time is enough.
    """
    longest = settings.provider_ambiguous_grace_seconds
    if outcome.http_status is None:
        return longest
    return min(longest, max(_ANSWERED_GRACE_SECONDS, 2 * intent.provider_step.typical_seconds))


async def _record(
    tools: PipelineTools, intent: CallIntent, outcome: SubmitOutcome, *, until: float
) -> None:
    """Tries while the lease lasts: an answer that is not recorded may cost a second POST."""
    while True:
        try:
            change = await tools.db.run(lambda conn: _write(tools, conn, intent, outcome))
        except (
            psycopg.OperationalError
        ) as error:  # the database is unavailable, or ended this transaction in a deadlock
            if time.monotonic() >= until:
                raise
            log.warning(
                "provider.outcome_not_recorded",
                call_id=str(intent.call_id),
                error=type(error).__name__,
            )
            await asyncio.sleep(_RECORD_PAUSE_SECONDS)
        else:
            break
    if isinstance(outcome, NotAccepted) or not intent.account_is_open:
        tools.dispatch_wanted.set()  # the slot is free, or the account's probe has its answer
    await announce(tools, change, operation=intent.operation)


async def _write(
    tools: PipelineTools, conn: Connection, intent: CallIntent, outcome: SubmitOutcome
) -> Change | None:
    match outcome:
        case Accepted():
            return await queries.record_accepted(
                conn,
                intent.call_id,
                outcome,
                poll_seconds=_first_poll_seconds(
                    tools.settings, intent.provider_step.typical_seconds
                ),
            )
        case Ambiguous():
            log.warning(
                "provider.submit_ambiguous", call_id=str(intent.call_id), error=outcome.error
            )
            return await queries.record_ambiguous(
                conn,
                intent.call_id,
                outcome.error,
                grace_seconds=_grace_seconds(tools.settings, intent, outcome),
            )
        case NotAccepted():
            return await _record_not_accepted(tools, conn, intent, outcome)


async def _record_not_accepted(
    tools: PipelineTools, conn: Connection, intent: CallIntent, outcome: NotAccepted
) -> Change | None:
    end = CallEnd(
        state=CallState.REFUSED,
        http_status=outcome.http_status,
        error_type=outcome.error_type or outcome.reason,
        error_detail=outcome.detail,
    )
    log.info(
        "provider.submit_not_accepted",
        call_id=str(intent.call_id),
        reason=outcome.reason,
        http_status=outcome.http_status,
    )
    about = await _about_whom(conn, intent, outcome)
    ending = await _ending_of_refusal(conn, intent, outcome, about)
    change: Change | None
    if ending is not None:
        change = await queries.end_without_image(
            conn, intent.generation_id, None, ending, call_id=intent.call_id, end=end
        )
    else:
        change = await queries.record_not_accepted(
            conn, intent.call_id, end, delay_seconds=_delay_seconds(intent, outcome, about)
        )
    if outcome.is_final:
        await accounts.record_taken(conn, intent.call_id)
    await accounts.record_effect(
        conn,
        accounts.SentCall(
            call_id=intent.call_id,
            account_id=intent.account_id,
            retry_after_seconds=outcome.retry_after_seconds,
        ),
        outcome.account_effect if about is RefusalAbout.ACCOUNT else "none",
        settings=tools.settings,
        reason=outcome.reason,
    )
    return change


async def _about_whom(conn: Connection, intent: CallIntent, outcome: NotAccepted) -> RefusalAbout:
    """A 403 may also be meant for what is asked for, in the words of a locked account."""
    if outcome.account_effect == "locked" and outcome.http_status == 403:
        return await queries.find_whose_refusal(conn, intent.call_id)
    return RefusalAbout.ACCOUNT


async def _ending_of_refusal(
    conn: Connection, intent: CallIntent, outcome: NotAccepted, about: RefusalAbout
) -> Ending | None:
    """None: it waits for its turn again."""
    if about is RefusalAbout.GENERATION:
        return Ending.REQUEST_REFUSED
    if outcome.is_final:
        return ending_of_refusal(outcome)
    if outcome.reason is not NotAcceptedReason.MODEL_MISSING:
        return None
    log.error(
        "provider.model_missing",
        endpoint=intent.provider_step.endpoint,
        http_status=outcome.http_status,
    )
    before = await queries.count_refusals(conn, intent.call_id, outcome.http_status)
    return Ending.MODEL_MISSING if before + 1 >= _MODEL_MISSING_MAX else None


def _delay_seconds(intent: CallIntent, outcome: NotAccepted, about: RefusalAbout) -> float:
    if about is RefusalAbout.PERSON:
        return _BACKOFF.seconds_max
    if outcome.account_effect != "none":
        return 0  # the account pauses, not the generation: another account may take it
    return _BACKOFF.pause_seconds(intent.attempt)


async def _end_without_call(
    tools: PipelineTools, intent: CallIntent, ending: Ending, detail: str
) -> None:
    """Ends a generation of which nothing can be sent, now or later."""

    async def work(conn: Connection) -> Change | None:
        change = await queries.end_without_image(
            conn,
            intent.generation_id,
            None,
            ending,
            call_id=intent.call_id,
            end=CallEnd(state=CallState.REFUSED, error_type=ending, error_detail=detail),
        )
        sent = accounts.SentCall(call_id=intent.call_id, account_id=intent.account_id)
        await accounts.record_effect(conn, sent, "none", settings=tools.settings, reason=ending)
        return change

    change = await tools.db.run(work)
    tools.dispatch_wanted.set()  # the slot is free
    await announce(tools, change, operation=intent.operation)
