"""Puts the document together: the paths of each family of endpoints, and the components that these use."""

from collections.abc import Iterator, Mapping
from typing import Any

from penstock.api_key import Scope
from penstock.distribution import installed_version
from penstock.operations import Operations
from penstock.service.openapi import batches, headers, health, keys, operators, submitting, webhooks
from penstock.service.openapi.answers import add_headers, problems
from penstock.service.openapi.problems import SCHEMAS as PROBLEM_SCHEMAS
from penstock.service.openapi.problems import problem_responses
from penstock.service.openapi.values import Fragment, ref, schemas_of
from penstock.settings import Settings

_KEY = "key"
_SECURITY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key. The roles of an operation are the scopes that the key needs.",
}
_REQUESTS = (*submitting.REQUESTS, *batches.REQUESTS, *webhooks.REQUESTS, *keys.REQUESTS, *operators.REQUESTS)
_SCHEMAS: Fragment = {
    **PROBLEM_SCHEMAS,
    **submitting.SCHEMAS,
    **batches.SCHEMAS,
    **webhooks.SCHEMAS,
    **keys.SCHEMAS,
    **operators.SCHEMAS,
    **health.SCHEMAS,
}
_PARAMETERS: Fragment = {
    **headers.PARAMETERS,
    **submitting.PARAMETERS,
    **batches.PARAMETERS,
    **webhooks.PARAMETERS,
    **keys.PARAMETERS,
    **operators.PARAMETERS,
}

Scopes = Mapping[tuple[str, str], Scope]  # by method and path


def describe(settings: Settings, operations: Operations[Any], scopes: Scopes) -> Fragment:
    """Describe what clients and load balancers use. If requests need a key, operators use this listener, too."""
    about = "A bulk API: one request, many operations, exact counts."
    for_operators = _paths_for_operators() if settings.needs_keys else {}
    return _document("Penstock", about, for_operators | _paths(settings, operations), settings, scopes)


def describe_for_operators(settings: Settings, scopes: Scopes) -> Fragment:
    """Describe what operators use, on the listener of `--operator-port`."""
    about = "Dead letters, keys, limits, queues and metrics. They are on a listener of their own."
    return _document("Penstock for operators", about, _paths_for_operators(), settings, scopes)


def _paths(settings: Settings, operations: Operations[Any]) -> Fragment:
    return {
        **_limited(submitting.paths(settings, operations) | batches.paths()),
        **webhooks.paths(),
        **health.paths(),
    }


def _paths_for_operators() -> Fragment:
    return {
        **batches.paths_for_operators(),
        **keys.paths_for_operators(),
        **webhooks.paths_for_operators(),
        **operators.paths_for_operators(),
        **health.paths_for_operators(),
    }


def _limited(paths: Fragment) -> Fragment:
    """Add the headers that say what is left of the caller's quota. They are also in the answers that are problems."""
    for endpoint in (endpoint for methods in paths.values() for endpoint in methods.values()):
        for answer in (answer for answer in endpoint["responses"].values() if "$ref" not in answer):
            add_headers(answer, "RateLimit-Policy", "RateLimit")
    return paths


def _document(title: str, description: str, paths: Fragment, settings: Settings, scopes: Scopes) -> Fragment:
    for path, methods in paths.items():
        for method, endpoint in methods.items():
            _add_security(endpoint, scopes.get((method.upper(), path)), settings)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": installed_version(), "description": description},
        "paths": paths,
        "components": _components_of(paths, settings),
    }


def _add_security(endpoint: Fragment, scope: Scope | None, settings: Settings) -> None:
    """Say which scope a key needs for an endpoint, and whether the endpoint can be used without a key."""
    if scope is None:
        endpoint["security"] = []
        return
    endpoint["security"] = [{_KEY: [scope]}, *([] if settings.needs_keys else [{}])]
    endpoint["responses"] |= problems(401, 403)


def _components_of(paths: Fragment, settings: Settings) -> Fragment:
    """Return the components that these paths use, and those that these use in turn."""
    components: Fragment = {
        "schemas": _request_schemas(settings) | _SCHEMAS,
        "parameters": _PARAMETERS,
        "headers": headers.HEADERS,
        "responses": problem_responses(),
    }
    used: set[tuple[str, str]] = set()
    unread = list(_references(paths))
    while unread:
        kind, name = unread.pop()
        if (kind, name) not in used:
            used.add((kind, name))
            unread += _references(components[kind][name])
    needed = {kind: {name: parts[name] for name in parts if (kind, name) in used} for kind, parts in components.items()}
    return {**needed, "securitySchemes": {_KEY: _SECURITY_SCHEME}}


def _references(part: Any) -> Iterator[tuple[str, str]]:
    """Yield the kind and the name of each component that a part of the document refers to."""
    match part:
        case {"$ref": str(reference)}:
            kind, name = reference.removeprefix("#/components/").split("/")
            yield kind, name
        case dict():
            for member in part.values():
                yield from _references(member)
        case list():
            for member in part:
                yield from _references(member)


def _request_schemas(settings: Settings) -> Fragment:
    schemas = schemas_of(*_REQUESTS)
    schemas["BatchRequest"]["properties"]["operations"] |= {
        "items": ref("OperationRequest"),
        "maxItems": settings.max_operations,
    }
    return schemas
