"""POST /batch: reads and validates a batch, then runs it immediately or accepts it for the background.

A dialect submits its batches with `submit`, too. It reads them, and says how it writes their results.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from aiohttp import hdrs, web
from ulid import PureRandomPolicy, ULIDGenerator

from penstock.errors import AcceptanceUnknown, Flaw, LimitPassed, UnknownBatch
from penstock.metrics.names import Metric
from penstock.outcome import Outcome, as_outcome, is_turned_away
from penstock.planning import Errors
from penstock.reading.flaws import ENVELOPE
from penstock.running.source import Source
from penstock.service.batches.status import read_status
from penstock.service.caller import headers_to_pass_on, tenant_of
from penstock.service.idempotency import (
    REPLAYED,
    SETTLE_SECONDS,
    ClaimedKey,
    check_complete,
    claim_key,
    read_key,
    stand_in_for,
    update_claim,
)
from penstock.service.intake.acceptance import Acceptance, Submission
from penstock.service.intake.attempts import Tried
from penstock.service.intake.draft import Draft
from penstock.service.intake.dry_run import describe_batch
from penstock.service.intake.preferences import read_preferences
from penstock.service.intake.reading import Read
from penstock.service.intake.small_batch import SmallBatch, SmallBatchRun
from penstock.service.intake.tables import read_file
from penstock.service.json_answer import BodyAnswer, encode, json_answer
from penstock.service.keys import (
    BACKEND,
    BATCH_ID,
    CLOCK,
    HANDLER_TIMES,
    METER,
    OPERATIONS,
    RUNNER,
    SETTINGS,
    SHARE,
    TABLE_OUTAGE,
    WEBHOOK_TENANTS,
)
from penstock.service.limits.charging import charged, check_something_left
from penstock.service.limits.opening import check_room, opened
from penstock.service.receivers import check_receiver
from penstock.service.request_ids import request_id
from penstock.service.schemas import BatchOptions, accepted_body, answered_body, status_url, summary_of
from penstock.settings import DAY_SECONDS, MOST_DAYS_AHEAD, Settings
from penstock.store import KeyClaim
from penstock.telemetry import Event, get_log

# The ids of one millisecond are independent of each other. By default they would be consecutive, so easy to guess.
BATCH_IDS = ULIDGenerator(policy=PureRandomPolicy())
SLOW_BODY_BYTES = 64 * 1024  # a body of so many bytes arrives in several parts, and is hardly answered immediately
FIRST_POLL_SECONDS = 1  # a hint for the client: when the first status request makes sense
# How long the lease of a key lasts after the time of the batch: to roll back or commit, to settle the key, and for
# clocks that differ. Until it is over, nobody takes over the key of a front end that died.
LEASE_MARGIN_SECONDS = 10
WRITE_SECONDS = 30.0  # from the charge of a batch to the write that starts its acceptance: usually milliseconds


@dataclass(frozen=True, slots=True)
class Course:
    """How a batch is answered: with its results within `seconds`, or, if that is None, with 202.

    One that is atomic is always answered with its results: it is never handed over.
    """

    seconds: float | None = None
    applied: str | None = None  # the client's preference that decided this
    atomic: bool = False

    @property
    def is_immediate(self) -> bool:
        return self.seconds is not None

    @property
    def starts_operations(self) -> bool:
        return self.seconds is not None and self.seconds > 0


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that is answered with all its results, in `body`, or with what the batch would be."""

    body: bytes
    applied: str | None = None  # the client's preference that decided this
    is_replay: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """A batch that runs in the background. `status` is its current status, if an earlier request has submitted it."""

    batch_id: str
    applied: str | None = None
    status: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Background:
    """What a dialect wants for a batch that runs in the background in any case: its id, and how it ends.

    With `completes_anyway`, it is completed even if no operation succeeds. With `errors`, which are those of its file,
    it fails at once. `operations` are those of a file that a consumer reads, as far as they are known.
    """

    batch_id: str
    completes_anyway: bool = False
    errors: Errors | None = None
    operations: int = 1


Submitted = Answered | Accepted
ReadBatch = Callable[[web.Request, Draft], Awaitable[Read]]
"""Reads the batch of a request into a draft, with its errors."""
WriteResults = Callable[[Sequence[Outcome]], Any]
"""Returns the body of the answer to a batch that was run immediately, as a JSON value."""


async def submit_batch(request: web.Request) -> web.Response:
    """Run or accept the batch in the body of a request."""
    submitted = await submit(request, read_file, answered_body)
    if isinstance(submitted, Accepted):
        body = {**accepted_body(submitted.batch_id), **(submitted.status or {})}
        headers = {**where(submitted.batch_id), **headers_of(submitted)}
        return json_answer(body, status=202, headers=headers)
    return BodyAnswer(body=submitted.body, headers=headers_of(submitted), content_type="application/json")


async def submit(
    request: web.Request, read_batch: ReadBatch, results: WriteResults, background: Background | None = None
) -> Submitted:
    """Read a batch, and run or accept it. One for the background is accepted."""
    key = read_key(request)
    app = request.app
    batch_id = str(BATCH_IDS.generate()) if background is None else background.batch_id
    with Draft(batch_id, app[OPERATIONS], app[SETTINGS], app[HANDLER_TIMES]) as draft:
        request[BATCH_ID] = draft.batch_id
        await check_something_left(request, key)
        if (request.content_length or 0) >= SLOW_BODY_BYTES:
            app[HANDLER_TIMES].refresh()  # while the body arrives
        read = await read_batch(request, draft)
        await check_batch(request, draft, read.options)
        headers = headers_to_pass_on(request) if draft.first_forwarded is not None else ()
        course = _course(request, draft, read) if background is None else Course()
        if course.is_immediate and not course.atomic:
            draft.check_sizes()
        if read.options.validate_only:
            is_atomic = read.options.atomic
            return Answered(
                encode(await describe_batch(request, draft, is_immediate=course.is_immediate, is_atomic=is_atomic))
            )
        # An invalid request does not claim its key, so the client can correct it and send it again with the same key.
        claimed = await _claim(request, key, draft.batch_id, read, course) if key is not None else None
        if claimed is not None and claimed.is_replay:
            return await _replay(request, claimed)
        submission = _submission(request, draft, read, headers, claimed.claim if claimed else None)
        if background is not None:
            submission = replace(submission, completes_anyway=background.completes_anyway)
        if claimed is not None and claimed.claim.deaths > 0 and course.is_immediate:
            course = _course_after_deaths(course, claimed.claim)
        return await _answer(request, submission, course, results)


async def check_batch(request: web.Request, draft: Draft, options: BatchOptions) -> None:
    """Raise InvalidRequest, or LimitPassed, if the batch is invalid."""
    if options.atomic:
        _check_atomic(draft, request)
    _check_time(draft, options, request.app[CLOCK].now())
    _check_metadata(draft, options, request.app[SETTINGS])
    if options.callback_url is not None:
        _check_callback(draft, options.callback_url, request.app[SETTINGS], atomic=options.atomic)
    await draft.check()


def _submission(
    request: web.Request,
    draft: Draft,
    read: Read,
    headers: tuple[tuple[str, str], ...],
    claim: KeyClaim | None,
) -> Submission:
    options = read.options
    return Submission(
        draft=draft,
        key_prefix=claim.keys_from if claim else draft.batch_id,
        tenant=tenant_of(request),
        priority=options.priority,
        not_before=options.not_before,
        deadline_seconds=options.deadline_seconds,
        failure_limit=options.failure_limit(draft.total),
        max_failures=options.max_failures,
        max_failed_percent=options.max_failed_percent,
        metadata=options.metadata or {},
        callback_url=options.callback_url,
        headers=headers,
        layout=read.layout,
        claim=claim,
    )


def _check_atomic(draft: Draft, request: web.Request) -> None:
    limit = request.app[SETTINGS].sync_max_operations
    if request.app[OPERATIONS].transaction is None:
        detail = "This application has no transaction, so a batch cannot be atomic."
        draft.flaws.add(ENVELOPE, Flaw("/atomic", detail))
    elif draft.first_forwarded is not None:
        detail = f"Operation {draft.first_forwarded} is forwarded to another program, so it could not be rolled back."
        draft.flaws.add(ENVELOPE, Flaw("/atomic", detail))
    elif draft.has_links:
        detail = (
            "An atomic batch runs in order and as a whole, so its operations have no dependsOn, references or group."
        )
        draft.flaws.add(ENVELOPE, Flaw("/atomic", detail))
    elif draft.is_large:
        detail = f"The atomic batch has {draft.total:,} operations. The limit is {limit:,}."
        raise LimitPassed(detail, limit={"maxAtomicOperations": limit})
    else:
        draft.check_all_in_transaction()


def _check_time(draft: Draft, options: BatchOptions, now: float) -> None:
    if options.not_before is None:
        return
    if options.atomic:
        detail = "An atomic batch runs immediately, so it cannot have notBefore. Remove one of the two."
        draft.flaws.add(ENVELOPE, Flaw("/notBefore", detail))
    if options.not_before > now + MOST_DAYS_AHEAD * DAY_SECONDS:
        detail = f"The time is too late. Use a time within {MOST_DAYS_AHEAD} days from now."
        draft.flaws.add(ENVELOPE, Flaw("/notBefore", detail))


def _check_metadata(draft: Draft, options: BatchOptions, settings: Settings) -> None:
    """Note metadata that has a key: the table would keep it, and lists and events would show it."""
    finds_key = settings.redaction.finds_key
    if any(finds_key(name) or finds_key(value) for name, value in (options.metadata or {}).items()):
        draft.flaws.add(ENVELOPE, Flaw("/metadata", "The metadata has a key of Penstock. Use another text."))


def _check_callback(draft: Draft, url: str, settings: Settings, *, atomic: bool) -> None:
    settings.require_webhook_secrets()
    if atomic:
        detail = "An atomic batch is answered with its results, so it cannot have callbackUrl. Remove one of the two."
        draft.flaws.add(ENVELOPE, Flaw("/callbackUrl", detail))
    try:
        check_receiver(url, settings)
    except ValueError as error:
        draft.flaws.add(ENVELOPE, Flaw("/callbackUrl", f"{error}."))


def _course(request: web.Request, draft: Draft, read: Read) -> Course:
    options = read.options
    preferences = read_preferences(", ".join(request.headers.getall("Prefer", ())))
    is_delayed = options.not_before is not None
    if draft.is_large or is_delayed or (preferences.respond_async and not options.atomic):
        return Course(applied="respond-async" if preferences.respond_async else None)
    longest = request.app[SETTINGS].sync_seconds
    if preferences.wait_seconds is None or preferences.wait_seconds > longest:
        return Course(longest, None, options.atomic)
    return Course(preferences.wait_seconds, f"wait={preferences.wait_seconds}", options.atomic)


async def _claim(request: web.Request, key: str, batch_id: str, read: Read, course: Course) -> ClaimedKey:
    """Claim the key for as long as it takes to run the batch, or to accept it."""
    seconds = request.app[SETTINGS].accept_seconds if course.seconds is None else course.seconds
    lease_seconds = seconds + LEASE_MARGIN_SECONDS
    return await claim_key(request, key, read.fingerprint, batch_id, lease_seconds, ends_here=course.atomic)


def _charge_seconds(course: Course) -> float:
    """Return how long it takes at most until the table shows what becomes of a batch."""
    return WRITE_SECONDS if course.seconds is None else course.seconds + LEASE_MARGIN_SECONDS


def _course_after_deaths(course: Course, claim: KeyClaim) -> Course:
    """Leave a batch that may have killed a front end to the consumers, unless it can only run in a front end."""
    get_log().warning(
        Event.BATCH_SUSPECTED, batch_id=claim.batch_id, first_batch_id=claim.keys_from, front_ends=claim.deaths
    )
    return course if course.atomic else Course()


async def _answer(request: web.Request, submission: Submission, course: Course, results: WriteResults) -> Submitted:
    """Answer the request and settle its key. If it fails, release the key, so that the client can send it again."""
    store, clock, claim, draft = request.app[BACKEND].store, request.app[CLOCK], submission.claim, submission.draft
    try:
        if not course.atomic:
            await check_room(request, draft.total, is_started=course.starts_operations)
        async with charged(request, draft.batch_id, draft.total, _charge_seconds(course)) as charge:
            answer = await _run_or_accept(request, submission, course, results)
            if isinstance(answer, Answered):
                await charge.settle()  # the table has no batch that would show that it was answered
    except AcceptanceUnknown:
        raise
    except Exception:
        if claim is not None:
            await update_claim(clock, partial(store.release_key, claim))
        raise
    if claim is not None:
        most = request.app[SETTINGS].idempotency_answer_bytes
        body = answer.body if isinstance(answer, Answered) else None
        stored = body if body is None or len(body) <= most else stand_in_for(body)
        await update_claim(clock, partial(store.settle_key, claim, stored), repeat_seconds=SETTLE_SECONDS)
    return answer


async def _run_or_accept(
    request: web.Request, submission: Submission, course: Course, results: WriteResults
) -> Submitted:
    if course.seconds is None:
        return await _accept(request, submission, {}, course)
    operations = submission.draft.operations
    tried = await _run_immediately(request, submission, course, course.seconds)
    is_unfinished = len(tried) < len(operations) or any(_waits(one) for one in tried.values())
    if is_unfinished and not course.atomic:
        return await _accept(request, submission, tried, course)
    outcomes = [as_outcome(tried[operation.index].verdict) for operation in operations]
    summary = summary_of(outcomes)
    meter = request.app[METER]
    meter.accepted(submission.tenant, len(operations))
    meter.failures(submission.tenant, summary["failed"])
    get_log().info(
        Event.BATCH_ANSWERED,
        request_id=request_id(request),
        batch_id=submission.draft.batch_id,
        **summary,
    )
    return Answered(encode(results(outcomes)), course.applied)


def _waits(tried: Tried) -> bool:
    """Return True if the operation was turned away, or if a limit of the fleet held its next attempt back."""
    return tried.is_held_back or is_turned_away(tried.verdict)


async def _run_immediately(
    request: web.Request, submission: Submission, course: Course, seconds: float
) -> dict[int, Tried]:
    source = Source(
        submission.draft.batch_id,
        submission.key_prefix,
        priority=submission.priority,
        tenant=submission.tenant,
        headers=dict(submission.headers),
    )
    batch = SmallBatch(source, submission.draft.operations, seconds, course.atomic)
    app = request.app
    return await SmallBatchRun(batch, app[OPERATIONS], app[RUNNER], app[SETTINGS].backoff, request[SHARE]).run()


async def _accept(request: web.Request, submission: Submission, tried: dict[int, Tried], course: Course) -> Accepted:
    """Accept the batch for the background. `tried` was run already, but not all operations were finished in time.

    Operations that were cut off are not in `tried`. So a batch that was started is accepted in any case: to reject it
    would run them again with the next request.
    """
    clock, meter = request.app[CLOCK], request.app[METER]
    started_at = clock.monotonic()
    if request.app[SETTINGS].webhook_secret is not None:
        has_webhooks = await request.app[WEBHOOK_TENANTS].may_have_endpoints(submission.tenant)
        submission = replace(submission, has_webhooks=has_webhooks)
    acceptance = Acceptance(
        submission, request.app[BACKEND], request.app[SETTINGS], clock, meter, outage=request.app[TABLE_OUTAGE]
    )
    async with opened(request, submission.draft.batch_id, submission.draft.total, is_forced=course.starts_operations):
        batch = await acceptance.accept(tried)
    meter.observe(Metric.ACCEPT_SECONDS, clock.monotonic() - started_at)
    meter.accepted(batch.tenant, batch.total)
    event = Event.BATCH_HANDED_OVER if tried else Event.BATCH_ACCEPTED
    get_log().info(
        event,
        request_id=request_id(request),
        batch_id=batch.id,
        tenant=batch.tenant,
        total=batch.total,
        chunks=batch.chunk_count,
    )
    return Accepted(batch.id, course.applied)


async def _replay(request: web.Request, claimed: ClaimedKey) -> Submitted:
    """Return the answer of the first request. If its batch runs in the background, add the current status."""
    claim = claimed.claim
    if claim.answer is not None:
        check_complete(claim.answer)
        return Answered(claim.answer, is_replay=True)
    batch = await request.app[BACKEND].store.read_batch(claim.batch_id)
    if batch is None:
        raise UnknownBatch(claim.batch_id)
    return Accepted(batch.id, status=await read_status(request, batch))


def headers_of(submitted: Submitted) -> dict[str, str]:
    """Return the headers that say which preference was applied, and if the answer repeats an earlier one."""
    is_replay = submitted.is_replay if isinstance(submitted, Answered) else submitted.status is not None
    applied = {} if submitted.applied is None else {"Preference-Applied": submitted.applied}
    return {**applied, REPLAYED: "true"} if is_replay else applied


def where(batch_id: str) -> dict[str, str]:
    return {hdrs.LOCATION: status_url(batch_id), hdrs.RETRY_AFTER: str(FIRST_POLL_SECONDS)}
