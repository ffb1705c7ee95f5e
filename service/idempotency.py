"""Makes repeated requests safe: the same Idempotency-Key with the same request creates only one batch.

A request claims its key, is answered, and then settles the key. Another request with the same key finds the claim:

    another body                  422
    settled                       the same answer again
    not settled, lease valid      409, because the first request is still in progress
    not settled, lease expired    it takes over the claim, and is handled like the first request

An answer that is too large to be stored is replaced by its size, and then a repeated request gets a 409: the batch ran,
and must not run again.

If a front end dies, its claim stays until the lease expires. Before another request takes over the claim, it abandons
the batch of that front end, which then can never be accepted. If it was accepted already, the request gets its status.

Perhaps an operation of the batch killed that front end. So each claim says how many front ends died before it. If one
did, a small batch does not run immediately again. It is accepted for the consumers, which isolate the operation. An
atomic batch, or one with references, cannot run in consumers. It runs once more, and after another death not again with
this key.
"""

import asyncio
import math
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from aiohttp import web
from ulid import ULID

from penstock.abandoning import was_accepted
from penstock.clock import Clock
from penstock.errors import (
    KeyInUse,
    KeyReused,
    MalformedRequest,
    NotPossibleNow,
    PenstockError,
    RunsNoMore,
    Unavailable,
)
from penstock.service.caller import tenant_of
from penstock.service.keys import BACKEND, CLOCK, SETTINGS
from penstock.store import KeyClaim, Store
from penstock.telemetry import Event, get_log

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
LONGEST_KEY = 255
MOST_DEATHS_HERE = 1  # of front ends, after which a batch still runs that can only run in one
ANSWER_LEASE_SECONDS = 60  # of the key of a request that submits no batch. It is extended until the request is answered
# How long the settling of a key is repeated. If it is never settled, a repeated request is handled like a first one.
SETTLE_SECONDS = 2.0
SETTLE_PAUSE_SECONDS = 0.2  # doubled after each repetition
_STAND_IN = re.compile(rb"answer too large: (\d+)")  # no JSON, so it is never an answer
_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')  # a string as in structured fields (RFC 9651)
_BARE = re.compile(r"[!#-+\--~]+")


@dataclass(frozen=True, slots=True)
class ClaimedKey:
    """The claim of a key. If `is_replay`, the request was answered before, and gets the same answer again."""

    claim: KeyClaim
    is_replay: bool


def read_key(request: web.Request) -> str | None:
    """Return the key of a request: a string as in structured fields, or without quotes, as many clients send it."""
    headers = request.headers.getall(HEADER, [])
    if not headers:
        return None
    text = ", ".join(headers).strip()  # several keys are not a valid one
    quoted = _STRING.fullmatch(text)
    key = re.sub(r'\\(["\\])', r"\1", quoted[1]) if quoted else text if _BARE.fullmatch(text) else ""
    if not 1 <= len(key) <= LONGEST_KEY:
        raise MalformedRequest(
            f'Invalid {HEADER}. Write {HEADER}: "...", with 1 to {LONGEST_KEY} ASCII characters in the quotes.'
        )
    if request.app[SETTINGS].redaction.finds_key(key):
        raise MalformedRequest(f"The header {HEADER} has an API key, and the table would keep it. Send another value.")
    return key


def stand_in_for(answer: bytes) -> bytes:
    """Return what is stored instead of an answer that is too large."""
    return b"answer too large: %d" % len(answer)


def check_complete(stored: bytes) -> None:
    """Raise NotPossibleNow if an answer was too large to be stored."""
    if too_large := _STAND_IN.fullmatch(stored):
        raise NotPossibleNow(
            "The batch of the first request with this key ran to its end and does not run again. "
            f"Its answer of {int(too_large[1]):,} bytes was sent then, but it was too large to be stored."
        )


async def claim_key(
    request: web.Request, key: str, fingerprint: str, batch_id: str, lease_seconds: float, *, ends_here: bool
) -> ClaimedKey:
    """Claim the key for this request, or find the earlier request with it. Raises KeyReused, KeyInUse and RunsNoMore.

    The lease must be long enough to run the batch. Its acceptance extends it. With `ends_here`, the batch can only run
    in a front end.
    """
    store, now = request.app[BACKEND].store, request.app[CLOCK].now()
    ours = _new_claim(request, key, fingerprint, batch_id, lease_seconds)
    existing = await _find_earlier(store, ours, now)
    if existing is None:
        return ClaimedKey(ours, is_replay=False)
    if existing.is_settled:
        return ClaimedKey(existing, is_replay=True)
    taking_over = replace(ours, keys_from=existing.keys_from, deaths=existing.deaths_so_far)
    if ends_here and taking_over.deaths > MOST_DEATHS_HERE:
        raise _runs_no_more(taking_over.deaths)
    if await _was_accepted(store, existing, now):
        return ClaimedKey(existing, is_replay=True)
    if not await store.take_over_key(existing, taking_over, now):
        raise _in_use(key, lease_seconds)
    return ClaimedKey(taking_over, is_replay=False)


async def answer_once(
    request: web.Request, key: str, fingerprint: str, answer: Callable[[], Awaitable[web.Response]]
) -> web.Response:
    """Answer a request that submits no batch, and store its answer. A repeated request gets the same answer.

    If the first request failed, or its front end died, a repeated request is handled like a first one.
    """
    store, clock = request.app[BACKEND].store, request.app[CLOCK]
    ours = _new_claim(request, key, fingerprint, str(ULID()), ANSWER_LEASE_SECONDS)
    existing = await _find_earlier(store, ours, clock.now())
    if existing is not None and existing.is_settled:
        return web.Response(
            body=existing.answer, status=202, content_type="application/json", headers={REPLAYED: "true"}
        )
    if existing is not None and not await store.take_over_key(existing, ours, clock.now()):
        raise _in_use(key, ANSWER_LEASE_SECONDS)
    keeping = asyncio.create_task(_keep(store, clock, ours))
    try:
        made = await answer()
    except BaseException:
        await update_claim(clock, partial(store.release_key, ours))
        raise
    finally:
        keeping.cancel()
    assert isinstance(made.body, bytes)
    await update_claim(clock, partial(store.settle_key, ours, made.body), repeat_seconds=SETTLE_SECONDS)
    return made


async def update_claim(clock: Clock, update: Callable[[], Awaitable[None]], *, repeat_seconds: float = 0) -> None:
    """Update the claim of a key, and repeat it for this time while AWS is unavailable.

    If it is not updated, only log that: the lease of the claim will expire.
    """
    pause, give_up_at = SETTLE_PAUSE_SECONDS, clock.monotonic() + repeat_seconds
    while True:
        try:
            return await update()
        except PenstockError as error:
            if not isinstance(error, Unavailable) or clock.monotonic() + pause > give_up_at:
                get_log().error(Event.AWS_UNAVAILABLE, error=str(error))
                return None
        await clock.sleep(pause)
        pause *= 2


def _new_claim(request: web.Request, key: str, fingerprint: str, batch_id: str, lease_seconds: float) -> KeyClaim:
    now = request.app[CLOCK].now()
    return KeyClaim(
        tenant=tenant_of(request),
        key=key,
        fingerprint=fingerprint,
        batch_id=batch_id,
        keys_from=batch_id,
        lease_until=now + lease_seconds,
        expires_at=now + request.app[SETTINGS].idempotency_seconds,
    )


async def _find_earlier(store: Store, ours: KeyClaim, now: float) -> KeyClaim | None:
    """Claim a key. Return the claim of an earlier request that is settled or was given up, or None if the key is ours.

    Raises KeyReused, or KeyInUse.
    """
    existing = await store.claim_key(ours, now)
    if existing.batch_id == ours.batch_id:
        return None
    if existing.fingerprint != ours.fingerprint:
        raise KeyReused(f"The key {ours.key!r} was used for another request before. Use a new key for a new request.")
    if not existing.is_settled and existing.lease_until >= now:
        raise _in_use(ours.key, existing.lease_until - now)
    return existing


async def _keep(store: Store, clock: Clock, claim: KeyClaim) -> None:
    """Extend the lease of a claim until the request is answered."""
    while True:
        await asyncio.sleep(ANSWER_LEASE_SECONDS / 3)
        with suppress(PenstockError):
            await store.extend_key(claim, clock.now() + ANSWER_LEASE_SECONDS)


def _in_use(key: str, seconds: float) -> KeyInUse:
    return KeyInUse(
        f"The first request with the key {key!r} is still in progress. Try again in a moment. "
        f"If its front end has died, a repeated request takes over after {math.ceil(seconds)} s."
    )


def _runs_no_more(deaths: int) -> RunsNoMore:
    return RunsNoMore(
        f"{deaths} front ends died or lost their connection to the table while they ran this batch, which can only run "
        "in one, so it does not run again with this key. Nobody knows what of it was committed. Find that out first. "
        "Then send the batch with a new key, without the operation that may be the cause."
    )


async def _was_accepted(store: Store, existing: KeyClaim, now: float) -> bool:
    """Return True if a front end accepted the batch before it died. Otherwise, abandon the batch."""
    accepted = await was_accepted(store, existing.batch_id, now, existing.expires_at)
    if accepted:
        await store.settle_key(existing, None)
    return accepted
