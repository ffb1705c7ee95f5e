"""Describes the operations of the application: a schema for each handler's operation, and all their results.

OpenAPI's discriminator is one property, and an operation is known by two: its method and its path. So an operation is
any of these schemas: the method is fixed, and so is the path, or its pattern.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import cleandoc
from itertools import chain, count
from typing import Any

from aiohttp import hdrs
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from penstock.operations import Operations
from penstock.reading.operation_request import OperationRequest
from penstock.route import Route
from penstock.service.openapi.values import REFERENCE, Fragment, PlainSchema, ref, schema_of, with_defaults_in_words

ANY_OPERATION = "OperationRequest"
MOST_EXAMPLES = 3  # operations in the example of a batch
_PLACEHOLDER = re.compile(r"\{\w+(:path)?\}")
_SPECIAL = re.compile(r"([.*+?^$()\[\]{}|\\])")  # in a pattern of JavaScript, whose rules JSON Schema has


@dataclass(frozen=True, slots=True)
class Described:
    """The schemas of an application: those of its operations and types, by name, and those of its results."""

    schemas: Fragment
    operations: Sequence[str]
    results: Sequence[Fragment]

    @property
    def operation(self) -> Fragment:
        """Return the schema of an operation of a batch."""
        names = self.operations or [ANY_OPERATION]
        return ref(names[0]) if len(names) == 1 else {"anyOf": [ref(name) for name in names]}

    @property
    def example_of_batch(self) -> Fragment:
        """Return an example of a BatchRequest, with operations that need no body or whose bodies have an example.

        None of them deletes anything: a person may try the example as it is.
        """
        schemas = [self.schemas[name]["properties"] for name in self.operations if name in self.schemas]
        harmless = (members for members in schemas if members["method"]["const"] != hdrs.METH_DELETE)
        found = [example for members in harmless if (example := self._example(members)) is not None]
        return {"BatchRequest": {"operations": found[:MOST_EXAMPLES]}} if found else {}

    def _example(self, members: Fragment) -> Fragment | None:
        path = members["path"]
        example: Fragment = {"method": members["method"]["const"], "path": path.get("const") or path["examples"][0]}
        if "body" not in members:
            return example
        body = members["body"]
        body = self.schemas[body["$ref"].rpartition("/")[2]] if "$ref" in body else body
        return example | {"body": body["examples"][0]} if "examples" in body else None

    @property
    def result(self) -> Fragment:
        """Return the schema of a result: that of any handler. It is empty for one that does not say it."""
        known = _without_twins(self.results)
        if len(known) > 1:
            return {"anyOf": known}
        return known[0] if known else {}


def describe_handlers(operations: Operations[Any], taken: Iterable[str]) -> Described:
    """Describe all operations. Names in `taken` are those of our own schemas, which keep them."""
    handlers = [route for route in operations.routes if not route.is_forwarded]
    names = _names(handlers)
    bodies, results, types = _types_of(handlers, {*taken, *names.values()})
    schemas = {names[route.name]: _operation(route, bodies[route.name], results[route.name]) for route in handlers}
    forwards = [] if len(handlers) == len(operations.routes) else [ANY_OPERATION]
    of_forwards: list[Fragment] = [{} for _ in forwards]
    return Described(schemas | types, [*schemas, *forwards], [*results.values(), *of_forwards])


def _operation(route: Route, body: Fragment | None, result: Fragment) -> Fragment:
    schema = schema_of(OperationRequest)
    fixed = {"method": {"type": "string", "const": route.method}, "path": _path(route.path)}
    required = ["method", "path"]
    if body is None:
        del schema["properties"]["body"]
    else:
        fixed["body"] = body
        required += ["body"] if route.signature.body_required else []
    about = cleandoc(route.handler.__doc__ or "").partition("\n\n")[0]
    returned = f"Its result ({route.policy.status}): {_name_of(result)}."
    return schema | {
        "description": " ".join([f"`{route.name}`.", *([about] if about else []), returned]),
        "properties": schema["properties"] | fixed,
        "required": required,
    }


def _name_of(result: Fragment) -> str:
    """Return a few words for a result, for people. Its schema is among the results of an outcome."""
    if "$ref" in result:
        return f"`{result['$ref'].rpartition('/')[2]}`"
    return str(result.get("type", "any JSON value"))


def _path(path: str) -> Fragment:
    if "{" not in path:
        return {"type": "string", "const": path}
    pattern, start = "^", 0
    for match in _PLACEHOLDER.finditer(path):
        pattern += _escaped(path[start : match.start()]) + (".+" if match[1] else "[^/]+")
        start = match.end()
    return {"type": "string", "pattern": f"{pattern}{_escaped(path[start:])}$", "examples": [_example_path(path)]}


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)


def _example_path(path: str) -> str:
    return _PLACEHOLDER.sub("1", path)


def _names(handlers: Sequence[Route]) -> Mapping[str, str]:
    """Return the name of each operation's schema, by the names of the routes: `CreateUserOperation`.

    It comes from the name of the handler's function. Functions of one name are told apart by their method and path.
    """
    functions = {route.name: _pascal(getattr(route.handler, "__name__", "")) for route in handlers}
    counts = Counter(functions.values())
    names: dict[str, str] = {}
    for route in handlers:
        function = functions[route.name]
        name = function if function and counts[function] == 1 else _pascal(f"{route.method.lower()} {route.path}")
        names[route.name] = _free(f"{name}Operation", names.values())
    return names


def _pascal(text: str) -> str:
    return "".join(word[0].upper() + word[1:] for word in re.findall(r"[A-Za-z0-9]+", text))


def _free(name: str, taken: Iterable[str]) -> str:
    """Return the name, with the first number from 2 on that makes it free if it is taken."""
    candidates = chain([name], (f"{name}{number}" for number in count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)


def _types_of(
    handlers: Sequence[Route], taken: Iterable[str]
) -> tuple[dict[str, Fragment | None], dict[str, Fragment], Fragment]:
    """Return the schemas of the bodies and of the results, by the names of the routes, and the types that they use.

    A handler without a body has None there. A type that JSON Schema cannot describe is an empty schema.
    """
    bodies = {
        route.name: route.signature.body_validator.adapter
        for route in handlers
        if route.signature.body_validator is not None
    }
    results = {route.name: adapter for route in handlers if (adapter := route.result_adapter()) is not None}
    wanted: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [
        *((name, "validation", adapter) for name, adapter in bodies.items() if _is_describable(adapter, "validation")),
        *((name, "serialization", one) for name, one in results.items() if _is_describable(one, "serialization")),
    ]
    found, types = TypeAdapter.json_schemas(wanted, ref_template=REFERENCE + "{model}", schema_generator=PlainSchema)
    names = _without_clashes(types.get("$defs", {}), taken)
    types = with_defaults_in_words(types)
    return (
        {
            route.name: _renamed(found.get((route.name, "validation"), {}), names) if route.name in bodies else None
            for route in handlers
        },
        {route.name: _renamed(found.get((route.name, "serialization"), {}), names) for route in handlers},
        {names[name]: _renamed(schema, names) for name, schema in types.get("$defs", {}).items()},
    )


def _is_describable(adapter: TypeAdapter[Any], mode: JsonSchemaMode) -> bool:
    try:
        adapter.json_schema(mode=mode, schema_generator=PlainSchema)
    except Exception:  # noqa: BLE001 - types of the application may describe themselves, and all else is still described
        return False
    return True


def _without_clashes(types: Iterable[str], taken: Iterable[str]) -> Mapping[str, str]:
    """Return a new name for each type of the application. It differs only if one of our schemas has that name."""
    used = set(taken)
    return {name: f"Application{name}" if name in used else name for name in types}


def _renamed(part: Any, names: Mapping[str, str]) -> Any:
    """Return a copy of a schema with the new names of the types, also in the mapping of a discriminator."""
    match part:
        case str() if part.startswith(REFERENCE) and (name := part.removeprefix(REFERENCE)) in names:
            return REFERENCE + names[name]
        case dict():
            return {key: _renamed(value, names) for key, value in part.items()}
        case list():
            return [_renamed(one, names) for one in part]
    return part


def _without_twins(schemas: Iterable[Fragment]) -> list[Fragment]:
    found: list[Fragment] = []
    for schema in schemas:
        if schema not in found:
            found.append(schema)
    return found
