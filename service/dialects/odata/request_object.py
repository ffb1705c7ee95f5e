"""The JSON of an individual request in a batch, as section 19.1 of the OData JSON format has it."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

LONGEST_NAME = 128  # of an id with its group: together they are the id of an operation
MOST_HEADERS = 100  # of a request, so that few errors can be found in one
MOST_DEPENDENCIES = 1_000
MOST_UNKNOWN = 20  # members that are reported
LONGEST_URL = 4_096  # with the host and the prefix of the service
GROUP_END = "/"  # separates a group from an id in the id of an operation, so it is in neither of them

_CONDITIONS = "Conditional requests are not offered, because operations have no ETags. Leave the header out."
_NOT_OFFERED_HEADERS = {
    **dict.fromkeys(("if-match", "if-none-match", "if-modified-since", "if-unmodified-since"), _CONDITIONS),
    **dict.fromkeys(("isolation", "odata-isolation"), "Snapshot isolation is not offered. Leave the header out."),
    "content-encoding": "The body of an individual request cannot be compressed. Compress the whole batch.",
    "range": "Ranges are not offered. Leave the header out.",
}
_WRONG_HEADERS = {
    "authorization": "An individual request has no credentials of its own. Send them with the batch.",
    "expect": "An individual request cannot have this header. Leave it out.",
}
_UNKNOWN = "This member is unknown. A request has id, method, url, headers, body, atomicityGroup and dependsOn."
_TWICE = "The dependencies are there twice. Use dependsOn."


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _at_most(most: int) -> BeforeValidator:
    """Reject very many members before Pydantic validates each of them."""

    def check(value: Any) -> Any:
        if isinstance(value, list | dict) and len(value) > most:
            raise ValueError(f"There are at most {most:,} of them. These are {len(value):,}")
        return value

    return BeforeValidator(check)


def _is_plain(name: str) -> str:
    if GROUP_END in name:
        raise ValueError(f"An id or a group cannot have {GROUP_END} in it")
    return name


Name = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_NAME), AfterValidator(_is_plain)]


class RequestObject(BaseModel):
    """An individual request. A member that is null counts as one that is missing."""

    model_config = ConfigDict(extra="allow", strict=True)

    id: Name
    method: Annotated[Literal["GET", "POST", "PUT", "PATCH", "DELETE"], BeforeValidator(_upper)]
    url: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_URL)]
    headers: Annotated[dict[str, str] | None, _at_most(MOST_HEADERS)] = None
    body: Any = None
    group: Name | None = Field(None, alias="atomicityGroup")
    depends_on: Annotated[list[str] | None, _at_most(MOST_DEPENDENCIES)] = Field(
        None, validation_alias=AliasChoices("dependsOn", "depends_on")
    )

    @property
    def operation_id(self) -> str:
        """Return the id of the operation. Its group is part of it, because the monitor must name the group, too."""
        return self.id if self.group is None else f"{self.group}{GROUP_END}{self.id}"

    def header(self, name: str) -> str | None:
        return next((value for key, value in (self.headers or {}).items() if key.lower() == name), None)


def faults_of(request: RequestObject) -> list[tuple[str, str]]:
    """Return what is wrong with a request that has the right members: where, and a sentence."""
    names = [name.lower() for name in request.headers or ()]
    faults = [("headers", "A header is there twice.")] if len(set(names)) < len(names) else []
    faults += [(f"headers/{name}", _WRONG_HEADERS[name]) for name in names if name in _WRONG_HEADERS]
    if request.body is not None and request.method in {"GET", "DELETE"}:
        faults.append(("body", f"A {request.method} request has no body."))
    if len(request.operation_id) > LONGEST_NAME:
        faults.append(("id", f"The id and its group have more than {LONGEST_NAME - 1} characters together."))
    others = (name for name in unknown_members(request.model_extra or {}) if name != "if")
    return faults + [(name, _TWICE if name == "depends_on" else _UNKNOWN) for name in others]


def unknown_members(names: Iterable[str]) -> Iterator[str]:
    """Return the first names that are no annotations: those have @ in them."""
    return islice((name for name in names if "@" not in name), MOST_UNKNOWN)


def not_offered_of(request: RequestObject) -> list[tuple[str, str]]:
    """Return what a valid request asks for that is not offered here: where, and a sentence."""
    names = [name.lower() for name in request.headers or ()]
    missing = [(f"headers/{name}", _NOT_OFFERED_HEADERS[name]) for name in names if name in _NOT_OFFERED_HEADERS]
    if "if" in (request.model_extra or ()):
        missing.append(("if", "Conditions are not offered. Use dependsOn alone: it asks for success."))
    media_type = (request.header("content-type") or "application/json").partition(";")[0].strip().lower()
    if request.body is not None and not (media_type == "application/json" or media_type.endswith("+json")):
        missing.append(("headers/content-type", f"Bodies are JSON here. The type {media_type} is not offered."))
    return missing
