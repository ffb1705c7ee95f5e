"""A chunk record as bytes in the table and back. Pure."""

from typing import Any

from backports import zstd
from pydantic_core import from_json, to_json

from penstock.chunk import Operation
from penstock.outcome import ChunkRecord, FollowUp, Outcome, OutcomeState

_COMPRESSION_LEVEL = 3


def encode_record(record: ChunkRecord) -> bytes:
    content = {
        "outcomes": [_outcome_to_list(outcome) for outcome in record.outcomes],
        "follow_ups": [
            [follow_up.id, follow_up.attempt, follow_up.indexes, follow_up.not_before]
            for follow_up in record.follow_ups
        ],
        "failed_operations": [
            [operation.index, operation.id, operation.method, operation.path, operation.body]
            for operation in record.failed_operations
        ],
        "deaths": record.deaths,
    }
    return zstd.compress(to_json(content), _COMPRESSION_LEVEL)


def decode_record(chunk_id: str, encoded: bytes) -> ChunkRecord:
    content: dict[str, Any] = from_json(zstd.decompress(encoded))
    return ChunkRecord(
        chunk_id=chunk_id,
        outcomes=tuple(_outcome_from_list(fields) for fields in content["outcomes"]),
        follow_ups=tuple(
            FollowUp(follow_up_id, attempt, tuple(indexes), not_before)
            for follow_up_id, attempt, indexes, not_before in content["follow_ups"]
        ),
        failed_operations=tuple(Operation(*fields) for fields in content["failed_operations"]),
        deaths=content["deaths"],
    )


def _outcome_to_list(outcome: Outcome) -> list[Any]:
    return [
        outcome.index,
        outcome.id,
        outcome.state,
        outcome.status,
        outcome.result,
        outcome.error,
        outcome.rejected,
    ]


def _outcome_from_list(fields: list[Any]) -> Outcome:
    index, operation_id, state, status, result, error, rejected = fields
    return Outcome(index, operation_id, OutcomeState(state), status, result, error, rejected)
