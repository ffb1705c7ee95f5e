"""What is accepted can be read again on every later way: in messages, dead letters, chunk records and pages."""

from typing import Any

import pytest
from pydantic_core import from_json, to_json

from penstock import Operations
from penstock.chunk import Chunk, Operation
from penstock.documents.nesting import MOST_LEVELS, is_too_deep
from penstock.message import decode_chunk, decode_dead_letter, encode_chunk, encode_dead_letter
from penstock.outcome import ChunkRecord, Outcome, OutcomeState
from penstock.record import decode_record, encode_record, parse_recordable
from penstock.route import InvalidOperation


def lists(levels: int) -> Any:
    return from_json(b"[" * levels + b"]" * levels)


def objects(levels: int) -> Any:
    return from_json(b'{"a":' * levels + b"1" + b"}" * levels)


SHAPES = pytest.mark.parametrize("nested", [lists, objects])


@pytest.mark.parametrize(
    "value",
    [
        None,
        "[" * 1_000,
        [[]] * 1_000,
        [[1.5, 2], {"[": []}] * 1_000,
        {"a" * 10: [{"{[": 1}] * 500},
        lists(MOST_LEVELS),
        objects(MOST_LEVELS),
        [lists(MOST_LEVELS - 1), {"a": objects(MOST_LEVELS - 2)}],
    ],
)
def test_value_with_few_levels_is_accepted_however_long_it_is(value: Any) -> None:
    assert not is_too_deep(value, to_json(value))


@pytest.mark.parametrize(
    "value",
    [
        lists(MOST_LEVELS + 1),
        objects(MOST_LEVELS + 1),
        [1, {"a": lists(MOST_LEVELS - 1)}],
        [{"a": objects(196)}],
        [[]] * 1_000 + [lists(MOST_LEVELS)],
    ],
)
def test_value_with_too_many_levels_is_found_wherever_they_are(value: Any) -> None:
    assert is_too_deep(value, to_json(value))


@SHAPES
def test_deepest_body_can_be_read_from_a_message_a_dead_letter_and_a_record(nested: Any) -> None:
    operation = Operation(0, "a", "POST", "/x", nested(MOST_LEVELS))
    chunk = Chunk("01J", "17", 1, (operation,))
    record = ChunkRecord("17", failed_operations=(operation,))
    error = {"title": "Broke", "body": nested(MOST_LEVELS - 1)}
    failure = Outcome(0, "a", OutcomeState.FAILED, 500, error=error)
    assert decode_chunk(encode_chunk(chunk)) == chunk
    assert decode_dead_letter(encode_dead_letter(chunk, [failure], message_bytes=1_000_000))[0] == chunk
    assert decode_record("17", encode_record(record)) == record


@SHAPES
def test_deepest_result_can_be_read_from_a_record(nested: Any) -> None:
    outcomes = tuple(Outcome(n, str(n), OutcomeState.SUCCEEDED, 200, nested(MOST_LEVELS)) for n in range(2))
    error = {"title": "Broke", "body": nested(MOST_LEVELS - 1)}
    failed = Outcome(2, "2", OutcomeState.FAILED, 500, error=error)
    for record in (ChunkRecord("17", outcomes), ChunkRecord("17", (*outcomes, failed))):
        assert decode_record("17", encode_record(record)) == record


@SHAPES
def test_answer_of_an_upstream_is_accepted_up_to_the_limit(nested: Any) -> None:
    assert parse_recordable(to_json(nested(MOST_LEVELS)))[0] == nested(MOST_LEVELS)
    with pytest.raises(ValueError, match="at most 190 levels"):
        parse_recordable(to_json(nested(MOST_LEVELS + 1)))


@SHAPES
@pytest.mark.parametrize("path", ["/handled", "/forwarded/x"])
def test_body_of_an_operation_is_accepted_up_to_the_limit(nested: Any, path: str) -> None:
    operations = Operations()
    operations.forward("/forwarded/{path}", to="http://localhost:9")

    @operations.post("/handled")
    async def handled(body: Any) -> None: ...

    route = operations.match("POST", path)
    route.arguments(path, nested(MOST_LEVELS))
    with pytest.raises(InvalidOperation) as invalid:
        route.arguments(path, nested(MOST_LEVELS + 1))
    [flaw] = invalid.value.flaws
    assert (flaw.pointer, flaw.detail) == ("/body", "Use at most 190 levels of arrays and objects.")
