"""A chunk record as bytes and back: nothing in it changes."""

import base64
import random
from dataclasses import replace
from typing import Any

import pytest
from msgspec.structs import replace as with_changes
from pydantic_core import from_json, to_json

from penstock import zstd
from penstock.chunk import Links, Operation, Reference, UrlRule
from penstock.errors import NewerVersion
from penstock.outcome import ChunkRecord, EncodedResult, FollowUp, Outcome, OutcomeState, result_value
from penstock.record import decode_columns, decode_record, decode_without_results, encode_record

OPERATION = Operation(3, "op-3", "POST", "/users", {"name": "Zoë \uffff\x00", "n": [1.5, 10**300]})
FULL = ChunkRecord(
    "17.1",
    outcomes=(
        Outcome(1, "op-1", OutcomeState.SUCCEEDED, 201, result={"id": 1}),
        Outcome(2, "op-2", OutcomeState.SUCCEEDED, 200, result=None),
        Outcome(3, "op-3", OutcomeState.FAILED, 409, error={"title": "Rejected", "detail": "Taken."}, rejected=True),
        Outcome(4, "op-4", OutcomeState.CANCELLED, 499, error={"title": "Cancelled"}),
        Outcome(5, "op-5", OutcomeState.EXPIRED, 504, error={"title": "Expired"}),
    ),
    follow_ups=(FollowUp("17.1.1", 2, (6, 7), 1_700_000_000.25), FollowUp("17.1.2", 1, (8,))),
    failed_operations=(OPERATION,),
    redelivered=3,
)


LONG = {"text": "é" * 5_000, "list": [{"a": 1}] * 10}


def encoded(result: Any) -> EncodedResult:
    return EncodedResult(to_json(result))


def there_and_back(record: ChunkRecord) -> ChunkRecord:
    return decode_record(record.chunk_id, encode_record(record))


def test_record_comes_back_as_it_was() -> None:
    assert there_and_back(FULL) == FULL
    assert there_and_back(ChunkRecord("0")) == ChunkRecord("0")


@pytest.mark.parametrize("result", [{"id": 1}, "r" * 5_000, [float("nan")]], ids=["members", "long", "not finite"])
def test_record_is_decoded_without_results(result: Any) -> None:
    outcomes = tuple(with_changes(outcome, result=result) for outcome in FULL.outcomes)
    for record in (FULL, replace(FULL, outcomes=outcomes)):
        assert decode_without_results("17.1", encode_record(record)) == record.without_results()


def test_operation_with_a_key_keeps_it_and_others_are_written_as_before() -> None:
    with_key = with_changes(OPERATION, key="order 17")
    record = replace(FULL, failed_operations=(OPERATION, with_key))
    assert there_and_back(record) == record
    content = from_json(zstd.decompress(encode_record(record)))
    assert [len(fields) for fields in content["failed_operations"]] == [5, 6]


@pytest.mark.parametrize("behind", [(), ((3, 1),)])
def test_paths_of_follow_ups_and_references_of_failures_come_back(behind: tuple[tuple[int, int], ...]) -> None:
    links = Links((0,), None, (Reference(0, "a", ("id",), UrlRule(("@id",), ("h",))),))
    record = ChunkRecord(
        "17",
        follow_ups=(FollowUp("17.0.1.3", 2, (3, 4), None, behind, paths=((3, "/a/7"), (4, "/a/8"))),),
        failed_operations=(Operation(5, "f", "GET", "/a/{a}", None, None, links),),
    )
    assert there_and_back(record) == record


def test_record_of_an_earlier_version_has_no_repeats() -> None:
    content = from_json(zstd.decompress(encode_record(FULL)))
    del content["redelivered"]
    earlier = zstd.compress(to_json(content))
    assert decode_record(FULL.chunk_id, earlier) == replace(FULL, redelivered=0)


def test_record_with_a_state_of_a_newer_version_is_told() -> None:
    content = from_json(zstd.decompress(encode_record(FULL)))
    content["state"] = ["paused"] * 5
    with pytest.raises(NewerVersion, match="'paused'"):
        decode_record(FULL.chunk_id, zstd.compress(to_json(content)))


def test_members_come_back_with_their_types() -> None:
    record = there_and_back(FULL)
    assert isinstance(record.outcomes[0].state, OutcomeState)
    assert isinstance(record.follow_ups[0].indexes, tuple)
    assert record.counts == FULL.counts


@pytest.mark.parametrize(
    "result",
    [
        0,
        False,
        "",
        "\ufffe\uffff\x00\u2028🛠",
        float("inf"),
        -0.1,
        10**4_000,
        {"": {"a": [None]}},
        from_json(b"[" * 190 + b"]" * 190),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_any_json_comes_back_as_a_result(result: Any) -> None:
    record = replace(FULL, outcomes=(with_changes(FULL.outcomes[0], result=result),))
    assert there_and_back(record) == record


@pytest.mark.parametrize(
    "results",
    [
        [encoded(LONG)],
        [encoded(LONG), None, encoded({"a": 1}), "x", encoded(LONG)],
        [encoded({"a": 1}), encoded({"a": 2}), {"a": 3}],
    ],
    ids=["one that is long", "long ones among others", "short ones"],
)
def test_encoded_results_come_back_as_their_values(results: list[Any]) -> None:
    outcomes = [Outcome(n, f"op-{n}", OutcomeState.SUCCEEDED, 200, result=result) for n, result in enumerate(results)]
    record = replace(FULL, outcomes=(*outcomes, with_changes(FULL.outcomes[2], index=len(results))))
    values = [with_changes(outcome, result=result_value(outcome.result)) for outcome in record.outcomes]
    assert there_and_back(record) == replace(record, outcomes=tuple(values))


def test_encoded_results_with_the_same_members_are_written_as_columns() -> None:
    results = [{"number": number, "name": f"customer {number}"} for number in range(1_000)]
    outcomes = [Outcome(n, str(n), OutcomeState.SUCCEEDED, 200, result=result) for n, result in enumerate(results)]
    compact = [with_changes(outcome, result=encoded(outcome.result)) for outcome in outcomes]
    assert encode_record(ChunkRecord("17", tuple(compact))) == encode_record(ChunkRecord("17", tuple(outcomes)))


def test_results_are_written_as_columns_although_some_operations_have_failed() -> None:
    succeeded = [Outcome(n, str(n), OutcomeState.SUCCEEDED, 200, result={"id": n, "ok": True}) for n in range(10)]
    failures = [with_changes(failure, index=n) for n, failure in enumerate(FULL.outcomes[2:], 10)]
    record = ChunkRecord("17", (failures[0], *succeeded, *failures[1:]))
    content = from_json(zstd.decompress(encode_record(record)))
    assert (content["members"], content["result"][0]) == (["id", "ok"], [None, *range(10), None, None])
    assert there_and_back(record) == record


RESULTS: list[list[Any]] = [
    [1, True],
    [True, True],
    [0.0, -0.0],
    [None, None],
    [{}, {}],
    [{"same": 1}, {"same": 1}],
    [{"a": 1, "b": "x"}, {"a": True, "b": "x"}],
    [{"a": 1, "b": 2}, {"b": 1, "a": 2}],
    [{"a": 1}, {"a": 1, "b": 2}],
    [{"a": {"same": 1}}, {"a": {"same": 1}}],
    [{"a": 1}, None],
    [None, {"a": 1}],
    [[1], [1]],
    [{"members": ["a"]}, {"members": ["a"]}],
]


@pytest.mark.parametrize("results", RESULTS, ids=str)
@pytest.mark.parametrize(("first", "step"), [(0, 1), (500, 1), (3, 2)])
@pytest.mark.parametrize("name", ["{}", "op-{}"])
def test_fields_come_back_to_their_outcomes(results: list[Any], first: int, step: int, name: str) -> None:
    indexes = [first + step * place for place in range(len(results))]
    outcomes = tuple(
        Outcome(index, name.format(index), OutcomeState.SUCCEEDED, 200, result=result)
        for index, result in zip(indexes, results, strict=True)
    )
    back = there_and_back(ChunkRecord("17", outcomes)).outcomes
    assert repr(back) == repr(outcomes)  # 1 equals True, and 0.0 equals -0.0


def test_results_larger_than_an_item_come_back() -> None:
    noise = base64.b64encode(random.Random(1).randbytes(900_000)).decode()
    record = replace(FULL, outcomes=(with_changes(FULL.outcomes[0], result=noise),))
    assert len(encode_record(record)) > 400_000
    assert there_and_back(record) == record


def test_like_results_take_little_room() -> None:
    one = FULL.outcomes[0]
    alike = tuple(with_changes(one, index=n, id=str(n), result={"id": n, "status": "ok"}) for n in range(1_000))
    assert len(encode_record(ChunkRecord("17", alike))) < 3_000


def test_record_has_its_time_to_the_millisecond_unless_an_earlier_version_wrote_it() -> None:
    for at, read in ((None, None), (1_700_000_000.123_456, 1_700_000_000.123)):
        encoded = encode_record(replace(FULL, recorded_at=at))
        assert decode_record("17", encoded).recorded_at == read
        assert decode_columns(encoded).recorded_at == read
    assert "recorded_at" not in from_json(zstd.decompress(encode_record(FULL)))


def test_columns_without_results_have_the_same_outcomes() -> None:
    whole, part = decode_columns(encode_record(FULL)), decode_columns(encode_record(FULL), with_results=False)
    assert (part.indexes, part.states, part.results) == (whole.indexes, whole.states, [])
    assert [list(map(bytes, one.errors)) for one in (whole, part)] == [list(map(bytes, whole.errors))] * 2
