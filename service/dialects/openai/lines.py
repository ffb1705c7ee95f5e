"""A line of an input file, and the operation that it is. Pure.

{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {...}}
{"id": "a", "method": "POST", "path": "/v1/embeddings", "body": {...}}
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from pydantic_core import to_json

from penstock.errors import Flaw
from penstock.operations import METHODS
from penstock.reading.operation_request import LONGEST_ID, LONGEST_PATH

LONGEST_MESSAGE = 500
MOST_ERRORS = 100  # of a file that are kept; all are counted
MOST_ERROR_BYTES = 64 * 1024  # of these together, as JSON
BODYLESS = frozenset({"GET", "DELETE"})

INVALID_JSON = "invalid_json_line"
MISSING = "missing_required_parameter"
INVALID = "invalid_value"
DUPLICATE = "duplicate_custom_id"
URL_MISMATCH = "url_mismatch"
EMPTY_FILE = "empty_file"
TOO_MANY = "too_many_tasks"
NOT_POSSIBLE = "batch_not_possible"  # for another reason than its lines

OPERATIONS = "/operations/"  # where the pointers of errors in operations start
_PARAMS = {"id": "custom_id", "path": "url"}  # by our members


@dataclass(frozen=True, slots=True)
class LineError:
    """What is wrong with a line. Without `line`, it is about the whole file."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None

    def encode(self) -> dict[str, Any]:
        """Return the error as OpenAI writes it among the errors of a batch."""
        return asdict(self)

    @classmethod
    def decode(cls, written: Mapping[str, Any]) -> Self:
        return cls(**written)


def invalid_line(code: str, message: str, line: int | None = None, param: str | None = None) -> LineError:
    """Return an error with a message that is not too long to be kept."""
    short = message if len(message) <= LONGEST_MESSAGE else f"{message[: LONGEST_MESSAGE - 3]}..."
    return LineError(code, short, line, param)


def first_errors(errors: Sequence[LineError]) -> list[LineError]:
    """Return as many of the first errors as an entry of the catalog can keep, and at least one."""
    kept: list[LineError] = []
    size = 0
    for error in errors[:MOST_ERRORS]:
        size += len(to_json(error.encode()))
        if kept and size > MOST_ERROR_BYTES:
            break
        kept.append(error)
    return kept


def operation_of(value: Any, line: int) -> dict[str, Any] | LineError:
    """Return the operation that a line is, or what is wrong with it."""
    if not isinstance(value, dict):
        return LineError(INVALID_JSON, "This line is not a JSON object.", line)
    error = (
        _text_error(value, "custom_id", LONGEST_ID, line)
        or _method_error(value, line)
        or _text_error(value, "url", LONGEST_PATH, line)
        or _url_error(value["url"], line)
        or _body_error(value, line)
    )
    if error is not None:
        return error
    operation = {"id": value["custom_id"], "method": value["method"], "path": value["url"]}
    return operation | ({"body": value["body"]} if "body" in value else {})


def _text_error(value: Mapping[str, Any], name: str, longest: int, line: int) -> LineError | None:
    given = value.get(name)
    if given is None:
        return LineError(MISSING, f"Missing required parameter: '{name}'.", line, name)
    if not isinstance(given, str) or not 1 <= len(given) <= longest:
        return LineError(INVALID, f"'{name}' must be a text of 1 to {longest:,} characters.", line, name)
    return None


def _method_error(value: Mapping[str, Any], line: int) -> LineError | None:
    method = value.get("method")
    if method is None:
        return LineError(MISSING, "Missing required parameter: 'method'.", line, "method")
    if method not in METHODS:
        return LineError(INVALID, f"'method' must be one of {', '.join(METHODS)}.", line, "method")
    return None


def _url_error(url: str, line: int) -> LineError | None:
    if url.startswith("/"):
        return None
    return LineError(INVALID, "'url' must be a path that starts with a slash, such as '/v1/embeddings'.", line, "url")


def _body_error(value: Mapping[str, Any], line: int) -> LineError | None:
    if "body" in value or value["method"] in BODYLESS:
        return None
    return LineError(MISSING, "Missing required parameter: 'body'.", line, "body")


def error_of_flaw(flaw: Flaw, line: int | None) -> LineError:
    """Return an error that the engine has found in an operation. Its pointer starts at the operation."""
    _, *members = flaw.pointer.split("/")
    named = [_PARAMS.get(member, member) for member in members[:1]] + members[1:]
    return invalid_line(INVALID, flaw.detail, line, ".".join(named)[:LONGEST_MESSAGE] or None)


def errors_of_flaws(flaws: Sequence[Flaw]) -> list[LineError]:
    """Return errors that the engine has found in a batch, or in its file as a whole."""
    return list(map(_error_of, flaws))


def _error_of(flaw: Flaw) -> LineError:
    if not flaw.pointer.startswith(OPERATIONS):
        return invalid_line(NOT_POSSIBLE, flaw.detail)
    _, slash, rest = flaw.pointer.removeprefix(OPERATIONS).partition("/")
    return error_of_flaw(replace(flaw, pointer=slash + rest), flaw.line)  # with a pointer that starts at its operation


def url_mismatch(url: str, endpoint: str, line: int) -> LineError:
    message = f"The url '{url}' is not the endpoint of the batch, which is '{endpoint}'."
    return invalid_line(URL_MISMATCH, message, line, "url")
