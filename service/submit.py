"""POST /batch: read, validate; run a small batch at once, accept a large one for the background."""

from collections.abc import Awaitable

from aiohttp import hdrs, web
from ulid import ULID

from penstock.errors import AcceptanceUnknown, Flaw, LimitPassed, PenstockError, UnknownBatch
from penstock.outcome import as_outcome
from penstock.runner import Source
from penstock.telemetry import Event, get_log
from service.acceptance import Acceptance, Submission
from service.content import JSON, check_type, read_content
from service.idempotency import REPLAYED, Standing, claim_key, read_key
from service.json_answer import encode, json_answer
from service.parts import BACKEND, CLOCK, OPERATIONS, RUNNER, SETTINGS, tenant_of
from service.preferences import Preferences, read_preferences
from service.reading import parse_json, read_envelope, read_operations
from service.schemas import BatchRequest, accepted_body, answered_body, status_url
from service.small_batch import SmallBatch, SmallBatchRunner, Tried
from service.status import read_status

FIRST_POLL_SECONDS = 1  # a hint for when asking for the status makes sense


async def submit_batch(request: web.Request) -> web.Response:
    check_type(request, [JSON])
    content = await read_content(request, request.app[SETTINGS].max_body_bytes)
    key = read_key(request)
    flaws: list[Flaw] = []
    envelope = read_envelope(parse_json(content), request.app[SETTINGS], flaws)
    if envelope.atomic:
        _check_atomic(len(envelope.operations), request, flaws)
    operations = read_operations(envelope.operations, request.app[OPERATIONS], flaws)
    # Only a request that can be answered claims its key: one that is refused may be mended and sent again.
    standing = None if key is None else await claim_key(request, key, content)
    if standing is not None and standing.is_replay:
        return await _replay(request, standing)
    batch_id = standing.claim.batch_id if standing else str(ULID())
    submission = Submission(
        batch_id=batch_id,
        key_prefix=standing.claim.keys_from if standing else batch_id,
        tenant=tenant_of(request),
        operations=operations,
        deadline_seconds=envelope.deadline_seconds,
        failure_limit=envelope.failure_limit(len(operations)),
        accept_by=standing.claim.lease_until if standing else None,
    )
    return await _answer(request, submission, envelope, standing)


def _check_atomic(count: int, request: web.Request, flaws: list[Flaw]) -> None:
    limit = request.app[SETTINGS].sync_max_operations
    if request.app[OPERATIONS].transaction is None:
        flaws.append(Flaw("/atomic", "This application has no transaction, so nothing can be rolled back."))
    elif count > limit:
        detail = f"The atomic batch has {count:,} operations; at most {limit:,} go into one."
        raise LimitPassed(detail, limit={"maxAtomicOperations": limit})


async def _answer(
    request: web.Request, submission: Submission, envelope: BatchRequest, standing: Standing | None
) -> web.Response:
    """Answer, and settle the key. A request that comes to nothing gives its key up, so that it can be sent again."""
    store = request.app[BACKEND].store
    try:
        answer, at_once = await _run_or_accept(request, submission, envelope)
    except AcceptanceUnknown:
        raise
    except Exception:
        if standing is not None:
            await _try(store.release_key(standing.claim))
        raise
    if standing is not None:
        await _try(store.settle_key(standing.claim, at_once))
    return answer


async def _try(step: Awaitable[None]) -> None:
    """What AWS keeps us from doing now is made up for when the claim's lease is over."""
    try:
        await step
    except PenstockError as error:
        get_log().error(Event.AWS_UNAVAILABLE, error=str(error))


async def _run_or_accept(
    request: web.Request, submission: Submission, envelope: BatchRequest
) -> tuple[web.Response, bytes | None]:
    """The response, and its body where the batch was answered at once."""
    preferences = read_preferences(", ".join(request.headers.getall("Prefer", ())))
    is_small = len(submission.operations) <= request.app[SETTINGS].sync_max_operations
    if not is_small or (preferences.respond_async and not envelope.atomic):
        applied = "respond-async" if preferences.respond_async else None
        return await _accept(request, submission, {}, applied), None
    seconds, applied = _time_to_answer(request, preferences)
    tried = await _run_at_once(request, submission, seconds, atomic=envelope.atomic)
    if len(tried) < len(submission.operations):
        return await _accept(request, submission, tried, applied), None
    body = answered_body([as_outcome(tried[operation.index].verdict) for operation in submission.operations])
    get_log().info(Event.BATCH_ANSWERED, batch_id=submission.batch_id, **body["summary"])
    return json_answer(body, headers=_applied(applied)), encode(body)


def _time_to_answer(request: web.Request, preferences: Preferences) -> tuple[float, str | None]:
    """How long the client is kept waiting at most, and the preference that says so."""
    longest = request.app[SETTINGS].sync_seconds
    if preferences.wait_seconds is None or preferences.wait_seconds > longest:
        return longest, None
    return preferences.wait_seconds, f"wait={preferences.wait_seconds}"


async def _run_at_once(
    request: web.Request, submission: Submission, seconds: float, *, atomic: bool
) -> dict[int, Tried]:
    runner = SmallBatchRunner(request.app[OPERATIONS], request.app[RUNNER], request.app[SETTINGS].backoff)
    source = Source(submission.batch_id, submission.key_prefix)
    return await runner.run(SmallBatch(source, submission.operations, seconds, atomic))


async def _accept(
    request: web.Request, submission: Submission, tried: dict[int, Tried], applied: str | None
) -> web.Response:
    """`tried` is what has been run already of a batch that outlived its time: it is not run again."""
    acceptance = Acceptance(request.app[BACKEND], request.app[SETTINGS], request.app[CLOCK])
    batch = await acceptance.accept(submission, tried)
    event = Event.BATCH_HANDED_OVER if tried else Event.BATCH_ACCEPTED
    get_log().info(event, batch_id=batch.id, tenant=batch.tenant, total=batch.total, chunks=batch.chunk_count)
    return json_answer(accepted_body(batch.id), status=202, headers={**_where(batch.id), **_applied(applied)})


async def _replay(request: web.Request, standing: Standing) -> web.Response:
    """The answer of the first request; for a batch in the background, with its status of now."""
    claim = standing.claim
    replayed = {REPLAYED: "true"}
    if claim.answer is not None:
        return web.Response(body=claim.answer, content_type="application/json", headers=replayed)
    batch = await request.app[BACKEND].store.read_batch(claim.batch_id)
    if batch is None:
        raise UnknownBatch(claim.batch_id)
    body = {**accepted_body(batch.id), **await read_status(request, batch)}
    return json_answer(body, status=202, headers={**_where(batch.id), **replayed})


def _where(batch_id: str) -> dict[str, str]:
    return {hdrs.LOCATION: status_url(batch_id), hdrs.RETRY_AFTER: str(FIRST_POLL_SECONDS)}


def _applied(preference: str | None) -> dict[str, str]:
    return {} if preference is None else {"Preference-Applied": preference}
