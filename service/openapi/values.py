"""The words that describe a value as JSON Schema."""

from typing import Any

from pydantic import BaseModel

Fragment = dict[str, Any]
"""A part of the document."""

TEXT: Fragment = {"type": "string"}
OPTIONAL_TEXT: Fragment = {"type": ["string", "null"]}
COUNT: Fragment = {"type": "integer", "minimum": 0}
MOST: Fragment = {"type": ["integer", "null"], "minimum": 1}
RATE: Fragment = {"type": ["number", "null"], "minimum": 0}
TIME: Fragment = {"type": ["string", "null"], "format": "date-time"}


def ref(schema: str) -> Fragment:
    return {"$ref": f"#/components/schemas/{schema}"}


def object_of(required: Fragment, optional: Fragment | None = None) -> Fragment:
    return {"type": "object", "required": list(required), "properties": required | (optional or {})}


def list_of(schema: Fragment) -> Fragment:
    return {"type": "array", "items": schema}


def schemas_of(*models: type[BaseModel]) -> Fragment:
    """Return the schemas of the bodies that these models validate."""
    return {model.__name__: model.model_json_schema(by_alias=True) for model in models}
