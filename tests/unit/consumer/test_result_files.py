"""Large results that cannot be written: others must not wait for them, and their operations fail in the end."""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from pydantic_core import to_json

from penstock.batch import Ending
from penstock.consumer.result_files import PATIENCE_SECONDS
from penstock.errors import NoAccess, PenstockError, RejectedCall, Unavailable
from penstock.large_results import LARGE_BYTES, MOST_BYTES_WITHOUT_BUCKET
from penstock.outcome import EncodedResult, StoredResult
from penstock.running.result_memory import MOST_BYTES
from penstock.testing import MemoryBucket
from tests.support.builders import BATCH_ID, NOW, build_operations
from tests.support.rig import Rig, take_turn

LARGE = LARGE_BYTES
HUGE = MOST_BYTES_WITHOUT_BUCKET + 1


class BrokenBucket(MemoryBucket):
    """Rejects all writes, until `works`, or the first `works_after` ones."""

    def __init__(self, error: PenstockError) -> None:
        super().__init__()
        self.error = error
        self.works = False
        self.works_after: float = math.inf  # writes
        self.writes: Counter[str] = Counter()

    async def write(self, key: str, content: bytes, content_type: str) -> None:
        self.writes[key] += 1
        if not self.works and sum(self.writes.values()) <= self.works_after:
            raise self.error
        await super().write(key, content, content_type)


def build_rig(bucket: MemoryBucket) -> Rig:
    rig = Rig()
    rig.parts = replace(rig.parts, bucket=bucket)

    @rig.operations.post("/text/{length}")
    async def text(length: int) -> Any:
        return "x" * (length - 2)

    return rig


@pytest.mark.parametrize("error", [NoAccess("denied"), Unavailable("down"), RejectedCall("invalid")])
async def test_an_operation_fails_if_its_result_cannot_be_stored(error: PenstockError) -> None:
    rig = build_rig(BrokenBucket(error))
    await rig.submit(build_operations(f"/text/{HUGE}", f"/text/{LARGE + 1}", "/text/3"))
    began_at = rig.clock.monotonic()
    await rig.work_off()

    huge, large, small = rig.outcomes()
    assert PATIENCE_SECONDS <= rig.clock.monotonic() - began_at < 2 * PATIENCE_SECONDS
    assert (huge.status, huge.rejected) == (503, False)  # so a retry takes it
    assert huge.error is not None
    assert huge.error["title"] == "Result could not be stored"
    assert f"its result of {HUGE:,} bytes" in huge.error["detail"]
    assert [one.status for one in (large, small)] == [200, 200]
    assert large.result == EncodedResult(to_json("x" * (LARGE - 1)))
    assert rig.failures() == [(huge.id, 503)]
    assert await rig.counts() == replace(await rig.counts(), succeeded=2, failed=1)


async def test_a_bucket_that_works_again_in_time_gets_the_result() -> None:
    class Recovering(BrokenBucket):
        async def write(self, key: str, content: bytes, content_type: str) -> None:
            self.works = sum(self.writes.values()) >= PATIENCE_SECONDS / 2
            await super().write(key, content, content_type)

    rig = build_rig(Recovering(Unavailable("down")))
    await rig.submit(build_operations(f"/text/{HUGE}"))
    await rig.work_off()
    [outcome] = rig.outcomes()
    assert isinstance(outcome.result, StoredResult)


async def test_the_patience_is_that_of_the_process_and_not_of_each_chunk() -> None:
    bucket = BrokenBucket(NoAccess("denied"))
    rig = build_rig(bucket)
    count = 2 * MOST_BYTES // HUGE
    await rig.submit(build_operations(*[f"/text/{HUGE}"] * count), chunk_operations=1)
    began_at = rig.clock.monotonic()
    await rig.work_off()
    assert set(rig.statuses().values()) == {503}
    assert rig.clock.monotonic() - began_at < 3 * PATIENCE_SECONDS


@pytest.mark.parametrize(("quiet_seconds", "status"), [(PATIENCE_SECONDS - 1, 503), (PATIENCE_SECONDS + 1, 200)])
async def test_the_patience_begins_again_when_nothing_has_failed_for_some_time(
    quiet_seconds: float, status: int
) -> None:
    bucket = BrokenBucket(Unavailable("down"))
    rig = build_rig(bucket)
    await rig.submit(build_operations(f"/text/{HUGE}", f"/text/{HUGE}"), chunk_operations=1)
    consumer = rig.consumer()
    await take_turn(consumer)
    assert rig.statuses() == {"id-0": 503}
    rig.clock.advance(quiet_seconds)
    bucket.works_after = sum(bucket.writes.values()) + 1

    await take_turn(consumer)

    assert rig.statuses() == {"id-0": 503, "id-1": status}


async def test_the_patience_ends_although_each_write_takes_longer_than_it() -> None:
    class Slow(BrokenBucket):
        async def write(self, key: str, content: bytes, content_type: str) -> None:
            await rig.clock.sleep(PATIENCE_SECONDS + 10)
            await super().write(key, content, content_type)

    bucket = Slow(Unavailable("down"))
    rig = build_rig(bucket)
    await rig.submit(build_operations(f"/text/{HUGE}"))
    await rig.work_off()
    assert rig.statuses() == {"id-0": 503}
    assert sum(bucket.writes.values()) == 2


async def test_nobody_waits_for_the_results_of_a_batch_that_is_over() -> None:
    class Cancelling(BrokenBucket):
        async def write(self, key: str, content: bytes, content_type: str) -> None:
            if not self.writes:
                await rig.parts.store.end_batch(BATCH_ID, Ending.CANCELLED, "", settle_by=NOW + 60)
            await super().write(key, content, content_type)

    bucket = Cancelling(NoAccess("denied"))
    rig = build_rig(bucket)
    await rig.submit(build_operations(f"/text/{HUGE}"))
    await rig.work_off()
    assert rig.statuses() == {"id-0": 503}
    assert sum(bucket.writes.values()) < PATIENCE_SECONDS / 2
