"""A line of a result is the same as the outcome that is encoded again."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json, to_json

from penstock import zstd
from penstock.errors import NewerVersion
from penstock.outcome import ChunkRecord, Outcome, OutcomeState, compact
from penstock.record import decode_columns, decode_record, encode_record
from penstock.service.batches.lines import outcome_lines
from penstock.service.json_answer import encode
from penstock.service.schemas import outcome_body

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(["%", "%b", "same", '"', "\n"])
FLOATS = st.floats() | st.sampled_from([1e16, -0.0, 1e-7, 5e-324])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | TEXTS,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(TEXTS, values, max_size=3),
    max_leaves=6,
)
ERRORS = st.none() | st.builds(lambda title, detail: {"title": title, "detail": detail}, TEXTS, TEXTS)


@st.composite
def records(draw: st.DrawFn) -> ChunkRecord:
    members = draw(st.lists(TEXTS, unique=True, max_size=3))
    same_members = st.fixed_dictionaries(dict.fromkeys(members, VALUES))
    results = draw(st.sampled_from([VALUES, same_members, st.just("r" * 5_000)]))
    indexes = draw(st.lists(st.integers(0, 10_000_000), unique=True, max_size=6) | st.just(list(range(7, 12))))
    ids = draw(st.sampled_from([TEXTS, None]))
    states = draw(st.sampled_from([st.just(OutcomeState.SUCCEEDED), st.sampled_from(OutcomeState)]))
    outcomes = []
    for index in indexes:
        id_ = str(index) if ids is None else draw(ids)
        state, status = draw(states), draw(st.integers(100, 599))
        error = draw(ERRORS) if state is not OutcomeState.SUCCEEDED else None
        result = draw(results if error is None else st.one_of(st.none(), results))
        outcomes.append(Outcome(index, id_, state, status, compact(result, to_json(result)), error))
    return ChunkRecord("17", tuple(outcomes))


def lines(encoded: bytes, positions: Sequence[int]) -> list[bytes]:
    columns = decode_columns(encoded)
    return b"\n".join(outcome_lines(columns, positions)).split(b"\n") if positions else []


@given(records(), st.data())
def test_line_is_the_encoded_outcome(record: ChunkRecord, data: st.DataObject) -> None:
    encoded = encode_record(record)
    expected = [encode(outcome_body(outcome)) for outcome in record.outcomes]
    assert [encode(outcome_body(outcome)) for outcome in decode_record("17", encoded).outcomes] == expected
    assert lines(encoded, list(range(len(expected)))) == expected
    some = data.draw(st.permutations(range(len(expected))))[: data.draw(st.integers(0, 6))]
    with patch("penstock.service.batches.lines._PIECES", data.draw(st.integers(1, 100))):
        assert lines(encoded, some) == [expected[position] for position in some]


def test_record_of_an_earlier_version_may_have_numbers_that_json_does_not_have() -> None:
    outcome = Outcome(0, "0", OutcomeState.SUCCEEDED, 200, {"a": float("nan"), "b": [float("-inf")]})
    assert lines(encode_record(ChunkRecord("17", (outcome,))), [0]) == [
        b'{"id":"0","status":200,"result":{"a":null,"b":[null]}}'
    ]


def test_state_of_a_newer_version_is_told() -> None:
    record = ChunkRecord("17", (Outcome(0, "0", OutcomeState.SUCCEEDED, 200),))
    for state in ("paused", ["paused"]):
        content = from_json(zstd.decompress(encode_record(replace(record))))
        content["state"] = {"same": state} if isinstance(state, str) else state
        with pytest.raises(NewerVersion, match="'paused'"):
            decode_columns(zstd.compress(to_json(content)))
