"""Puts the document together: the paths of each family of endpoints, and the components that these use."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from penstock.api_key import Scope
from penstock.distribution import installed_version
from penstock.operations import Operations
from penstock.service.openapi import batches, headers, health, keys, operators, submitting, webhooks
from penstock.service.openapi.answers import add_headers, problems
from penstock.service.openapi.examples import EXAMPLES
from penstock.service.openapi.handlers import describe_handlers
from penstock.service.openapi.problems import SCHEMAS as PROBLEM_SCHEMAS
from penstock.service.openapi.problems import problem_responses
from penstock.service.openapi.values import Fragment, with_example, with_members
from penstock.settings import Settings

_INFO = {
    "title": "Penstock",
    "description": """\
A bulk API: one request, many operations, exact counts.

Send a batch with `POST /batch`. A small batch is answered with its results. A larger one runs in the background: follow
its `statusUrl` until the status is final, then read its results. Send an `Idempotency-Key`, so that you can repeat a
request whose answer was lost.

Every error is a problem document (RFC 9457), and every answer has an `X-Request-Id`.""",
}
_INFO_FOR_OPERATORS = {
    "title": "Penstock for operators",
    "description": "Dead letters, keys, limits, queues and metrics. They are on a listener of their own.",
}
_KEY = "key"
_SECURITY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key. The roles of an operation are the scopes that the key needs.",
}
_COMPONENT = re.compile(r"#/components/(\w+)/([\w.-]+)")
_TAGS = (submitting.TAG, batches.TAG, webhooks.TAG, keys.TAG, operators.TAG, health.TAG)
_SCHEMAS: Fragment = {
    **PROBLEM_SCHEMAS,
    **submitting.REQUESTS,
    **submitting.SCHEMAS,
    **batches.REQUESTS,
    **batches.SCHEMAS,
    **webhooks.REQUESTS,
    **webhooks.SCHEMAS,
    **keys.REQUESTS,
    **keys.SCHEMAS,
    **operators.REQUESTS,
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
    for_clients = _paths(settings, operations)
    for_operators = _paths_for_operators() if settings.needs_keys else {}
    paths = {**for_clients, **for_operators, **for_clients}  # what is for both is described for clients
    return _document(_INFO, paths, _schemas(settings, operations), settings, scopes)


def describe_for_operators(settings: Settings, scopes: Scopes) -> Fragment:
    """Describe what operators use, on the listener of `--operator-port`."""
    schemas = _schemas(settings, Operations())
    return _document(_INFO_FOR_OPERATORS, _paths_for_operators(), schemas, settings, scopes)


def _paths(settings: Settings, operations: Operations[Any]) -> Fragment:
    of_batches = _tagged(submitting.TAG, submitting.paths(settings, operations)) | _tagged(batches.TAG, batches.paths())
    return {
        **_limited(of_batches),
        **_tagged(webhooks.TAG, webhooks.paths()),
        **_tagged(health.TAG, health.paths()),
    }


def _paths_for_operators() -> Fragment:
    return {
        **_tagged(batches.TAG, batches.paths_for_operators()),
        **_tagged(keys.TAG, keys.paths_for_operators()),
        **_tagged(webhooks.TAG, webhooks.paths_for_operators()),
        **_tagged(operators.TAG, operators.paths_for_operators()),
        **_tagged(health.TAG, health.paths_for_operators()),
    }


def _tagged(tag: Fragment, paths: Fragment) -> Fragment:
    for endpoint in _endpoints(paths):
        endpoint["tags"] = [tag["name"]]
    return paths


def _endpoints(paths: Fragment) -> Iterator[Fragment]:
    return (endpoint for methods in paths.values() for endpoint in methods.values())


def _limited(paths: Fragment) -> Fragment:
    """Add the headers that say what is left of the caller's quota. They are also in the answers that are problems."""
    for endpoint in _endpoints(paths):
        for answer in (answer for answer in endpoint["responses"].values() if "$ref" not in answer):
            add_headers(answer, "RateLimit-Policy", "RateLimit")
    return paths


def _document(info: Fragment, paths: Fragment, schemas: Fragment, settings: Settings, scopes: Scopes) -> Fragment:
    for path, methods in paths.items():
        for method, endpoint in methods.items():
            _add_security(endpoint, scopes.get((method.upper(), path)), settings)
    used = {tag for endpoint in _endpoints(paths) for tag in endpoint["tags"]}
    return {
        "openapi": "3.1.0",
        "info": {**info, "version": installed_version()},
        "tags": [tag for tag in _TAGS if tag["name"] in used],
        "paths": paths,
        "components": _components_of(paths, schemas),
    }


def _add_security(endpoint: Fragment, scope: Scope | None, settings: Settings) -> None:
    """Say which scope a key needs for an endpoint, and whether the endpoint can be used without a key."""
    if scope is None:
        endpoint["security"] = []
        return
    endpoint["security"] = [{_KEY: [scope]}, *([] if settings.needs_keys else [{}])]
    endpoint["responses"] |= problems(401, 403)


def _components_of(paths: Fragment, schemas: Fragment) -> Fragment:
    """Return the components that these paths use, and those that these use in turn."""
    components: Fragment = {
        "schemas": schemas,
        "parameters": _PARAMETERS,
        "headers": headers.HEADERS,
        "responses": problem_responses(),
    }
    used: set[tuple[str, str]] = set()
    unread = list(_references(paths))
    while unread:
        kind, name = unread.pop()
        if (kind, name) not in used and name in components.get(kind, ()):
            used.add((kind, name))
            unread += _references(components[kind][name])
    needed = {kind: {name: parts[name] for name in parts if (kind, name) in used} for kind, parts in components.items()}
    return {**needed, "securitySchemes": {_KEY: _SECURITY_SCHEME}}


def _references(part: Any) -> Iterator[tuple[str, str]]:
    """Yield the kind and the name of each component that a part of the document refers to."""
    match part:
        case {"$ref": str(reference)} if match := _COMPONENT.fullmatch(reference):
            yield match[1], match[2]
        case dict():
            for member in part.values():
                yield from _references(member)
        case list():
            for member in part:
                yield from _references(member)


def _schemas(settings: Settings, operations: Operations[Any]) -> Fragment:
    """Return all schemas: ours, and those of the application's operations and types."""
    described = describe_handlers(operations, _SCHEMAS)
    request, outcome = _SCHEMAS["BatchRequest"], _SCHEMAS["SucceededOutcome"]
    limits = {"items": described.operation, "maxItems": settings.max_operations}
    ours = _SCHEMAS | {
        "BatchRequest": with_members(request, operations=request["properties"]["operations"] | limits),
        "SucceededOutcome": with_members(outcome, result=outcome["properties"]["result"] | described.result),
    }
    examples = EXAMPLES | described.example_of_batch
    return {name: with_example(schema, examples.get(name)) for name, schema in ours.items()} | described.schemas
