"""The words that describe a value as JSON Schema."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

Fragment = dict[str, Any]
"""A part of the document."""

TEXT: Fragment = {"type": "string"}
OPTIONAL_TEXT: Fragment = {"type": ["string", "null"]}
INTEGER: Fragment = {"type": "integer"}
COUNT: Fragment = {"type": "integer", "minimum": 0}
MOST: Fragment = {"type": ["integer", "null"], "minimum": 1}
RATE: Fragment = {"type": ["number", "null"], "minimum": 0}
TIME: Fragment = {"type": ["string", "null"], "format": "date-time"}


def ref(schema: str) -> Fragment:
    return {"$ref": f"#/components/schemas/{schema}"}


def object_of(required: Fragment, optional: Fragment | None = None) -> Fragment:
    return {"type": "object", "required": list(required), "properties": required | (optional or {})}


def one_of(values: Iterable[str]) -> Fragment:
    return {"type": "string", "enum": list(values)}


def list_of(schema: Fragment) -> Fragment:
    return {"type": "array", "items": schema}


def with_members(schema: Fragment, **members: Fragment) -> Fragment:
    """Return a copy of the schema of an object in which these members have other schemas."""
    return {**schema, "properties": {**schema["properties"], **members}}


def with_example(schema: Fragment, example: Any) -> Fragment:
    return schema if example is None else {**schema, "examples": [example]}


class PlainSchema(GenerateJsonSchema):
    """Leaves out titles, which only repeat the names, and what JSON Schema cannot say, without a warning."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default", "skipped-discriminator"}  # noqa: RUF012

    def field_title_should_be_set(self, _schema: Any) -> bool:
        return False


def schema_of(model: type[BaseModel]) -> Fragment:
    """Return the schema of the bodies that a model validates."""
    schema = model.model_json_schema(by_alias=True, schema_generator=PlainSchema)
    return {key: value for key, value in schema.items() if key != "title"}


def schema_of_changes(model: type[BaseModel]) -> Fragment:
    """Return the schema of a body in which every member is a change: one that is absent has no default."""
    schema = schema_of(model)
    members = schema["properties"].items()
    return with_members(schema, **{name: {key: one[key] for key in one if key != "default"} for name, one in members})
