"""A chunk as text on the queue and back, with a format version. Pure.

The text is a JSON object: `{"v": 1, "batch": "...", "chunk": "17", "attempt": 1, "operations": [...]}`, an operation
being `[index, id, method, path, body]`. Where that saves billing units it is compressed: `zstd:` and base64. A dead
letter is such a chunk with `"failures": [[index, status, error], ...]` added, for people: a redrive runs its operations
again and does not read them.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Literal

from backports import zstd
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json, to_json

from penstock.chunk import Chunk, Operation, plan_chunks
from penstock.errors import UnreadableMessage
from penstock.outcome import Outcome

VERSION = 1
BILLING_UNIT_BYTES = 65_536  # SQS bills every 64 KB of a message's payload as one request, on send and on receive
MAX_UNPACKED_BYTES = 64 * 1024 * 1024  # far above any message of ours; a damaged one cannot fill the memory
_COMPRESSED = "zstd:"
_COMPRESSION_LEVEL = 1
_SEPARATOR_BYTES = 1
_FAILURE_SPARE_BYTES = 40  # a failure without its words; kept free so that whatever fits a chunk fits its dead letter

# SQS takes these two characters as little as control characters, and JSON does not escape them by itself.
_NOT_ALLOWED = {b"\xef\xbf\xbe": b"\\ufffe", b"\xef\xbf\xbf": b"\\uffff"}


class _Envelope(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    v: Literal[1]
    batch: str = Field(pattern=r"^[0-9A-Za-z_-]{1,40}$")  # it becomes part of keys
    chunk: str = Field(pattern=r"^[0-9]{1,8}(\.d?[0-9]+)*$")
    attempt: int = Field(ge=1)
    not_before: float | None = Field(None, allow_inf_nan=False)
    operations: list[tuple[int, str, str, str, Any]] = Field(min_length=1)


def encode_operation(operation: Operation) -> bytes:
    """One operation as it travels. Encode once: planning measures it, `join_message` takes it as it is."""
    return _escape(to_json((operation.index, operation.id, operation.method, operation.path, operation.body)))


def _escape(encoded: bytes) -> bytes:
    for raw, escaped in _NOT_ALLOWED.items():
        encoded = encoded.replace(raw, escaped)
    return encoded


def size_on_the_queue(encoded: bytes) -> int:
    """What an encoded operation adds to a message, in bytes."""
    return len(encoded) + _SEPARATOR_BYTES


def room_in_message(message_bytes: int) -> int:
    """How many bytes of operations fit into a message of `message_bytes`."""
    longest_head = _head("0" * 40, "0" * 200, attempt=10**9, not_before=1e17)
    return message_bytes - len(longest_head) - len(b'],"failures":[]}') - _FAILURE_SPARE_BYTES


def join_message(
    batch_id: str,
    chunk_id: str,
    encoded: Sequence[bytes],
    *,
    attempt: int = 1,
    not_before: float | None = None,
) -> str:
    """The message of a chunk from its already encoded operations."""
    return _pack(_head(batch_id, chunk_id, attempt, not_before) + b",".join(encoded) + b"]}")


def encode_chunk(chunk: Chunk) -> str:
    encoded = [encode_operation(operation) for operation in chunk.operations]
    return join_message(chunk.batch_id, chunk.id, encoded, attempt=chunk.attempt, not_before=chunk.not_before)


def encode_dead_letters(chunk: Chunk, failures: Sequence[Outcome], *, message_bytes: int) -> list[str]:
    """A chunk's failed operations, with their errors, as chunk messages `<chunk id>.d1`, `.d2`, ...: one, if it fits.

    Their attempt is 1 again: whoever redrives them wants them tried anew.
    """
    operations = {operation.index: operation for operation in chunk.operations}
    encoded = [encode_operation(operations[failure.index]) for failure in failures]
    room = room_in_message(message_bytes)
    errors = [_encode_failure(failure, room - len(one)) for failure, one in zip(failures, encoded, strict=True)]
    sizes = [min(room, len(one) + len(error) + 2) for one, error in zip(encoded, errors, strict=True)]
    letters = []
    for number, run in enumerate(plan_chunks(sizes, max_operations=len(sizes), max_bytes=room), start=1):
        head = _head(chunk.batch_id, f"{chunk.id}.d{number}", attempt=1, not_before=None)
        tail = b'],"failures":[' + b",".join(errors[run.start : run.stop]) + b"]}"
        letters.append(_pack(head + b",".join(encoded[run.start : run.stop]) + tail))
    return letters


def decode_chunk(text: str) -> Chunk:
    """The chunk that a message holds. Raises UnreadableMessage, saying why."""
    content = _unpack(text)
    try:
        envelope = _Envelope.model_validate_json(content)
    except ValidationError as error:
        raise UnreadableMessage(_why_unreadable(content, error)) from error
    return Chunk(
        batch_id=envelope.batch,
        id=envelope.chunk,
        attempt=envelope.attempt,
        operations=tuple(Operation(*operation) for operation in envelope.operations),
        not_before=envelope.not_before,
    )


def _head(batch_id: str, chunk_id: str, attempt: int, not_before: float | None) -> bytes:
    head: dict[str, Any] = {"v": VERSION, "batch": batch_id, "chunk": chunk_id, "attempt": attempt}
    if not_before is not None:
        head["not_before"] = not_before
    return to_json(head)[:-1] + b',"operations":['


def _encode_failure(failure: Outcome, room: int) -> bytes:
    """What is known of a failure; without its words where the operation alone all but fills a message."""
    encoded = _escape(to_json((failure.index, failure.status, failure.error)))
    if len(encoded) + _FAILURE_SPARE_BYTES <= room:
        return encoded
    return to_json((failure.index, failure.status, None))


def _pack(plain: bytes) -> str:
    """The shorter of plain and compressed, counted in billing units: within a unit nothing is gained by packing."""
    if len(plain) <= BILLING_UNIT_BYTES:
        return plain.decode()
    packed = _COMPRESSED + base64.b64encode(zstd.compress(plain, _COMPRESSION_LEVEL)).decode()
    return packed if _units(len(packed)) < _units(len(plain)) else plain.decode()


def _units(size: int) -> int:
    return -(-size // BILLING_UNIT_BYTES)


def _unpack(text: str) -> bytes:
    try:
        if not text.startswith(_COMPRESSED):
            return text.encode()
        packed = base64.b64decode(text[len(_COMPRESSED) :], validate=True)
        unpacked = zstd.ZstdDecompressor().decompress(packed, MAX_UNPACKED_BYTES + 1)
    except UnicodeEncodeError as error:
        raise UnreadableMessage("The message is not Unicode: it holds half of a surrogate pair.") from error
    except (binascii.Error, ValueError, zstd.ZstdError) as error:
        raise UnreadableMessage(f"The message is compressed and damaged: {error}.") from error
    if len(unpacked) > MAX_UNPACKED_BYTES:
        raise UnreadableMessage(f"The message unpacks to more than {MAX_UNPACKED_BYTES:,} bytes.")
    return unpacked


def _why_unreadable(content: bytes, error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return f"The message is not JSON: {first['msg']}."
    match from_json(content):
        case {"v": int(version)} if version > VERSION:
            return f"The message has format version {version}; this program reads up to {VERSION}: update it."
    where = "/".join(map(str, first["loc"])) or "as a whole"
    return f"The message is not a chunk: {where}: {first['msg']}."
