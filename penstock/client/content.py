"""What is submitted, as the body of a request: a file as it is, or operations that are written as NDJSON."""

import json
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from penstock.client.errors import InvalidFile
from penstock.client.spool import GZIP, PIECE_BYTES, Spool
from penstock.client.transport import CSV, NDJSON, Body

Operation = Mapping[str, Any]
Submitted = Iterable[Operation] | AsyncIterable[Operation] | str | Path
"""Operations, or the name of a file with operations."""

_TYPES = {".csv": CSV, ".ndjson": NDJSON, ".jsonl": NDJSON}
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=to_jsonable_python)


@dataclass(frozen=True, slots=True)
class Content:
    """The body of a request, compressed with gzip. `query` has the options that a JSON document names itself.

    `body` is None if the query names an upload that has the content.
    """

    media_type: str
    body: Body | None
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def headers(self) -> Mapping[str, str]:
        encoding = {} if self.body is None else {"Content-Encoding": "gzip"}
        return {"Content-Type": self.media_type, **encoding}


def content_of_file(path: Path, spool: Spool) -> Content:
    """Return the content of a file by its suffix. A JSON document is read into memory. Raises InvalidFile."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".json":
            return _content_of_document(path, spool)
        if suffix not in _TYPES:
            raise InvalidFile(f"{path}: its name does not tell its format. Use .csv, .ndjson or .json.")
        with path.open("rb"):
            return Content(_TYPES[suffix], lambda: _compressed(path))
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be read ({error.strerror}).") from error


def check_kind(operations: Submitted | Content) -> None:
    """Raise TypeError if this is a single operation: iterating over it would yield the names of its members."""
    if isinstance(operations, Mapping):
        raise TypeError("This is a single operation. Pass a list: submit([operation]).")


def content_of_operations(operations: Iterable[Operation], spool: Spool, query: Mapping[str, str] = {}) -> Content:
    """Write operations to the spool, and return them as content. Raises InvalidFile."""
    for number, operation in enumerate(operations, 1):
        spool.write(encode_operation(operation, number))
    spool.finish()
    return Content(NDJSON, spool.compressed, query)


async def content_of_stream(operations: AsyncIterable[Operation], spool: Spool) -> Content:
    """Write operations to the spool as they arrive, and return them as content. Raises InvalidFile."""
    number = 0
    async for operation in operations:
        number += 1
        spool.write(encode_operation(operation, number))
    spool.finish()
    return Content(NDJSON, spool.compressed)


def encode_operation(operation: Operation, number: int) -> bytes:
    """Return an operation, or a row, as a line. Dates, decimals, UUIDs, dataclasses and models of Pydantic are values.

    Raises InvalidFile, with the number of the operation.
    """
    if not isinstance(operation, Mapping):
        kind = type(operation).__name__
        raise InvalidFile(
            f"Operation {number:,} is a {kind}. Use a dict such as {{'method': 'POST', 'path': '/users'}}."
        )
    try:
        return _encoder.encode(dict(operation)).encode() + b"\n"
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidFile(f"Operation {number:,} cannot be written as JSON: {error}.") from error


def _content_of_document(path: Path, spool: Spool) -> Content:
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise InvalidFile(f"{path}: is not JSON ({error}).") from error
    options = document if isinstance(document, dict) else {"operations": document}
    operations = options.pop("operations", None)
    if not isinstance(operations, list):
        raise InvalidFile(f'{path}: should be {{"operations": [...]}}, or a bare list of operations.')
    return content_of_operations(operations, spool, query_of(options))


def query_of(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the options of a JSON document as the query of a stream has them. Raises InvalidFile."""
    query = {name: _text(value) for name, value in options.items() if name != "metadata" and value is not None}
    metadata = options.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        raise InvalidFile('"metadata" should be an object such as {"team": "growth"}.')
    return {**query, **{f"metadata.{name}": _text(value) for name, value in metadata.items()}}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def upload_type(path: Path) -> str:
    """Return the media type of a file that is uploaded. Raises InvalidFile."""
    if (media_type := _TYPES.get(path.suffix.lower())) is None:
        raise InvalidFile(f"{path}: only .csv and .ndjson files can be uploaded.")
    return media_type


async def _compressed(path: Path) -> AsyncIterator[bytes]:
    compress = zlib.compressobj(1, wbits=GZIP)
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            if compressed := compress.compress(piece):
                yield compressed
    yield compress.flush()
