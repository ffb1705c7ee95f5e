"""Each handler of an application is described: its operation, its body and its result."""

import re
from typing import Any

import pytest

from penstock import Operations
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


def test_an_application_that_forwards_takes_any_operation_besides() -> None:
    operations = Operations()
    operations.get("/toys/{toy_id}/status")(toys.read_status)
    operations.forward("/api/{path}", to="https://internal.example")
    schemas = describe(Settings.model_construct(), operations, {})["components"]["schemas"]
    named = [one["$ref"] for one in schemas["BatchRequest"]["properties"]["operations"]["items"]["anyOf"]]
    assert named == [f"#/components/schemas/{name}" for name in ("ReadStatusOperation", "OperationRequest")]
