"""Encode a chunk record as bytes for the table, and decode it. Pure.

Outcomes are written as columns: all ids, all statuses, and so on. Results that have the same members are written as
columns, too. Similar values are then next to each other, which compresses a sixth better than one outcome after the
other. A column whose values are all the same is written as one value.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic_core import from_json, to_json

from penstock import zstd
from penstock.chunk import Operation
from penstock.documents.finite import pointer_to_not_finite
from penstock.documents.nesting import TOO_DEEP, is_too_deep
from penstock.errors import known_member
from penstock.outcome import ChunkRecord, EncodedResult, FollowUp, Outcome, OutcomeState, result_value

_COMPRESSION_LEVEL = 6  # the result is a tenth smaller than with level 3, and DynamoDB bills writes by the KB
_SAME = "same"
_LONG_BYTES = 4_096  # a longer result is written as it is: as a part of columns it would not compress much better


def encode_record(record: ChunkRecord) -> bytes:
    content = {
        "outcomes": len(record.outcomes),
        **_outcomes_to_columns(record.outcomes),
        "follow_ups": [
            [follow_up.id, follow_up.attempt, follow_up.indexes, follow_up.not_before]
            for follow_up in record.follow_ups
        ],
        "failed_operations": [
            [operation.index, operation.id, operation.method, operation.path, operation.body]
            for operation in record.failed_operations
        ],
        "deaths": 0,  # an earlier version cannot read a record without it
        "redelivered": record.redelivered,
    }
    results = [outcome.result for outcome in record.outcomes]
    if any(isinstance(result, EncodedResult) and len(result.content) > _LONG_BYTES for result in results):
        return _compress_pieces(_with_long_results(content, results))
    columns = _results_to_columns([result_value(result) for result in results])
    return zstd.compress(to_json({**content, **columns}), _COMPRESSION_LEVEL)


def decode_record(chunk_id: str, encoded: bytes) -> ChunkRecord:
    content: dict[str, Any] = from_json(zstd.decompress(encoded))
    return ChunkRecord(
        chunk_id=chunk_id,
        outcomes=_outcomes_from_columns(content, content["outcomes"]),
        follow_ups=tuple(
            FollowUp(follow_up_id, attempt, tuple(indexes), not_before)
            for follow_up_id, attempt, indexes, not_before in content["follow_ups"]
        ),
        failed_operations=tuple(Operation(*fields) for fields in content["failed_operations"]),
        redelivered=content.get("redelivered", 0),
    )


def parse_recordable(content: bytes) -> Any:
    """Parse JSON that can be stored in a record. Raises ValueError if it is invalid or cannot be stored.

    It can be nested too deeply, or contain a number that is too large for a float.
    """
    value = from_json(content, allow_inf_nan=False)
    if is_too_deep(value, content):
        raise ValueError(TOO_DEEP.removesuffix("."))
    if (place := pointer_to_not_finite(value, to_json(value))) is not None:
        where = f" at {place}" if place else ""
        raise ValueError(f"the number{where} is too large")
    return value


def _with_long_results(content: dict[str, Any], results: Sequence[Any]) -> Iterator[bytes]:
    """Yield the JSON of a record in pieces, so that it is never in memory as a whole."""
    yield to_json(content).removesuffix(b"}") + b',"result":['
    for position, result in enumerate(results):
        yield b"," if position else b""
        yield result.content if isinstance(result, EncodedResult) else to_json(result)
    yield b"]}"


def _compress_pieces(pieces: Iterator[bytes]) -> bytes:
    compressor = zstd.ZstdCompressor(_COMPRESSION_LEVEL)
    return b"".join([*map(compressor.compress, pieces), compressor.flush()])


def _outcomes_to_columns(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    indexes = [outcome.index for outcome in outcomes]
    is_run = indexes == list(range(indexes[0], indexes[0] + len(indexes))) if indexes else False
    has_own_ids = any(outcome.id != str(outcome.index) for outcome in outcomes)
    return {
        "index": indexes[0] if is_run else indexes,
        "id": [outcome.id for outcome in outcomes] if has_own_ids else None,
        "state": _to_column([str(outcome.state) for outcome in outcomes]),
        "status": _to_column([outcome.status for outcome in outcomes]),
        "error": _to_column([outcome.error for outcome in outcomes]),
        "rejected": _to_column([outcome.rejected for outcome in outcomes]),
    }


def _outcomes_from_columns(content: dict[str, Any], count: int) -> tuple[Outcome, ...]:
    first = content["index"]
    indexes = first if isinstance(first, list) else range(first, first + count)
    ids = content["id"] if content["id"] is not None else map(str, indexes)
    columns = [
        indexes,
        ids,
        (known_member(OutcomeState, "state", text) for text in _from_column(content["state"], count)),
        _from_column(content["status"], count),
        _results_from_columns(content, count),
        _from_column(content["error"], count),
        _from_column(content["rejected"], count),
    ]
    return tuple(Outcome(*fields) for fields in zip(*columns, strict=True))


def _results_to_columns(results: list[Any]) -> dict[str, Any]:
    members = list(results[0]) if results and isinstance(results[0], dict) else []
    if not members or not all(isinstance(result, dict) and list(result) == members for result in results):
        return {"result": _to_column(results)}
    return {"members": members, "result": [_to_column([result[name] for result in results]) for name in members]}


def _results_from_columns(content: dict[str, Any], count: int) -> Sequence[Any]:
    if "members" not in content:
        return _from_column(content["result"], count)
    members, columns = content["members"], [_from_column(column, count) for column in content["result"]]
    return [dict(zip(members, values, strict=True)) for values in zip(*columns, strict=True)]


def _to_column(values: list[Any]) -> Any:
    """Write one value for the whole column if all values are the same.

    This is limited to types whose equal values have the same JSON text: 1 equals True, and 0.0 equals -0.0.
    """
    first = values[0] if values else None
    if type(first) in {str, int, bool, type(None)} and all(type(v) is type(first) and v == first for v in values):
        return {_SAME: first}
    return values


def _from_column(column: Any, count: int) -> Sequence[Any]:
    return [column[_SAME]] * count if isinstance(column, dict) else column
