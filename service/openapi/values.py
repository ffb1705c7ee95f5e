"""The words that describe a value as JSON Schema."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import to_json

Fragment = dict[str, Any]
"""A part of the document."""

REFERENCE = "#/components/schemas/"
TEXT: Fragment = {"type": "string"}
OPTIONAL_TEXT: Fragment = {"type": ["string", "null"]}
INTEGER: Fragment = {"type": "integer"}
COUNT: Fragment = {"type": "integer", "minimum": 0}
MOST: Fragment = {"type": ["integer", "null"], "minimum": 1}
RATE: Fragment = {"type": ["number", "null"], "minimum": 0}
TIME: Fragment = {"type": ["string", "null"], "format": "date-time"}


def ref(schema: str) -> Fragment:
    return {"$ref": REFERENCE + schema}


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
    """Return the schema of the bodies that a model validates. The models of its members are components, too."""
    template = REFERENCE + "{model}"
    schema = model.model_json_schema(by_alias=True, ref_template=template, schema_generator=PlainSchema)
    described: Fragment = with_defaults_in_words(schema)
    return {key: value for key, value in described.items() if key not in {"title", "$defs"}}


def schema_of_changes(model: type[BaseModel]) -> Fragment:
    """Return the schema of a body in which every member is a change: one that is absent has no default."""
    schema = model.model_json_schema(by_alias=True, schema_generator=PlainSchema)
    members = {name: _without_default(member) for name, member in schema["properties"].items()}
    return {key: value for key, value in schema.items() if key != "title"} | {"properties": members}


def with_defaults_in_words(part: Any) -> Any:
    """Return a copy of a schema in which the descriptions have the defaults of members.

    Generators of clients make a member with a default one that a client must give, or one that it always sends.
    """
    match part:
        case {"properties": dict(members), **others}:
            described = {name: _with_default_in_words(with_defaults_in_words(one)) for name, one in members.items()}
            return {"properties": described} | {key: with_defaults_in_words(one) for key, one in others.items()}
        case dict():
            return {key: with_defaults_in_words(one) for key, one in part.items()}
        case list():
            return [with_defaults_in_words(one) for one in part]
    return part


def _with_default_in_words(member: Any) -> Any:
    if not isinstance(member, dict) or member.get("default") is None:
        return _without_default(member)
    words = [member["description"]] if "description" in member else []
    default = to_json(member["default"]).decode()
    return _without_default(member) | {"description": " ".join([*words, f"The default is `{default}`."])}


def _without_default(member: Any) -> Any:
    return {key: one for key, one in member.items() if key != "default"} if isinstance(member, dict) else member
