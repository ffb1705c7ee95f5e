"""Encode a chunk as the text of a queue message, with a format version, and decode it. Pure.

The text is a JSON object: `{"v": 1, "batch": "...", "chunk": "17", "attempt": 1, "operations": [...]}`. An operation is
`[index, id, method, path, body]`. If this saves billing units, the text is compressed: `zstd:` and base64.

An operation with a key of its client is `[index, id, method, path, body, key]`. Then the message has the version 2. An
earlier version cannot read it, and moves it to the dead letter queue: it would run the operation with another key.

An operation with links is `[index, id, method, path, body, key or null, [after, atomic_group]]`. Then the message has
the version 3: an earlier version would run the operations in any order. It may also have `"behind": [[index, count]]`
and `"one_at_a_time": true`, as a `Chunk` has.

If a path refers to the result of another operation, its links have a third field: `[after, atomic_group, references]`.
Then the message has the version 5: an earlier version would run the path as it is.

A message `{"v": 4, "plan": "<batch id>"}` is no chunk. It lets a consumer plan a batch that is an uploaded file.

A dead letter is a chunk with an additional member `"failures": [[index, status, error], ...]`. It is for people: a
redrive runs the operations again and ignores the failures.
"""

import base64
import binascii
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Raw
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import from_json, to_json

from penstock import zstd
from penstock.batch_id import BATCH_ID
from penstock.chunk import LONGEST_READ_ID, Chunk, Links, Operation, fields_of, operation_from, references_of, sort_key
from penstock.documents.nesting import CONTAINERS, MOST_LEVELS, has_more_levels
from penstock.errors import UnreadableMessage
from penstock.outcome import Outcome

VERSION = 1
KEYS_VERSION = 2  # of a message with keys of operations
LINKS_VERSION = 3  # of a message with links of operations
PLAN_VERSION = 4  # of a message that lets a consumer plan a batch
REFERENCES_VERSION = 5  # of a message with operations whose paths refer to results
BILLING_UNIT_BYTES = 65_536  # SQS bills each 64 KB of a message as one request, on send and on receive
ATTRIBUTE_BYTES = 640  # reserved in every message: trace context (at most 600) and `sent-ahead` (37) count as body
# Far above any of our messages, so that a damaged one cannot fill the memory. Those have about the size of a message of
# SQS, and a few times as much if numbers are written anew. Python objects take up to 30 times as much as their JSON.
MAX_UNPACKED_BYTES = 8 * 1024 * 1024
_USUAL_ID = 200  # after a dozen redrives an id may be longer; it then takes room from the trace context
_COMPRESSED = "zstd:"
_COMPRESSION_LEVEL = 1
_SEPARATOR_BYTES = 1
_BEHIND_BYTES = len(b"[1000000,1000000000],")  # of an operation that has had fewer attempts
_TOGETHER_BYTES = len(b'"behind":[],"one_at_a_time":true,')
NO_MORE: Mapping[str, Any] = {}
_LONGEST_FLOAT = -1.7976931348623157e308  # the float whose JSON text is longest

# SQS rejects these two characters, and the JSON encoder does not escape them.
_NOT_ALLOWED = {b"\xef\xbf\xbe": b"\\ufffe", b"\xef\xbf\xbf": b"\\uffff"}
_FIRST_BYTE_OF_BOTH = 0xEF  # an int: Python finds it in an eighth of the time that it takes for a bytes object
_encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode


_CHUNK_ID = r"[0-9]{1,8}(\.d?(0|[1-9][0-9]*))*"


_Version = TypeVar("_Version")
_Parts = TypeVar("_Parts")  # of an operation
_WithoutKey = tuple[int, str, str, str, Any]
_WithKey = tuple[int, str, str, str, Any, str]
_Reference = tuple[int, str, tuple[str, ...], tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]] | None]
_Links = tuple[tuple[int, ...], int | None] | tuple[tuple[int, ...], int | None, tuple[_Reference, ...]]
_WithLinks = tuple[int, str, str, str, Any, str | None, _Links | None]


class _MaybeWithKey(NamedTuple):
    """An operation in a message of version 2. msgspec knows no union of two tuples."""

    position: int
    id: str
    method: str
    path: str
    body: Any
    key: str | None = None


class _MaybeWithLinks(NamedTuple):
    """An operation in a message of version 3 or 5."""

    position: int
    id: str
    method: str
    path: str
    body: Any
    key: str | None = None
    links: Links | None = None


class _Envelope(BaseModel, Generic[_Version, _Parts]):
    model_config = ConfigDict(strict=True, extra="ignore")

    v: _Version
    batch: str = Field(pattern=f"^{BATCH_ID}$")
    chunk: str = Field(pattern=f"^{_CHUNK_ID}$")
    attempt: int = Field(ge=1)
    not_before: float | None = Field(None, allow_inf_nan=False)
    operations: list[_Parts] = Field(min_length=1)
    failures: list[tuple[int, int, Any]] = []
    behind: list[tuple[int, Annotated[int, Field(ge=1)]]] = []
    one_at_a_time: bool = False

    @field_validator("chunk")
    @classmethod
    def _fits_into_a_key(cls, chunk_id: str) -> str:
        if len(sort_key(chunk_id)) > LONGEST_READ_ID:
            raise ValueError(f"it is longer than {LONGEST_READ_ID} characters")
        return chunk_id


class _UsualEnvelope(msgspec.Struct, Generic[_Version, _Parts], forbid_unknown_fields=True):
    """The members that the message of a chunk has, if it is not a dead letter.

    msgspec reads them in half of the time that Pydantic takes, with the same result.
    """

    v: _Version
    batch: Annotated[str, Meta(pattern=rf"^{BATCH_ID}\Z")]
    chunk: Annotated[str, Meta(pattern=rf"^{_CHUNK_ID}\Z", max_length=_USUAL_ID)]
    attempt: Annotated[int, Meta(ge=1)]
    operations: Annotated[list[_Parts], Meta(min_length=1)]
    not_before: float | None = None


class _LinkedEnvelope(_UsualEnvelope[Literal[3, 5], _MaybeWithLinks], forbid_unknown_fields=True):
    behind: list[tuple[int, Annotated[int, Meta(ge=1)]]] = []
    one_at_a_time: bool = False


_PLAN_REQUEST = re.compile(rf'{{"v":{PLAN_VERSION},"plan":"({BATCH_ID})"}}')
_START_WITH_KEYS = b'{"v":2,'
_STARTS_WITH_LINKS = (b'{"v":3,', b'{"v":5,')
_usual_decoder = msgspec.json.Decoder(_UsualEnvelope[Literal[1], _WithoutKey])
_usual_decoder_with_keys = msgspec.json.Decoder(_UsualEnvelope[Literal[2], _MaybeWithKey])
_decoder_with_links = msgspec.json.Decoder(_LinkedEnvelope)


def encode_operation(operation: Operation) -> bytes:
    """Encode one operation as it is sent. Encode it once: the planner measures the result, `join_message` joins it."""
    body = to_json(operation.body)
    return encode_parts(
        operation.index, operation.id, operation.method, operation.path, body, key=operation.key, links=operation.links
    )


def encode_parts(
    index: int,
    operation_id: str,
    method: str,
    path: str,
    body: bytes,
    *,
    key: str | None = None,
    links: Links | None = None,
) -> bytes:
    """Encode one operation whose body is already JSON."""
    fields = (index, operation_id, method, path, Raw(body))
    [encoded] = encode_fields([with_key_and_links(fields, key, links)])
    return encoded


def with_key_and_links(fields: tuple[Any, ...], key: str | None, links: Links | None) -> tuple[Any, ...]:
    """Return the fields of an operation with its key and its links, if it has them."""
    if links is not None:
        return (*fields, key, fields_of(links))
    return fields if key is None else (*fields, key)


def encode_fields(operations: Iterable[tuple[Any, ...]]) -> list[bytes]:
    """Encode operations. Each is `(index, id, method, path, Raw(body))`, with what `with_key_and_links` adds."""
    return [_escape(one) if _FIRST_BYTE_OF_BOTH in one else one for one in map(_encode, operations)]


def shorten(encoded: bytes) -> bytes:
    """Encode an encoded operation again: without spaces, each name once, and numbers as Python writes them."""
    return _escape(to_json(from_json(encoded)))


def _escape(encoded: bytes) -> bytes:
    """Escape the characters that SQS rejects."""
    for raw, escaped in _NOT_ALLOWED.items():
        encoded = encoded.replace(raw, escaped)
    return encoded


def size_on_the_queue(encoded: bytes) -> int:
    """Return the number of bytes that an encoded operation adds to a message."""
    return len(encoded) + _SEPARATOR_BYTES


def sizes_on_the_queue(encoded: Iterable[bytes]) -> list[int]:
    """Return the number of bytes that each encoded operation adds to a message."""
    return [len(one) + _SEPARATOR_BYTES for one in encoded]


def size_together(sizes: Sequence[int]) -> int:
    """Return the number of bytes that operations need in a message if they must stay together in one.

    A message that follows may say for each of them how many attempts fewer it has had.
    """
    return sum(sizes) + len(sizes) * _BEHIND_BYTES + _TOGETHER_BYTES if len(sizes) > 1 else sum(sizes)


def room_in_message(message_bytes: int) -> int:
    """Return the number of bytes of encoded operations that fit into a message of `message_bytes`."""
    longest_head = _head("0" * 40, "0" * _USUAL_ID, attempt=10**9, not_before=_LONGEST_FLOAT)
    return message_bytes - ATTRIBUTE_BYTES - len(longest_head) - len(b"]}")


def join_message(
    batch_id: str,
    chunk_id: str,
    encoded: Sequence[bytes],
    *,
    attempt: int = 1,
    not_before: float | None = None,
    version: int = VERSION,
    more: Mapping[str, Any] = NO_MORE,
) -> str:
    """Return the message text of a chunk whose operations are already encoded.

    `version` is at least the one that these operations need. `more` are members that a chunk with links may have.
    """
    head = _head(batch_id, chunk_id, attempt, not_before, version=version, more=more)
    return _compress(head + b",".join(encoded) + b"]}")


def encode_chunk(chunk: Chunk) -> str:
    encoded = [encode_operation(operation) for operation in chunk.operations]
    return join_message(
        chunk.batch_id,
        chunk.id,
        encoded,
        attempt=chunk.attempt,
        not_before=chunk.not_before,
        version=_version_of(chunk),
        more=_more_of(chunk),
    )


def _version_of(chunk: Chunk) -> int:
    if any(map(references_of, chunk.operations)):
        return REFERENCES_VERSION
    if chunk.has_links:
        return LINKS_VERSION
    return KEYS_VERSION if any(operation.key is not None for operation in chunk.operations) else VERSION


def _more_of(chunk: Chunk) -> dict[str, Any]:
    behind = {"behind": chunk.behind} if chunk.behind else {}
    return {**behind, "one_at_a_time": True} if chunk.one_at_a_time else behind


def encode_dead_letter(letter: Chunk, failures: Sequence[Outcome], *, message_bytes: int) -> str:
    """Encode a dead letter: failed operations with their errors. Leave the errors out if the message gets too large."""
    operations = b",".join(encode_operation(operation) for operation in letter.operations)
    head = _head(letter.batch_id, letter.id, letter.attempt, not_before=None, version=_version_of(letter))
    failure_of = {failure.index: failure for failure in failures}
    ordered = [failure_of[operation.index] for operation in letter.operations]
    errors = _escape(to_json([(failure.index, failure.status, failure.error) for failure in ordered]))
    whole = head + operations + b'],"failures":' + errors + b"}"
    return _compress(whole if len(whole) <= message_bytes else head + operations + b"]}")


def encode_plan_request(batch_id: str) -> str:
    """Return the message that lets a consumer plan a batch."""
    return to_json({"v": PLAN_VERSION, "plan": batch_id}).decode()


def decode_plan_request(text: str) -> str | None:
    """Return the batch that a message lets a consumer plan, or None if the message is another one."""
    match = _PLAN_REQUEST.fullmatch(text)
    return None if match is None else match[1]


def decode_chunk(text: str) -> Chunk:
    """Decode the chunk in a message. Raises UnreadableMessage with the reason."""
    content = _decompress(text)
    return _read_usual(content) or _read(content)[0]


def decode_dead_letter(text: str) -> tuple[Chunk, dict[int, dict[str, Any]]]:
    """Decode a dead letter. Return its chunk and its failures: `{"status": ..., "error": ...}` by operation index.

    The failures are empty if the message has none. Raises UnreadableMessage with the reason.
    """
    return _read(_decompress(text))


def _read_usual(content: bytes) -> Chunk | None:
    """Return the chunk in a usual message, or None if Pydantic must read the message or say what is wrong with it."""
    envelope: _UsualEnvelope[Any, Any]
    try:
        if content.startswith(_START_WITH_KEYS):
            envelope = _usual_decoder_with_keys.decode(content)
        elif content.startswith(_STARTS_WITH_LINKS):
            envelope = _decoder_with_links.decode(content)
        else:
            envelope = _usual_decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    operations = tuple(itertools.starmap(Operation, envelope.operations))
    if _may_be_too_deep(content, operations):
        return None
    chunk = Chunk(envelope.batch, envelope.chunk, envelope.attempt, operations, envelope.not_before)
    if isinstance(envelope, _LinkedEnvelope):
        return replace(chunk, behind=tuple(envelope.behind), one_at_a_time=envelope.one_at_a_time)
    return chunk


def _may_be_too_deep(content: bytes, operations: Sequence[Operation]) -> bool:
    """Return True if a body may have more levels than Pydantic reads. msgspec has no such limit."""
    outer = 2 + len(operations) + sum(isinstance(operation.body, CONTAINERS) for operation in operations)
    inner = content.count(b"[") + content.count(b"{") - outer
    return inner >= MOST_LEVELS and has_more_levels([operation.body for operation in operations], MOST_LEVELS)


def _read(content: bytes) -> tuple[Chunk, dict[int, dict[str, Any]]]:
    envelope: _Envelope[Any, Any]
    try:
        if content.startswith(_START_WITH_KEYS):
            envelope = _Envelope[Literal[2], _WithoutKey | _WithKey].model_validate_json(content)
        elif content.startswith(_STARTS_WITH_LINKS):
            envelope = _Envelope[Literal[3, 5], _WithoutKey | _WithKey | _WithLinks].model_validate_json(content)
        else:
            envelope = _Envelope[Literal[1], _WithoutKey].model_validate_json(content)
    except ValidationError as error:
        raise UnreadableMessage(_why_unreadable(content, error)) from error
    chunk = Chunk(
        batch_id=envelope.batch,
        id=envelope.chunk,
        attempt=envelope.attempt,
        operations=tuple(map(operation_from, envelope.operations)),
        not_before=envelope.not_before,
        behind=tuple(envelope.behind),
        one_at_a_time=envelope.one_at_a_time,
    )
    return chunk, {index: {"status": status, "error": error} for index, status, error in envelope.failures}


def _head(
    batch_id: str,
    chunk_id: str,
    attempt: int,
    not_before: float | None,
    *,
    version: int = VERSION,
    more: Mapping[str, Any] = NO_MORE,
) -> bytes:
    head: dict[str, Any] = {"v": version, "batch": batch_id, "chunk": chunk_id, "attempt": attempt, **more}
    if not_before is not None:
        head["not_before"] = not_before
    return to_json(head)[:-1] + b',"operations":['


def _compress(plain: bytes) -> str:
    """Compress the text only if this saves billing units: within one unit compression saves nothing."""
    if len(plain) <= BILLING_UNIT_BYTES:
        return plain.decode()
    compressed = _COMPRESSED + base64.b64encode(zstd.compress(plain, _COMPRESSION_LEVEL)).decode()
    return compressed if _units(len(compressed)) < _units(len(plain)) else plain.decode()


def _units(size: int) -> int:
    return -(-size // BILLING_UNIT_BYTES)


def _decompress(text: str) -> bytes:
    try:
        if not text.startswith(_COMPRESSED):
            return text.encode()
        compressed = base64.b64decode(text[len(_COMPRESSED) :], validate=True)
        plain = zstd.ZstdDecompressor().decompress(compressed, MAX_UNPACKED_BYTES + 1)
    except UnicodeEncodeError as error:
        raise UnreadableMessage("The message is not valid Unicode: it contains half of a surrogate pair.") from error
    except (binascii.Error, ValueError, zstd.ZstdError) as error:
        raise UnreadableMessage(f"The message is compressed and cannot be decompressed: {error}.") from error
    if len(plain) > MAX_UNPACKED_BYTES:
        raise UnreadableMessage(f"The decompressed message is larger than {MAX_UNPACKED_BYTES:,} bytes.")
    return plain


def _why_unreadable(content: bytes, error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return f"The message is not JSON: {first['msg']}."
    match from_json(content):
        case {"v": int(version)} if version > REFERENCES_VERSION:
            known = f"This program reads versions up to {REFERENCES_VERSION}; update it."
            return f"The message has format version {version}. {known}"
    where = "/".join(map(str, first["loc"])) or "as a whole"
    return f"The message is not a chunk: {where}: {first['msg']}."
