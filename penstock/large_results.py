"""Keeps large results in the bucket. The record of their chunk refers to them.

The files are written first and the record after them, so whoever reads a committed record finds its files. The name of
a file is the hash of its content. So a file never changes, whatever delivery of the chunk writes it, and however late
its call takes effect. A crash between the two leaves files that no record refers to. The bucket deletes them with its
lifecycle, as it does with all results, after the retention of their batch.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import TypeVar
from urllib.parse import quote

from msgspec.structs import replace as with_changes

from penstock.bucket import Bucket
from penstock.outcome import (
    ChunkRecord,
    EncodedResult,
    Outcome,
    OutcomeState,
    StoredResult,
    Verdict,
    has_long_result,
    size_of,
)
from penstock.waiting import wait_for_all

T = TypeVar("T")

KIB = 1024
MOST_RESULT_BYTES = 5 * KIB**2
MOST_BYTES_WITHOUT_BUCKET = KIB**2  # they are in items of the table, which cost a thousand times as much to write
LARGE_BYTES = 256 * KIB  # of JSON; a shorter result is a part of the record
RESULTS = "results/"  # the prefix of all large results; `infra/bucket.yaml` names it, too

_CALLS = 4  # of one chunk or one page at the same time


def most_result_bytes(*, has_bucket: bool) -> int:
    return MOST_RESULT_BYTES if has_bucket else MOST_BYTES_WITHOUT_BUCKET


def may_be_large(held_bytes: int) -> bool:
    """Return False if none of the results that take this memory together can be large. It costs nothing to ask."""
    return held_bytes > LARGE_BYTES


def result_key(tenant: str, batch_id: str, result: StoredResult) -> str:
    return f"{RESULTS}{quote(tenant, safe='')}/{batch_id}/{result.name}"


async def _nothing() -> None:
    """Do nothing after a file is written."""


class LargeResults:
    """The large results in a bucket. Without a bucket, all results stay in their records."""

    def __init__(self, bucket: Bucket | None) -> None:
        self._bucket = bucket

    async def store(
        self,
        tenant: str,
        batch_id: str,
        record: ChunkRecord,
        after_each: Callable[[], Awaitable[None]] = _nothing,
    ) -> ChunkRecord:
        """Write the large results of a record to the bucket. Return the record with references to them.

        Call it before the record is committed. It may be repeated. A record without large results makes no call.
        `after_each` is called after each file, for whoever has to extend a lease.
        """
        large = [outcome for outcome in record.outcomes if _is_large(outcome)]
        if self._bucket is None or not large:
            return record
        stored = {outcome.index: _reference(outcome) for outcome in large}
        contents = {result_key(tenant, batch_id, stored[one.index]): one.result.content for one in large}
        turns = asyncio.Semaphore(_CALLS)
        write = partial(self._write, self._bucket, turns, after_each)
        await wait_for_all(write(key, content) for key, content in contents.items())
        outcomes = [
            with_changes(outcome, result=stored[outcome.index]) if outcome.index in stored else outcome
            for outcome in record.outcomes
        ]
        return replace(record, outcomes=tuple(outcomes))

    async def _write(
        self,
        bucket: Bucket,
        turns: asyncio.Semaphore,
        after_each: Callable[[], Awaitable[None]],
        key: str,
        content: bytes,
    ) -> None:
        async with turns:
            await bucket.write(key, content, "application/json")
            await after_each()

    async def load(
        self, tenant: str, batch_id: str, results: Sequence[StoredResult], use: Callable[[int, bytes | None], T]
    ) -> list[T]:
        """Load these results, and return what `use` makes of each of them, in their order.

        `use` gets the number of a result and its JSON, or None if its file does not exist any more. Each JSON is
        released as soon as it is used.
        """
        turns = asyncio.Semaphore(_CALLS)

        async def load(number: int, result: StoredResult) -> T:
            async with turns:
                content = (
                    None if self._bucket is None else await self._bucket.load(result_key(tenant, batch_id, result))
                )
                return use(number, content)

        return await wait_for_all(load(number, result) for number, result in enumerate(results))

    def why_missing(self, result: StoredResult) -> str:
        """Return the sentence for a client whose result is not there."""
        if self._bucket is None:
            return (
                f"This result of {result.size:,} bytes is in a bucket, but this front end has none. "
                "Set PENSTOCK_BUCKET for all front ends and consumers."
            )
        return f"The file with this result of {result.size:,} bytes was deleted from the bucket."


def without_files(verdicts: Mapping[int, Verdict]) -> dict[int, Verdict]:
    """Return the verdicts on operations whose large results could not be written to the bucket."""
    return {index: _without_file(verdict) for index, verdict in verdicts.items()}


def _without_file(verdict: Verdict) -> Verdict:
    size = size_of(verdict)
    if not isinstance(verdict, Outcome) or not has_long_result(verdict) or size <= MOST_BYTES_WITHOUT_BUCKET:
        return verdict
    detail = (
        f"The handler has succeeded, but its result of {size:,} bytes could not be written to the bucket. "
        "A retry runs the operation again, with the same idempotency key."
    )
    error = {"title": "Result could not be stored", "detail": detail}
    return with_changes(verdict, state=OutcomeState.FAILED, status=503, result=None, error=error)


def _is_large(outcome: Outcome) -> bool:
    return isinstance(outcome.result, EncodedResult) and len(outcome.result.content) > LARGE_BYTES


def _reference(outcome: Outcome) -> StoredResult:
    content = outcome.result.content
    return StoredResult(sha256(content).hexdigest(), len(content))
