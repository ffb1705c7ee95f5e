"""What clients send and get.

These models judge a request by itself, before it is accepted: anything they refuse refuses the whole batch. What
takes a look at the world (who is there already, whom we serve today) is for the handlers, and fails one operation only.
"""

from datetime import date
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, EmailStr, Field, PastDate, StringConstraints

#: One spelling for each mailbox, or the database would take Ada@example.com and ada@example.com for two people.
Email = Annotated[EmailStr, AfterValidator(str.lower)]

#: No control characters: PostgreSQL refuses NUL, and nobody is called a line break.
Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$"),
]

Country = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]
Plan = Literal["free", "team", "business"]

#: What the id column can hold, so that a number too large for it is a bad request and not a database error.
UserId = Annotated[int, Field(ge=1, le=2**31 - 1)]


class NewUser(BaseModel):
    model_config = ConfigDict(extra="forbid")

    email: Email
    name: Name
    born_on: PastDate
    country: Country
    plan: Plan = "free"


class UserChange(BaseModel):
    """Fields left out, or null, stay as they are."""

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
