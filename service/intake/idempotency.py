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
atomic batch cannot run in consumers. It runs once more, and after another death not again with this key.
"""

import math
import re
from dataclasses import dataclass, replace

from aiohttp import web

from penstock.errors import KeyInUse, KeyReused, MalformedRequest, NotPossibleNow, RunsNoMore
from penstock.service.abandoning import was_accepted
from penstock.service.caller import tenant_of
from penstock.service.keys import BACKEND, CLOCK, SETTINGS
from penstock.store import KeyClaim, Store

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
LONGEST_KEY = 255
MOST_ATOMIC_DEATHS = 1  # of front ends, after which an atomic batch still runs
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
    request: web.Request, key: str, fingerprint: str, batch_id: str, lease_seconds: float, *, atomic: bool
) -> ClaimedKey:
    """Claim the key for this request, or find the earlier request with it. Raises KeyReused, KeyInUse and RunsNoMore.

    The lease must be long enough to run the batch. Its acceptance extends it.
    """
    store, now = request.app[BACKEND].store, request.app[CLOCK].now()
    ours = KeyClaim(
        tenant=tenant_of(request),
        key=key,
        fingerprint=fingerprint,
        batch_id=batch_id,
        keys_from=batch_id,
        lease_until=now + lease_seconds,
        expires_at=now + request.app[SETTINGS].idempotency_seconds,
    )
    existing = await store.claim_key(ours, now)
    if existing.batch_id == ours.batch_id:
        return ClaimedKey(ours, is_replay=False)
    if existing.fingerprint != ours.fingerprint:
        raise KeyReused(f"The key {key!r} was used for another request before. Use a new key for a new request.")
    if existing.is_settled:
        return ClaimedKey(existing, is_replay=True)
    if existing.lease_until >= now:
        raise _in_use(key, existing.lease_until - now)
    taking_over = replace(ours, keys_from=existing.keys_from, deaths=existing.deaths_so_far)
    if atomic and taking_over.deaths > MOST_ATOMIC_DEATHS:
        raise _runs_no_more(taking_over.deaths)
    if await _was_accepted(store, existing, now):
        return ClaimedKey(existing, is_replay=True)
    if not await store.take_over_key(existing, taking_over, now):
        raise _in_use(key, lease_seconds)
    return ClaimedKey(taking_over, is_replay=False)


def _in_use(key: str, seconds: float) -> KeyInUse:
    return KeyInUse(
        f"The first request with the key {key!r} is still in progress. Try again in a moment. "
        f"If its front end has died, a repeated request takes over after {math.ceil(seconds)} s."
    )


def _runs_no_more(deaths: int) -> RunsNoMore:
    return RunsNoMore(
        f"{deaths} front ends died or lost their connection to the table while they ran this atomic batch, so it does "
        "not run again with this key. Nobody knows whether its transaction was committed. Find that out first. "
        "Then send the batch with a new key, without the operation that may be the cause."
    )


async def _was_accepted(store: Store, existing: KeyClaim, now: float) -> bool:
    """Return True if a front end accepted the batch before it died. Otherwise, abandon the batch."""
    accepted = await was_accepted(store, existing.batch_id, existing.tenant, now, existing.expires_at)
    if accepted:
        await store.settle_key(existing, None)
    return accepted
