"""Encode a chunk record as bytes for the table, and decode it. Pure.

Outcomes are written as columns: all ids, all statuses, and so on. Results that have the same members are written as
columns, too. Similar values are then next to each other, which compresses a sixth better than one outcome after the
other. A column whose values are all the same is written as one value.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace as with_changes
from pydantic_core import from_json, to_json

from penstock import zstd
from penstock.chunk import Links, Operation, Reference, fields_of, operation_from
from penstock.documents.finite import pointer_to_not_finite
from penstock.documents.nesting import TOO_DEEP, is_too_deep
from penstock.errors import known_member
from penstock.outcome import ChunkRecord, EncodedResult, FollowUp, Outcome, OutcomeState, StoredResult, result_value

_COMPRESSION_LEVEL = 3  # level 6 takes three times as long, and makes the result smaller by 2 % at best
_SAME = "same"
_LONG_BYTES = 4_096  # a longer result is written as it is: as a part of columns it would not compress much better
_OPERATION_BYTES = 400  # what a failed operation takes in memory beyond its path, its body and its error
_VALUE_BYTES = 64  # what a value of a column takes in memory beyond its JSON


@dataclass(frozen=True, slots=True)
class EncodedRecord:
    """A chunk record as it is in the table."""

    chunk_id: str
    content: bytes


@dataclass(frozen=True, slots=True)
class OutcomeColumns:
    """The outcomes of a record as columns. `Raw` values are JSON that was not parsed, as it is in the record.

    `results` is one column, or one for each of the `members` that all results have. `stored` has the results that are
    in the bucket, by their positions. `value_bytes` is about how long the values are together, as JSON, and
    `memory_bytes` about how much memory the columns take.
    """

    indexes: Sequence[int]
    ids: Sequence[Raw] | None  # None if the ids are the indexes
    states: Sequence[str]
    statuses: Sequence[Raw]
    errors: Sequence[Raw]
    members: Sequence[Raw] | None
    results: Sequence[Sequence[Raw]]
    stored: Mapping[int, StoredResult]
    recorded_at: float | None
    value_bytes: int
    memory_bytes: int

    def result_at(self, position: int) -> bytes | None:
        """Return a result as JSON, or None if it is in the bucket."""
        if position in self.stored:
            return None
        if self.members is None:
            return bytes(self.results[0][position])
        pairs = zip(self.members, self.results, strict=True)
        return b"{%b}" % b",".join(b"%b:%b" % (name, column[position]) for name, column in pairs)


@dataclass(frozen=True, slots=True)
class FailedOperation:
    """An operation that failed. `body` and `error` are JSON that was not parsed.

    `after` are the indexes of the operations that it depends on. `references` is what its path refers to.

    `group` is the id of the first operation of its atomic group. `failed_needs` has the ids of those in `after` that
    have failed, too, by their indexes. `sources` has the ids of those that its path refers to. A record does not know
    them all.
    """

    index: int
    id: str
    method: str
    path: str
    body: bytes
    key: str | None
    status: int
    error: bytes
    after: Sequence[int] = ()
    references: Sequence[Reference] = ()
    group: str | None = None
    failed_needs: Mapping[int, str] = field(default_factory=dict)
    sources: Mapping[int, str] = field(default_factory=dict)

    @property
    def memory_bytes(self) -> int:
        return len(self.body) + len(self.error) + len(self.path) + _OPERATION_BYTES


class _Content(msgspec.Struct):
    """What `OutcomeColumns` need of a record. A column is a list, or `{"same": value}` if all values are the same."""

    outcomes: int
    index: int | list[int]
    id: list[Raw] | None
    state: list[str] | dict[str, str | None]
    status: list[Raw] | dict[str, Raw]
    error: list[Raw] | dict[str, Raw]
    result: Raw
    members: list[Raw] | None = None
    stored: list[tuple[int, str, int]] = []
    recorded_at: float | None = None


class _Operation(msgspec.Struct, array_like=True):
    index: int
    id: str
    method: str
    path: str
    body: Raw
    key: str | None = None
    links: Links | None = None


class _Failures(msgspec.Struct):
    """What `FailedOperation` needs of a record."""

    outcomes: int
    index: int | list[int]
    id: list[str] | None
    state: list[str] | dict[str, str | None]
    status: list[Raw] | dict[str, Raw]
    error: list[Raw] | dict[str, Raw]
    failed_operations: list[_Operation]


# It is used again, because its working memory is several megabytes, and getting that takes as long as compressing.
_compressor = zstd.ZstdCompressor(_COMPRESSION_LEVEL)
_content_decoder = msgspec.json.Decoder(_Content)
_failures_decoder = msgspec.json.Decoder(_Failures)
_column_decoder = msgspec.json.Decoder(list[Raw] | dict[str, Raw])
_columns_decoder = msgspec.json.Decoder(list[list[Raw] | dict[str, Raw]])
_fields_decoder = msgspec.json.Decoder(dict[str, Raw])


def encode_record(record: ChunkRecord) -> bytes:
    content = {
        "outcomes": len(record.outcomes),
        **_outcomes_to_columns(record.outcomes),
        "follow_ups": [
            [follow_up.id, follow_up.attempt, follow_up.indexes, follow_up.not_before, *_more_of(follow_up)]
            for follow_up in record.follow_ups
        ],
        "failed_operations": [_fields_of(operation) for operation in record.failed_operations],
        "deaths": 0,  # an earlier version cannot read a record without it
        "redelivered": record.redelivered,
        **({} if record.recorded_at is None else {"recorded_at": round(record.recorded_at, 3)}),
    }
    results = [outcome.result for outcome in record.outcomes]
    kinds = set(map(type, results))
    if StoredResult in kinds:
        content["stored"] = _stored_results(results)
        results = [None if isinstance(result, StoredResult) else result for result in results]
    if EncodedResult in kinds and any(
        isinstance(result, EncodedResult) and len(result.content) > _LONG_BYTES for result in results
    ):
        return _compress_pieces(_with_long_results(content, results))
    if EncodedResult in kinds:
        results = list(map(result_value, results))
    columns = _results_to_columns([outcome.error for outcome in record.outcomes], results)
    return _compressor.compress(to_json({**content, **columns}), zstd.ZstdCompressor.FLUSH_FRAME)


def _stored_results(results: Sequence[Any]) -> list[tuple[int, str, int]]:
    """Return what the record has of the results that are in the bucket: their positions, names and sizes."""
    return [
        (position, result.name, result.size)
        for position, result in enumerate(results)
        if isinstance(result, StoredResult)
    ]


def _fields_of(operation: Operation) -> list[Any]:
    """Return the fields of an operation. An earlier version can read it only if it has no key and no links.

    A version that knows links ignores references: it shows the path with its placeholders.
    """
    fields = [operation.index, operation.id, operation.method, operation.path, operation.body]
    if operation.links is not None:
        return [*fields, operation.key, msgspec.to_builtins(fields_of(operation.links))]
    return fields if operation.key is None else [*fields, operation.key]


def _more_of(follow_up: FollowUp) -> list[Any]:
    """Return what only the follow-ups of chunks with links have. An earlier version cannot read it."""
    more = [follow_up.behind, follow_up.one_at_a_time]
    if follow_up.paths:
        return [*more, follow_up.paths]
    return more if follow_up.behind or follow_up.one_at_a_time else []


def decode_record(chunk_id: str, encoded: bytes) -> ChunkRecord:
    return _to_record(chunk_id, from_json(zstd.decompress(encoded)))


def decode_without_results(chunk_id: str, encoded: bytes) -> ChunkRecord:
    """Decode a record, but do not parse the results of its operations. They may take much memory."""
    try:
        fields = _fields_decoder.decode(zstd.decompress(encoded))
    except msgspec.DecodeError:  # for the reason that decode_columns has
        return decode_record(chunk_id, encoded).without_results()
    content = {name: from_json(bytes(value)) for name, value in fields.items() if name not in {"result", "members"}}
    return _to_record(chunk_id, {**content, "result": {_SAME: None}})


def decode_columns(encoded: bytes, *, with_results: bool = True) -> OutcomeColumns:
    """Decode the outcomes of a record, but do not parse their results, or leave their results out."""
    content = zstd.decompress(encoded)
    try:
        return _to_columns(content, with_results)
    except msgspec.DecodeError:
        # An earlier version wrote infinity and NaN, which JSON does not have. For clients they are null.
        return _to_columns(to_json(from_json(content), inf_nan_mode="null"), with_results)


def decode_failures(encoded: bytes) -> tuple[Mapping[int, str], list[FailedOperation]]:
    """Return the ids of all operations with an outcome in a record, by index, and its failed operations."""
    content = zstd.decompress(encoded)
    try:
        failures = _failures_decoder.decode(content)
    except msgspec.DecodeError:  # for the reason that decode_columns has
        failures = _failures_decoder.decode(to_json(from_json(content), inf_nan_mode="null"))
    count = failures.outcomes
    indexes = _to_indexes(failures.index, count)
    outcomes = zip(
        _whole(failures.state, count), _whole(failures.status, count), _whole(failures.error, count), strict=True
    )
    failed = {
        index: (int(bytes(status)), bytes(error))
        for index, (state, status, error) in zip(indexes, outcomes, strict=True)
        if state == OutcomeState.FAILED
    }
    ids = dict(zip(indexes, map(str, indexes) if failures.id is None else failures.id, strict=True))
    return ids, [
        FailedOperation(
            one.index,
            one.id,
            one.method,
            one.path,
            bytes(one.body),
            one.key,
            *failed[one.index],
            one.links.after if one.links else (),
            one.links.references if one.links else (),
            ids.get(one.links.atomic_group) if one.links and one.links.atomic_group is not None else None,
        )
        for one in failures.failed_operations
        if one.index in failed
    ]


def _to_record(chunk_id: str, content: dict[str, Any]) -> ChunkRecord:
    return ChunkRecord(
        chunk_id=chunk_id,
        outcomes=_outcomes_from_columns(content, content["outcomes"]),
        follow_ups=tuple(map(_to_follow_up, content["follow_ups"])),
        failed_operations=tuple(map(operation_from, content["failed_operations"])),
        redelivered=content.get("redelivered", 0),
        recorded_at=content.get("recorded_at"),
    )


def _to_follow_up(fields: list[Any]) -> FollowUp:
    follow_up_id, attempt, indexes, not_before, *more = fields
    follow_up = FollowUp(follow_up_id, attempt, tuple(indexes), not_before)
    if not more:
        return follow_up
    behind, one_at_a_time, *paths = more
    return replace(
        follow_up,
        behind=tuple(map(tuple, behind)),
        one_at_a_time=one_at_a_time,
        paths=tuple(map(tuple, *paths)) if paths else (),
    )


def _to_columns(encoded: bytes, with_results: bool) -> OutcomeColumns:
    content = _content_decoder.decode(encoded)
    count = content.outcomes
    results = _raw_results(content) if with_results else []
    states = _whole(content.state, count)
    _to_states(states)  # raises NewerVersion
    repeated = sum(
        len(column[_SAME]) for column in (content.status, content.error, *results) if isinstance(column, dict)
    )
    return OutcomeColumns(
        indexes=_to_indexes(content.index, count),
        ids=content.id,
        states=states,
        statuses=_whole(content.status, count),
        errors=_whole(content.error, count),
        members=content.members,
        results=[_whole(column, count) for column in results],
        stored={position: StoredResult(name, size) for position, name, size in content.stored},
        recorded_at=content.recorded_at,
        value_bytes=len(encoded) + count * repeated,
        memory_bytes=len(encoded) + _VALUE_BYTES * count * (len(results) + 3),
    )


def _raw_results(content: _Content) -> list[list[Raw] | dict[str, Raw]]:
    if content.members is None:
        return [_column_decoder.decode(content.result)]
    return _columns_decoder.decode(content.result)


def _whole(column: Any, count: int) -> Sequence[Any]:
    """Return all values of a column, whether it is a list or one value for all outcomes."""
    return [column[_SAME]] * count if isinstance(column, dict) else column


def _to_indexes(first: int | list[int], count: int) -> Sequence[int]:
    return first if isinstance(first, list) else range(first, first + count)


def _to_states(texts: Sequence[str]) -> dict[str, OutcomeState]:
    """Return the states by their text. Raise NewerVersion for one that this version does not know."""
    return {text: known_member(OutcomeState, "state", text) for text in set(texts)}


def parse_recordable(content: bytes) -> tuple[Any, bytes]:
    """Parse JSON that can be stored in a record. Return the value, and the same as JSON without superfluous spaces.

    Raises ValueError if the JSON is invalid, nested too deeply, or has a number that is too large for a float.
    """
    value = from_json(content, allow_inf_nan=False)
    if is_too_deep(value, content):
        raise ValueError(TOO_DEEP.removesuffix("."))
    encoded = to_json(value)
    if (place := pointer_to_not_finite(value, encoded)) is not None:
        where = f" at {place}" if place else ""
        raise ValueError(f"the number{where} is too large")
    return value, encoded


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
    ids = [outcome.id for outcome in outcomes]
    are_indexes = ids[:1] == list(map(str, indexes[:1])) and ids == list(map(str, indexes))
    return {
        "index": indexes[0] if is_run else indexes,
        "id": None if are_indexes else ids,
        "state": _to_column([str(outcome.state) for outcome in outcomes]),
        "status": _to_column([outcome.status for outcome in outcomes]),
        "error": _to_column([outcome.error for outcome in outcomes]),
        "rejected": _to_column([outcome.rejected for outcome in outcomes]),
    }


def _outcomes_from_columns(content: dict[str, Any], count: int) -> tuple[Outcome, ...]:
    indexes, states = _to_indexes(content["index"], count), _whole(content["state"], count)
    columns = [
        indexes,
        map(str, indexes) if content["id"] is None else content["id"],
        map(_to_states(states).__getitem__, states),
        _whole(content["status"], count),
        _results_from_columns(content, count),
        _whole(content["error"], count),
        _whole(content["rejected"], count),
    ]
    outcomes = [Outcome(*fields) for fields in zip(*columns, strict=True)]
    for position, name, size in content.get("stored", ()):
        outcomes[position] = with_changes(outcomes[position], result=StoredResult(name, size))
    return tuple(outcomes)


def _results_to_columns(errors: Sequence[Any], results: list[Any]) -> dict[str, Any]:
    given = [result for error, result in zip(errors, results, strict=True) if error is None or result is not None]
    members = _common_members(given)
    if not members or len(given) > errors.count(None):  # some have both an error and a result
        return {"result": _to_column(results)}
    empty = dict.fromkeys(members)  # for an outcome with an error: nobody reads its result
    rows = [empty if result is None else result for result in results]
    return {"members": members, "result": [_to_column(list(map(itemgetter(name), rows))) for name in members]}


def _common_members(results: Sequence[Any]) -> list[str]:
    """Return the names of the members if all results are objects with the same ones. Otherwise return an empty list."""
    if set(map(type, results)) != {dict}:
        return []
    members = list(map(tuple, results))
    return list(members[0]) if members.count(members[0]) == len(members) else []


def _results_from_columns(content: dict[str, Any], count: int) -> Sequence[Any]:
    if "members" not in content:
        return _whole(content["result"], count)
    members, columns = content["members"], [_whole(column, count) for column in content["result"]]
    errors = _whole(content["error"], count)
    rows = zip(errors, zip(*columns, strict=True), strict=True)
    return [dict(zip(members, values, strict=True)) if error is None else None for error, values in rows]


def _to_column(values: list[Any]) -> Any:
    """Write one value for the whole column if all values are the same.

    This is limited to types whose equal values have the same JSON text: 1 equals True, and 0.0 equals -0.0.
    """
    first = values[0] if values else None
    kind = type(first)
    if kind in {str, int, bool, type(None)} and values.count(first) == len(values) and set(map(type, values)) == {kind}:
        return {_SAME: first}
    return values
