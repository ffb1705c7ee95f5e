"""One operation as a client writes it. Pure."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, StringConstraints

from penstock.operations import METHODS

LONGEST_ID = 128
LONGEST_KEY = 255
LONGEST_PATH = 2_048
MOST_DEPENDENCIES = 1_000  # of an operation
MOST_REFERENCES = 20  # in a path
MOST_MEMBERS = 10  # of a result, where the value of a reference may be


OperationId = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_ID)]
ReferenceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.~:-]{1,128}$")]
Member = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_ID)]


class ReferenceRequest(BaseModel):
    """Where the value of a placeholder in a path comes from: a member of the result of another operation.

    A member is a name or a JSON pointer. Of several, the first that the result has is used.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    operation: OperationId
    member: Member | Annotated[list[Member], Field(min_length=1, max_length=MOST_MEMBERS)]

    @property
    def members(self) -> tuple[str, ...]:
        return (self.member,) if isinstance(self.member, str) else tuple(self.member)


class OperationRequest(BaseModel):
    """One operation as a client writes it. Its `body` is validated later, by the model of its handler."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: OperationId | None = None
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: Annotated[str, StringConstraints(pattern=r"^/", max_length=LONGEST_PATH)]
    body: Any = None
    key: Annotated[str, StringConstraints(max_length=LONGEST_KEY, min_length=1, pattern="^[ -~]*$")] | None = None
    depends_on: Annotated[list[OperationId], FailFast(), Field(max_length=MOST_DEPENDENCIES)] = Field(
        [], alias="dependsOn"
    )
    group: OperationId | None = None
    references: Annotated[dict[ReferenceName, ReferenceRequest], Field(max_length=MOST_REFERENCES)] = {}


PlainParts = tuple[str, str, Any, bool, str | None]
"""The method, the path, the body, whether there is a body, and the key."""

_PLAIN_MEMBERS = frozenset({"id", "method", "path", "body", "key"})


def read_plain_operation(document: Any) -> PlainParts | None:
    """Return the parts of an operation, or None if Pydantic must read it.

    Nearly all operations need no Pydantic, which takes three times as long. An invalid one
    always does, and so does one that depends on another.
    """
    if type(document) is not dict or not _PLAIN_MEMBERS.issuperset(document):
        return None
    method, path = document.get("method"), document.get("path")
    if method not in METHODS or type(path) is not str or path[:1] != "/" or len(path) > LONGEST_PATH:
        return None
    if "id" in document:
        given = document["id"]
        if type(given) is not str or not 1 <= len(given) <= LONGEST_ID:
            return None
    key = None
    if "key" in document:
        key = document["key"]
        if type(key) is not str or not 1 <= len(key) <= LONGEST_KEY or not (key.isascii() and key.isprintable()):
            return None
    return method, path, document.get("body"), "body" in document, key
