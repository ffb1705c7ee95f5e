"""Same Idempotency-Key and same request, same batch: however often a client sends it, it runs once.

        claim ──► answer ──► settle                    another request of the same key finds
          │                                              settled             the same answer
          └── lease, until then 409 ──► taken over       settled, other body 422
                                                         its lease running   409
                                                         its lease over      nobody: it takes over

A front end that dies leaves a claim whose lease runs out. Before it is taken over, the batch that it may have been
accepting is abandoned for good, unless it was accepted after all.
"""

import re
from dataclasses import dataclass, replace

from aiohttp import web

from penstock.batch import UNACCEPTED_STATES, Batch, BatchState
from penstock.errors import KeyInUse, KeyReused, MalformedRequest
from penstock.service.keys import BACKEND, CLOCK, SETTINGS, tenant_of
from penstock.store import KeyClaim, Store

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
LONGEST_KEY = 255
_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')  # a string of structured fields (RFC 9651)
_BARE = re.compile(r"[!#-+\--~]+")


@dataclass(frozen=True, slots=True)
class Standing:
    """A claim, and whether its request has been answered already: then the answer is to be repeated."""

    claim: KeyClaim
    is_replay: bool


def read_key(request: web.Request) -> str | None:
    """The key that the client gave: a structured-field string, or the bare form that many send."""
    header = request.headers.get(HEADER)
    if header is None:
        return None
    text = header.strip()
    quoted = _STRING.fullmatch(text)
    key = re.sub(r'\\(["\\])', r"\1", quoted[1]) if quoted else text if _BARE.fullmatch(text) else ""
    if not 1 <= len(key) <= LONGEST_KEY:
        raise MalformedRequest(f'Write {HEADER}: "...", with 1 to {LONGEST_KEY} ASCII characters in the quotes.')
    return key


async def claim_key(request: web.Request, key: str, fingerprint: str, batch_id: str) -> Standing:
    """Raises KeyReused and KeyInUse."""
    store, now = request.app[BACKEND].store, request.app[CLOCK].now()
    settings = request.app[SETTINGS]
    ours = KeyClaim(
        tenant=tenant_of(request),
        key=key,
        fingerprint=fingerprint,
        batch_id=batch_id,
        keys_from=batch_id,
        # Longer than an answer at once and then an acceptance; one that takes longer extends it.
        lease_until=now + settings.sync_seconds + settings.accept_seconds,
        expires_at=now + settings.idempotency_seconds,
    )
    standing = await store.claim_key(ours, now)
    if standing.batch_id == ours.batch_id:
        return Standing(ours, is_replay=False)
    if standing.fingerprint != ours.fingerprint:
        raise KeyReused(f"The key {key!r} came with another body before; use a new key for a new request.")
    if standing.is_settled or await _was_accepted(store, standing, now):
        return Standing(standing, is_replay=True)
    taking_over = replace(ours, keys_from=standing.keys_from)
    if standing.lease_until >= now or not await store.take_over_key(standing, taking_over, now):
        raise KeyInUse(f"The first request with the key {key!r} is still being answered; ask again in a moment.")
    return Standing(taking_over, is_replay=False)


async def _was_accepted(store: Store, standing: KeyClaim, now: float) -> bool:
    """Whether a front end that died had accepted the batch. If not, it never will be: it is abandoned here."""
    if standing.lease_until >= now:
        return False
    while not await store.abandon_batch(standing.batch_id):
        batch = await store.read_batch(standing.batch_id)
        if batch is None:
            # It may still be created, by a front end whose clock is slow or whose call was long under way.
            await store.create_batch(_stand_in(standing, now))
        elif batch.state not in UNACCEPTED_STATES:
            await store.settle_key(standing, None)
            return True
    return False


def _stand_in(standing: KeyClaim, now: float) -> Batch:
    """A batch in the place of one that must not come about any more. It can only be abandoned."""
    return Batch(
        id=standing.batch_id,
        tenant=standing.tenant,
        state=BatchState.ACCEPTING,
        total=0,
        chunk_count=0,
        group_totals=(),
        created_at=now,
        accept_by=0,
        deadline_at=now,
        expires_at=standing.expires_at,
    )
