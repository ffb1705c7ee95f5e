"""The body of a request for a batch, and what is wrong with it, in OpenAI's words. Pure."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from penstock.reading.operation_request import LONGEST_PATH
from penstock.service.dialects.openai.errors import OpenAIError
from penstock.service.dialects.openai.upload import LONGEST_EXPIRY_SECONDS, SHORTEST_EXPIRY_SECONDS
from penstock.service.schemas import Metadata

LONGEST_PARAM = 128
INVALID_VALUE = "invalid_value"


class ExpiresAfter(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    anchor: Literal["created_at"]
    seconds: int = Field(ge=SHORTEST_EXPIRY_SECONDS, le=LONGEST_EXPIRY_SECONDS)


class WantedBatch(BaseModel):
    """The body of a request for a batch."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input_file_id: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    endpoint: Annotated[str, StringConstraints(pattern="^/", max_length=LONGEST_PATH)]
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


def wanted_of(document: Any) -> WantedBatch:
    """Return what a client wants. Raises OpenAIError for the first member that is wrong."""
    try:
        return WantedBatch.model_validate(document)
    except ValidationError as error:
        raise _rejected(error.errors(include_url=False)[0]) from None


# By Pydantic's name of an error: OpenAI's code, and what is wrong.
_ERRORS = {
    "missing": ("missing_required_parameter", "Missing required parameter: '{name}'."),
    "extra_forbidden": ("unknown_parameter", "Unknown parameter: '{name}'."),
    "literal_error": (INVALID_VALUE, "Invalid value for '{name}'. Supported values are: {expected}."),
    "string_pattern_mismatch": (INVALID_VALUE, "Invalid '{name}': expected a path such as '/v1/embeddings'."),
    "string_too_short": ("empty_string", "Invalid '{name}': empty string."),
    "string_too_long": ("string_above_max_length", "Invalid '{name}': expected at most {max_length} characters."),
    "greater_than_equal": ("integer_below_min_value", "Invalid '{name}': expected a value >= {ge}, but got {given}."),
    "less_than_equal": ("integer_above_max_value", "Invalid '{name}': expected a value <= {le}, but got {given}."),
    "value_error": ("object_above_max_properties", "Invalid '{name}': {error}."),
    "string_type": ("invalid_type", "Invalid type for '{name}': expected a string, but got {kind} instead."),
    "int_type": ("invalid_type", "Invalid type for '{name}': expected an integer, but got {kind} instead."),
    "dict_type": ("invalid_type", "Invalid type for '{name}': expected an object, but got {kind} instead."),
    "model_type": ("invalid_type", "Invalid type for '{name}': expected an object, but got {kind} instead."),
}
_UNKNOWN = (INVALID_VALUE, "Invalid value for '{name}'.")
_KINDS = {bool: "a boolean", int: "an integer", float: "a decimal number", str: "a string", list: "an array"}


def _rejected(error: ErrorDetails) -> OpenAIError:
    names = [str(name) for name in error["loc"] if name != "[key]"]
    param = ".".join(names)[:LONGEST_PARAM] or None
    code, words = _ERRORS.get(error["type"], _UNKNOWN)
    given = error["input"]
    kind = "null" if given is None else _KINDS.get(type(given), "an object")
    said = {"name": param or "body", "given": given, "kind": kind, **error.get("ctx", {})}
    return OpenAIError(words.format_map(said), param=param, code=code)
