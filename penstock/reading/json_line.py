"""Parses one line of NDJSON. Pure."""

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from typing import Any

from pydantic_core import from_json

from penstock.documents.nesting import TOO_DEEP
from penstock.reading.digits import check_digits
from penstock.reading.elements import check_elements

_TOO_DEEP_FOR_THE_PARSER = "recursion limit exceeded"  # how its error begins


def parse_line(line: bytes, most_elements: int) -> Any:
    """Return the JSON value of a line. Raise ValueError if it has none, and LimitPassed if it has too many elements."""
    check_elements(line, most_elements)
    try:
        check_digits(line)
        return from_json(line, allow_inf_nan=False)
    except ValueError as error:
        raise ValueError(why_unreadable("line", error, _line_hint(line))) from error


def why_unreadable(what: str, error: ValueError, hint: str) -> str:
    """Return why our parser cannot read a JSON text. Valid JSON with very many levels is not called invalid."""
    if str(error).startswith(_TOO_DEEP_FOR_THE_PARSER):
        return f"The {what} has too many levels: {error}. {TOO_DEEP}"
    return f"The {what} is not valid JSON: {error}.{hint}"


def _line_hint(line: bytes) -> str:
    has_other_breaks = b"\r" in line.rstrip(b"\r")
    return " It contains a CR. End each line with LF." if has_other_breaks else encoding_hint(line)


def encoding_hint(content: bytes | bytearray) -> str:
    """Return a sentence about the encoding, if the content is not UTF-8."""
    start = bytes(content[:2])
    if start in {BOM_UTF16_LE, BOM_UTF16_BE, b"{\0", b"[\0", b"\0{", b"\0["}:
        return " It seems to be UTF-16. Send it as UTF-8."
    try:
        content.decode()
    except UnicodeDecodeError:
        return " It is not UTF-8. Send it as UTF-8."
    return ""
