"""Reads operations whose bodies stay JSON, so that no Python values are built from them. Pure.

To parse a body, to encode it for its message, and to parse it again in the validator of its handler would take most of
the time to read a batch. So msgspec reads the members of each operation, and its body is cut out of what was sent.

A batch is accepted or rejected as if it had been parsed: msgspec checks the whole text as the parser of Pydantic does.
The two differ in texts that are not UTF-8, in numbers that are too large for a float, and in very many levels. Such a
document, and whatever else is unusual, is parsed into values, and so is an operation that may be invalid.

One difference is left. If an operation has two bodies, the last one counts, and the levels of the other are not looked
at: to count them would take time for every batch.
"""

from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, defstruct, field
from pydantic_core import from_json, to_json

from penstock.documents.finite import may_be_infinite
from penstock.documents.nesting import MOST_LEVELS, is_shallow
from penstock.documents.validation import MOST_BYTES
from penstock.reading.elements import check_elements
from penstock.reading.lines import Lines
from penstock.reading.operation_request import LONGEST_ID, LONGEST_KEY, LONGEST_PATH

_SLICE_BYTES = 65_536  # are decoded at once: a text may need four times as much memory as its UTF-8
MOST_RAW_BYTES = MOST_BYTES  # a larger body is parsed: if it were invalid, its validator would run twice in one turn
_LONG_BODY_BYTES = 2_000  # in a longer one, all spaces are looked for
_FIRST_BYTES = 64  # of a shorter one tell how the rest was written
_BACKSLASH = 0x5C
_NULL_BYTES = len(b"null")
LARGE_BODY_BYTES = 4_096  # an operation with more is read and encoded by itself: it takes much time and memory
_ABSENT = Raw()

_Id = Annotated[str, Meta(min_length=1, max_length=LONGEST_ID)]
_encode = msgspec.json.Encoder().encode


class RawOperation(Struct, forbid_unknown_fields=True, gc=False):
    """An operation whose body is JSON, with few levels and finite numbers. A short one in a line may keep spaces.

    The types here are those of an OperationRequest, or less strict. `value` is the operation as if it had been parsed.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: Annotated[str, Meta(max_length=LONGEST_PATH)]
    id: _Id | None = None
    body: Raw = _ABSENT
    key: Annotated[str, Meta(min_length=1, max_length=LONGEST_KEY)] | None = None
    depends_on: list[str] | UnsetType = field(default=UNSET, name="dependsOn")
    group: str | None = None
    references: dict[str, dict[str, str | list[str]]] | UnsetType = UNSET

    @property
    def has_links(self) -> bool:
        """Return True if the operation may depend on others."""
        return self.depends_on is not UNSET or self.group is not None or self.references is not UNSET

    @property
    def content(self) -> bytes:
        """Return the body as JSON, or nothing if there is no body. Only what must be escaped is escaped in it."""
        content = _encode(self.body)
        return _escaped(content) if _BACKSLASH in content else content

    @property
    def value(self) -> dict[str, Any]:
        """Return the operation as a JSON value."""
        value = self.without_body
        if len(self.body):
            value["body"] = from_json(_encode(self.body))
        return value

    @property
    def without_body(self) -> dict[str, Any]:
        """Return the operation as a JSON value that has no body."""
        value: dict[str, Any] = {"method": self.method, "path": self.path}
        if self.id is not None:
            value["id"] = self.id
        if self.key is not None:
            value["key"] = self.key
        if self.group is not None:
            value["group"] = self.group
        if self.depends_on is not UNSET:
            value["dependsOn"] = self.depends_on
        if self.references is not UNSET:
            value["references"] = self.references
        return value


class Columns(NamedTuple):
    """Several operations with bodies, but without keys and links. The bodies are as `RawOperation.content` is."""

    ids: Sequence[str | None]
    methods: Sequence[str]
    paths: Sequence[str]
    bodies: Sequence[bytes]


def to_columns(operations: Sequence[Any]) -> Columns | None:
    """Return operations in columns, or None if one of them must be read by itself.

    That is one with a large body, none, or one as short as null, one with a key or links, and one that is not raw.
    """
    if set(map(type, operations)) != {RawOperation} or any(
        one.key is not None
        or one.group is not None
        or one.depends_on is not UNSET
        or one.references is not UNSET
        or not 0 < len(one.body) <= LARGE_BODY_BYTES
        or len(one.body) == _NULL_BYTES
        for one in operations
    ):
        return None
    return Columns(
        [one.id for one in operations],
        [one.method for one in operations],
        [one.path for one in operations],
        [_escaped(body) if _BACKSLASH in body else body for body in [_encode(one.body) for one in operations]],
    )


def with_few_bytes(operations: Sequence[Any], most_bytes: int) -> Sequence[Any]:
    """Return the first operations, as many as have no more than `most_bytes` in their bodies, but at least one.

    Only those that are raw are measured.
    """
    total = 0
    for index, one in enumerate(operations):
        if type(one) is RawOperation:
            total += len(one.body)
            if total > most_bytes:
                return operations[: max(1, index)]
    return operations


def _escaped(body: bytes) -> bytes:
    """Return a body in which only what must be escaped is escaped."""
    return to_json(from_json(body))


_operation_decoder = msgspec.json.Decoder(RawOperation)


class RawDocuments:
    """Reads JSON documents whose member `operations` is a list of operations. They may have `options`, too."""

    def __init__(self, options: Iterable[str]) -> None:
        self._options = tuple(options)
        self._decode = self._decoder(RawOperation).decode
        self._decode_each = self._decoder(Raw).decode

    def _decoder(self, operation: Any) -> msgspec.json.Decoder[Any]:
        options = [(name, Raw, _ABSENT) for name in self._options]
        document = defstruct("_Document", [("operations", list[operation]), *options], forbid_unknown_fields=True)
        return msgspec.json.Decoder(document)

    def read(self, content: bytes | bytearray) -> dict[str, Any] | None:
        """Return the value of a document with raw operations in it, or None if the document must be parsed.

        An operation that is no RawOperation has been parsed.
        """
        try:
            compact = msgspec.json.format(content, indent=-1)
            if not _is_usual(compact):
                return None
            try:
                document = self._decode(compact)
            except msgspec.ValidationError:
                document = self._decode_each(compact)
                document.operations = [*map(_read_one, document.operations)]
            else:
                _check_bodies(document.operations)
            given = {name: raw for name in self._options if len(raw := getattr(document, name))}
            options = {name: from_json(_encode(raw), allow_inf_nan=False) for name, raw in given.items()}
        except (msgspec.DecodeError, ValueError, RecursionError):
            return None
        return {**options, "operations": document.operations}


def _read_one(content: Raw) -> Any:
    """Return one of the operations of a document. Raises ValueError if the document must be parsed."""
    if not _is_fit(content):
        raise ValueError("it is too large, or may have too many levels")
    try:
        return _operation_decoder.decode(content)
    except msgspec.ValidationError:
        return from_json(_encode(content), allow_inf_nan=False)


def _check_bodies(operations: Iterable[RawOperation]) -> None:
    """Raise ValueError if the body of an operation is too large, or may have too many levels."""
    long = [operation.body for operation in operations if len(operation.body) > MOST_LEVELS]
    if not all(map(_is_fit, long)):
        raise ValueError("a body is too large, or may have too many levels")


class RawLines:
    """Splits a stream into lines, each with True if it is known to be UTF-8 and to have finite numbers."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def feed(self, piece: bytes) -> Iterator[tuple[int, tuple[bytes, bool]]]:
        whole_lines = piece[piece.find(b"\n") + 1 : piece.rfind(b"\n") + 1]
        is_usual = _is_usual(whole_lines)  # to look at them together takes much less time
        lines = self._lines.feed(piece)
        yield from ((number, (line, False)) for number, line in islice(lines, 1))  # it may have begun earlier
        for number, line in lines:
            yield number, (line, is_usual)

    def end(self) -> Iterator[tuple[int, tuple[bytes, bool]]]:
        return ((number, (line, False)) for number, line in self._lines.end())

    @property
    def why_empty(self) -> str:
        return self._lines.why_empty


def read_raw_line(line: bytes, most_elements: int, *, is_usual: bool = False) -> RawOperation | None:
    """Return the operation in a line, or None if the line must be parsed. Raises LimitPassed as `parse_line` does.

    `is_usual` tells that the line is UTF-8, and that its numbers are finite.
    """
    check_elements(line, most_elements)
    if not (is_usual or _is_usual(line)):
        return None
    try:
        operation = _operation_decoder.decode(line)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    body = operation.body
    if not _is_fit(body):
        return None
    if _may_have_spaces(body, line):
        operation.body = Raw(msgspec.json.format(body, indent=-1))
    return operation


def _is_usual(content: bytes | bytearray) -> bool:
    return _is_utf_8(content) and not may_be_infinite(content)


def _is_fit(content: Raw) -> bool:
    size = len(content)
    return size <= MOST_LEVELS or (size <= MOST_RAW_BYTES and is_shallow(_encode(content)))


def _is_utf_8(content: bytes | bytearray) -> bool:
    if content.isascii():
        return True
    decoder = getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(content), _SLICE_BYTES):
            decoder.decode(content[start : start + _SLICE_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _may_have_spaces(body: Raw, line: bytes) -> bool:
    """Return True if there may be spaces between the parts of the body of a line.

    A short one may keep some, which cost little.
    """
    if len(body) > _LONG_BODY_BYTES:
        return True
    return line.find(b'": ') >= 0 and _encode(body).find(b'": ', 0, _FIRST_BYTES) >= 0  # `in` takes twice as long
