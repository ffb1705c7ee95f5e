"""Each handler of an application is described: its operation, its body and its result."""

import re
import threading
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from penstock import Operations
from penstock.route import AnyHandler
from penstock.service.openapi.document import describe
from penstock.settings import Settings
from tests.unit.service.openapi import toys

DOCUMENT = describe(Settings.model_construct(), toys.operations, {})
SCHEMAS = DOCUMENT["components"]["schemas"]
TOY = {"$ref": "#/components/schemas/Toy"}


def members_of(name: str) -> Any:
    return SCHEMAS[name]["properties"]


def test_an_operation_is_that_of_any_handler() -> None:
    named = SCHEMAS["BatchRequest"]["properties"]["operations"]["items"]["anyOf"]
    assert {one["$ref"].rpartition("/")[2] for one in named} == {
        *("CreateToyOperation", "ReadStatusOperation", "DeleteToyOperation", "RenameOperation"),
        # Two handlers are the same function, so their methods and paths tell them apart.
        *("PostV10AnythingOperation", "PutV10AnythingOperation"),
    }


def test_an_operation_has_the_method_the_path_and_the_body_of_its_handler() -> None:
    members = members_of("CreateToyOperation")
    assert members["method"]["const"] == "POST"
    assert members["path"]["const"] == "/toys"
    assert members["body"] == TOY
    assert SCHEMAS["CreateToyOperation"]["required"] == ["method", "path", "body"]
    assert SCHEMAS["CreateToyOperation"]["description"] == "`POST /toys`. Create a toy. Its result (201): `Toy`."


@pytest.mark.parametrize(
    ("name", "matching", "other"),
    [
        ("ReadStatusOperation", "/toys/7/status", "/toys/7/8/status"),
        ("RenameOperation", "/files/a/b", "/files/"),
    ],
)
def test_a_path_with_parameters_is_a_pattern(name: str, matching: str, other: str) -> None:
    path = members_of(name)["path"]
    assert re.search(path["pattern"], matching)
    assert not re.search(path["pattern"], other)
    assert re.search(path["pattern"], path["examples"][0])


def test_a_body_that_may_be_absent_is_not_required_and_a_handler_without_one_has_none() -> None:
    assert SCHEMAS["RenameOperation"]["required"] == ["method", "path"]
    assert "body" not in members_of("DeleteToyOperation")


def test_a_result_is_that_of_any_handler() -> None:
    assert {} in members_of("SucceededOutcome")["result"]["anyOf"]  # one does not say what it returns
    operations = Operations()
    operations.post("/toys")(toys.create_toy)
    operations.patch("/files/{name:path}", bulk=True)(toys.rename)
    operations.delete("/toys/{toy_id}")(toys.delete_toy)
    schemas = describe(Settings.model_construct(), operations, {})["components"]["schemas"]
    results = schemas["SucceededOutcome"]["properties"]["result"]["anyOf"]
    assert results == [TOY, {"type": "integer"}, {"type": "null"}]


def test_a_type_with_the_name_of_our_own_gets_another_one() -> None:
    assert "is_broken" in members_of("ApplicationStatus")
    assert "batchId" in members_of("Status")


def test_the_example_of_a_batch_has_operations_whose_bodies_have_an_example() -> None:
    [example] = SCHEMAS["BatchRequest"]["examples"]
    assert {"method": "POST", "path": "/toys", "body": {"name": "top"}} in example["operations"]
    assert all(operation["method"] != "DELETE" for operation in example["operations"])


def test_an_application_that_forwards_takes_any_operation_besides() -> None:
    operations = Operations()
    operations.get("/toys/{toy_id}/status")(toys.read_status)
    operations.forward("/api/{path}", to="https://internal.example")
    schemas = describe(Settings.model_construct(), operations, {})["components"]["schemas"]
    named = [one["$ref"] for one in schemas["BatchRequest"]["properties"]["operations"]["items"]["anyOf"]]
    assert named == [f"#/components/schemas/{name}" for name in ("ReadStatusOperation", "OperationRequest")]


class Undescribed:
    """A type whose description fails with an error of its own."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.any_schema()

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        raise RuntimeError("no description")


def described(*routes: tuple[str, AnyHandler]) -> Any:
    operations = Operations()
    for path, handler in routes:
        operations.post(path)(handler)
    return describe(Settings.model_construct(), operations, {})["components"]["schemas"]


def test_a_type_that_cannot_be_described_is_any_value_and_the_others_are_described() -> None:
    async def take(body: Undescribed) -> threading.Lock:
        raise NotImplementedError

    schemas = described(("/undescribed", take), ("/toys", toys.create_toy))
    assert schemas["TakeOperation"]["properties"]["body"] == {}
    assert schemas["CreateToyOperation"]["properties"]["body"] == TOY
    assert schemas["SucceededOutcome"]["properties"]["result"]["anyOf"] == [{}, TOY]


def test_a_reference_in_an_example_leads_nowhere() -> None:
    class Linked(BaseModel):
        model_config = ConfigDict(json_schema_extra={"examples": [{"link": {"$ref": "somewhere#/else"}}]})

        link: dict[str, str]

    async def take(linked: Linked) -> None: ...

    async def take_nothing() -> None: ...

    # The handlers cannot find a class of this function by its name.
    take.__annotations__["linked"] = Linked
    assert "Linked" in described(("/linked", take), ("/nothing", take_nothing))


def test_a_mapping_of_a_discriminator_has_the_new_names_of_types() -> None:
    async def take(body: toys.Tagged) -> None: ...

    body = described(("/tagged", take))["TakeOperation"]["properties"]["body"]
    mapping = {"on": "#/components/schemas/ApplicationHealth", "toy": "#/components/schemas/TaggedToy"}
    assert body["discriminator"]["mapping"] == mapping


def test_operations_whose_names_would_be_the_same_are_numbered() -> None:
    schemas = described(("/a-b", toys.take), ("/a/b", toys.take))
    assert {"PostABOperation", "PostABOperation2"} <= set(schemas)
