"""Whatever a reader accepts, consumers can read it."""

from typing import Any

import pytest
from pydantic_core import to_json

from penstock import Operations
from penstock.documents.nesting import MOST_LEVELS, TOO_DEEP
from penstock.files.template import Template
from penstock.message import decode_chunk, encode_parts, join_message
from penstock.reading.json_line import parse_line
from penstock.reading.line_source import operation_of_body
from penstock.reading.operation_reader import OperationReader, ReadOperation
from penstock.reading.raw_operation import RawDocuments, read_raw_line

MOST_ELEMENTS = 10_000

operations = Operations()
raw_documents = RawDocuments(())


@operations.post("/any")
async def take_any(body: Any = None) -> None: ...


@operations.post("/number")
async def take_number(body: int) -> None: ...


@operations.post("/nothing")
async def take_nothing() -> None: ...


operations.forward("/api/{path}", to="http://upstream.example")


def operation_in(way: str, path: str, body: str) -> Any:
    """Return an operation as a reader gets it, or None if it has been rejected before."""
    line = f'{{"method":"POST","path":"{path}","body":{body}}}'.encode()
    try:
        match way:
            case "raw document":
                document = raw_documents.read(b'{"operations":[' + line + b"]}")
                return document and document["operations"][0]
            case "raw line":
                return read_raw_line(line, MOST_ELEMENTS)
            case "row":
                row = operation_of_body(Template("POST", path), 1, body.encode(), MOST_ELEMENTS)
                return row if isinstance(row, dict) else None
            case _:
                return parse_line(line, MOST_ELEMENTS)
    except ValueError:
        return None


ACCEPTED = {
    "valid": {"/any", "/api/x"},
    "invalid": {"/any", "/number", "/nothing", "/api/x", "/api/../x"},
    "unknown": {"/any", "/number", "/nothing", "/api/x", "/api/../x", "/nowhere"},
}


@pytest.mark.parametrize("path", sorted(ACCEPTED["unknown"]))
@pytest.mark.parametrize("accepts", ACCEPTED)
@pytest.mark.parametrize("way", ["raw document", "raw line", "line", "row"])
def test_a_body_that_is_accepted_is_not_too_deep_for_consumers(way: str, accepts: str, path: str) -> None:
    reader = OperationReader(operations.match, shows_errors=False)
    reader.accepts_invalid, reader.accepts_unknown = accepts != "valid", accepts == "unknown"
    accepted = 0
    for levels in range(MOST_LEVELS - 1, 203):
        for body in ("[" * levels + "]" * levels, '{"a":' * levels + "1" + "}" * levels):
            if (operation := operation_in(way, path, body)) is None:
                continue
            read = reader.read(operation)
            if isinstance(read, ReadOperation):
                accepted += 1
                assert levels <= MOST_LEVELS
                encoded = encode_parts(0, "0", read.method, read.path, read.body)
                [sent] = decode_chunk(join_message("01M8KXJ8PNBF17YSW98VYPX44T", "0", [encoded])).operations
                assert to_json(sent.body) == body.encode()
            elif path in ACCEPTED[accepts]:
                assert [(flaw.pointer, flaw.detail) for flaw in read] == [("/body", TOO_DEEP)]
    assert bool(accepted) is (path in ACCEPTED[accepts])
    assert reader.invalid_accepted == (0 if path in ACCEPTED["valid"] else accepted)
