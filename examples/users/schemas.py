"""The bodies and results of the operations.

These models are validated before a batch is accepted, so one invalid body rejects the whole batch. Rules that depend on
other data (which users exist, which countries we serve) are checked by the handlers and fail only one operation.
"""

from datetime import date
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, EmailStr, Field, PastDate, StringConstraints
from pydantic.config import JsonDict

#: In lower case; otherwise Ada@example.com and ada@example.com would be two users.
Email = Annotated[EmailStr, AfterValidator(str.lower)]

#: Without control characters: PostgreSQL rejects NUL, and no name contains a line break.
Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$"),
]

Country = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]
Plan = Literal["free", "team", "business"]

#: The range of the id column, so that a larger number is an invalid request and not a database error.
UserId = Annotated[int, Field(ge=1, le=2**31 - 1)]


#: For the description of the API.
EXAMPLE: JsonDict = {"email": "ada@example.com", "name": "Ada Lovelace", "born_on": "1985-12-10", "country": "GB"}


class NewUser(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE]})

    email: Email
    name: Name
    born_on: PastDate
    country: Country
    plan: Plan = "free"


class UserChange(BaseModel):
    """A change of a user. Fields that are missing or null keep their values."""

    model_config = ConfigDict(extra="forbid")

    email: Email | None = None
    name: Name | None = None
    country: Country | None = None
    plan: Plan | None = None


class User(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    email: str
    name: str
    born_on: date
    country: str
    plan: Plan
