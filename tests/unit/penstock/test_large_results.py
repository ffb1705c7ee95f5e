from hashlib import sha256
from typing import Any

import pytest
from pydantic_core import to_json

from penstock.errors import Unavailable
from penstock.large_results import LARGE_BYTES, LargeResults, most_result_bytes
from penstock.outcome import ChunkRecord, EncodedResult, Outcome, OutcomeState, StoredResult
from penstock.record import decode_columns, decode_record, decode_without_results, encode_record
from penstock.testing import MemoryBucket

LONG = to_json("x" * LARGE_BYTES)
SHORT = to_json("x" * (LARGE_BYTES - 2))


def as_it_is(_number: int, content: bytes | None) -> bytes | None:
    return content


def record_of(*results: Any) -> ChunkRecord:
    outcomes = [Outcome(i, str(i), OutcomeState.SUCCEEDED, 200, result) for i, result in enumerate(results)]
    return ChunkRecord("0", tuple(outcomes))


def reference(content: bytes) -> StoredResult:
    return StoredResult(sha256(content).hexdigest(), len(content))


async def test_only_large_results_go_to_the_bucket() -> None:
    bucket = MemoryBucket()
    record = record_of({"a": 1}, EncodedResult(SHORT), EncodedResult(LONG))

    stored = await LargeResults(bucket).store("acme/one", "b1", record)

    assert [outcome.result for outcome in stored.outcomes] == [{"a": 1}, EncodedResult(SHORT), reference(LONG)]
    assert bucket.contents == {f"results/acme%2Fone/b1/{reference(LONG).name}": LONG}


async def test_a_record_without_large_results_is_left_alone() -> None:
    record = record_of({"a": 1}, EncodedResult(SHORT))
    assert await LargeResults(MemoryBucket()).store("acme", "b1", record) is record


async def test_without_a_bucket_all_results_stay_in_the_record() -> None:
    record = record_of(EncodedResult(LONG))
    assert await LargeResults(None).store("acme", "b1", record) is record


async def test_a_bucket_that_does_not_answer_is_told() -> None:
    class Down(MemoryBucket):
        async def write(self, key: str, content: bytes, content_type: str) -> None:
            raise Unavailable("down")

    with pytest.raises(Unavailable, match="down"):
        await LargeResults(Down()).store("acme", "b1", record_of(EncodedResult(LONG), EncodedResult(LONG + b" ")))


async def test_results_are_loaded_for_their_tenant_only() -> None:
    large = LargeResults(MemoryBucket())
    [outcome] = (await large.store("acme", "b1", record_of(EncodedResult(LONG)))).outcomes
    assert await large.load("acme", "b1", [outcome.result, reference(b"gone")], as_it_is) == [LONG, None]
    assert await large.load("other", "b1", [outcome.result], as_it_is) == [None]


def test_a_result_that_is_missing_is_explained() -> None:
    assert "262,146 bytes was deleted" in LargeResults(MemoryBucket()).why_missing(reference(LONG))
    assert "Set PENSTOCK_BUCKET" in LargeResults(None).why_missing(reference(LONG))


@pytest.mark.parametrize(
    "others",
    [
        [{"a": 1}, {"a": 2}],  # written as columns of members
        [EncodedResult(to_json("y" * 10_000))],  # written in pieces
        [],
    ],
)
def test_a_record_keeps_references(others: list[Any]) -> None:
    stored = reference(LONG)
    encoded = encode_record(record_of(*others, stored))

    last = decode_record("0", encoded).outcomes[-1]
    columns = decode_columns(encoded)
    assert last.result == stored
    assert columns.stored == {len(others): stored}
    assert [bytes(value) for column in columns.results for value in column][-1] == b"null"
    assert decode_without_results("0", encoded).outcomes[0].index == 0


def test_the_limit_is_higher_with_a_bucket() -> None:
    assert most_result_bytes(has_bucket=True) == 5 * 1024 * 1024
    assert most_result_bytes(has_bucket=False) == 1024 * 1024
