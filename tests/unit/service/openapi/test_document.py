"""The documents of both listeners are valid, and each endpoint and each body of them is described with an example."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from penstock.service.openapi.document import describe, describe_for_operators
from penstock.service.routes import routes_for_clients, routes_for_operators, scopes_of
from penstock.settings import Settings
from tests.unit.service.openapi.toys import operations

SETTINGS = Settings.model_construct(auth="keys")
DOCUMENTS = {
    "clients": describe(SETTINGS, operations, scopes_of(routes_for_clients(SETTINGS))),
    "operators": describe_for_operators(SETTINGS, scopes_of(routes_for_operators())),
}
PARTS = {"Problem", "Outcome", "SucceededOutcome", "FailedOutcome"}  # their examples are in those of other bodies

pytestmark = pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
Document = dict[str, Any]


def endpoints(document: Document) -> Iterator[Document]:
    return (endpoint for methods in document["paths"].values() for endpoint in methods.values())


def references(part: Any) -> Iterator[str]:
    """Yield what each `$ref` in a part of the document leads to."""
    if isinstance(part, dict):
        if isinstance(reference := part.get("$ref"), str):
            yield reference
        part = list(part.values())
    if isinstance(part, list):
        for member in part:
            yield from references(member)


def check(document: Document, schema: Document, example: Any) -> None:
    jsonschema.Draft202012Validator({**document, **schema}).validate(example)


def test_it_is_valid_openapi(document: Document) -> None:
    assert [str(error) for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_each_reference_leads_to_a_component(document: Document) -> None:
    known = {f"#/components/{kind}/{name}" for kind, parts in document["components"].items() for name in parts}
    assert set(references(document)) <= known
    assert "/batch" not in document["paths"] or "#/components/schemas/ReferenceRequest" in known


def test_each_endpoint_has_a_name_of_its_own_and_one_of_the_described_tags(document: Document) -> None:
    names = [endpoint["operationId"] for endpoint in endpoints(document)]
    assert len(names) == len(set(names))
    assert all(re.fullmatch("[a-z]+([A-Z][a-z]+)*", name) for name in names)
    tags = {tag["name"] for tag in document["tags"] if tag["description"]}
    assert {tag for endpoint in endpoints(document) for tag in endpoint["tags"]} == tags


def test_each_body_has_a_valid_example(document: Document) -> None:
    schemas = document["components"]["schemas"]
    for name, schema in schemas.items():
        for example in schema.get("examples", []):
            check(document, {"$ref": f"#/components/schemas/{name}"}, example)
    ours = {name for name in schemas if name not in PARTS and not name.endswith("Operation")}
    assert {name for name in ours if "examples" not in schemas[name]} <= {"Toy", "ApplicationStatus"}


def test_a_batch_needs_no_body_because_an_upload_may_have_its_operations(document: Document) -> None:
    if "/batch" in document["paths"]:  # it is not among those for operators
        body = document["paths"]["/batch"]["post"]["requestBody"]
        assert (body["required"], "an `upload`" in body["description"]) == (False, True)


def test_each_post_of_operators_has_a_body_because_it_needs_the_type_of_one(document: Document) -> None:
    """Without keys, the listener answers 415 to a POST that is not JSON, even if it has no options."""
    if document is DOCUMENTS["operators"]:
        for post in (methods["post"] for methods in document["paths"].values() if "post" in methods):
            assert post["requestBody"]["required"], post["operationId"]
            assert list(post["requestBody"]["content"]) == ["application/json"]


def test_each_problem_has_a_valid_example_with_its_status(document: Document) -> None:
    for status, answer in document["components"]["responses"].items():
        [content] = answer["content"].values()
        check(document, content["schema"], content["example"])
        assert content["example"]["status"] == int(status)
