"""JSON pointers (RFC 6901) to what is wrong with a document."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from penstock.documents.pointer import pointer, pointer_to


class Address(BaseModel):
    street: str
    postal_code: str = Field(alias="postalCode", pattern=r"^\d+$")


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    address: Address | None = None
    tags: list[str] = []
    either: int | list[int] = 0
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None
    ages: dict[str, int] = {}
    spot: tuple[int, int] = (0, 0)

    @model_validator(mode="after")
    def _no_nobody(self) -> "Person":
        if self.name == "nobody":
            raise ValueError("nobody is not a person")
        return self


def pointers(annotation: Any, document: Any) -> list[str]:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(annotation).validate_python(document)
    return [pointer_to(error, document) for error in refused.value.errors()]


@pytest.mark.parametrize(
    ("parts", "written"),
    [
        ((), ""),  # the whole document
        (("operations", 3, "body"), "/operations/3/body"),
        (("a/b", "m~n", "~1"), "/a~1b/m~0n/~01"),  # the tilde first, or `~1` would become `~01`'s slash
        (("",), "/"),
    ],
)
def test_parts_are_escaped(parts: tuple[str | int, ...], written: str) -> None:
    assert pointer(*parts) == written


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ({"name": 5}, ["/name"]),
        ({}, ["/name"]),  # missing: where it should be
        ({"name": "a", "address": {"street": 5, "postalCode": "1"}}, ["/address/street"]),
        ({"name": "a", "address": {"street": "b"}}, ["/address/postalCode"]),  # by its alias, as the client writes it
        ({"name": "a", "address": {"street": "b", "postalCode": "x"}}, ["/address/postalCode"]),
        ({"name": "a", "tags": ["x", 5, "y", 6]}, ["/tags/1", "/tags/3"]),
        ({"name": "a", "either": "x"}, ["/either", "/either"]),  # once per member of the union, without its name
        ({"name": "a", "either": [1, "x"]}, ["/either", "/either/1"]),
        ({"name": "a", "pet": {"kind": "cat", "lives": "x"}}, ["/pet/lives"]),  # the discriminator is left out
        ({"name": "a", "pet": {"kind": "dog"}}, ["/pet/name"]),
        ({"name": "a", "pet": {"kind": "cow"}}, ["/pet"]),
        ({"name": "a", "pet": {}}, ["/pet"]),
        ({"name": "a", "ages": {"x": 1, "y": "z"}}, ["/ages/y"]),
        ({"name": "a", "ages": {"x/y": "z"}}, ["/ages/x~1y"]),
        ({"name": "a", "spot": [1]}, ["/spot/1"]),
        ({"name": "a", "nick": 1, "p/q": 2}, ["/nick", "/p~1q"]),  # one too many
        ({"name": "nobody"}, [""]),  # about the whole
        (5, [""]),
        ([], [""]),
        ({"name": 5, "tags": "x", "more": 1}, ["/name", "/tags", "/more"]),  # all of them
    ],
)
def test_pointer_leads_to_what_the_error_is_about(document: Any, found: list[str]) -> None:
    assert pointers(Person, document) == found


@pytest.mark.parametrize(
    ("annotation", "document", "found"),
    [
        (list[Person], [{"name": "a"}, {"name": 5}], ["/1/name"]),
        (list[list[int]], [[1], [2, "x"]], ["/1/1"]),
        (dict[str, Person], {"a": {}}, ["/a/name"]),
        (dict[int, int], {"x": 1}, ["/x"]),
        (int, "x", [""]),
    ],
)
def test_documents_that_are_not_objects(annotation: Any, document: Any, found: list[str]) -> None:
    assert pointers(annotation, document) == found
