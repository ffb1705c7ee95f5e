"""Turns a batch of OData into operations. Pure.

A request may only refer to requests before it. So one pass over them is enough.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from penstock.documents.pointer import pointer
from penstock.documents.validation import errors_of
from penstock.errors import Flaw, InvalidRequest
from penstock.reading.flaws import Flaws, to_flaw
from penstock.reading.operation_request import MOST_REFERENCES
from penstock.route import Route
from penstock.service.dialects.odata.request_object import RequestObject, faults_of, not_offered_of
from penstock.service.dialects.odata.urls import ServiceRoot, read_url, with_keys_as_segments

KEYS = ["id", "Id", "ID"]  # in what a POST returns. They continue its URL
URLS = ("@odata.id", "@odata.editLink", "@id", "@editLink")  # in what it returns: where it is itself
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]+")
FindRoute = Callable[[str, str], Route | None]
"""Returns the route of a method and a path, or None."""


class NotOffered(Exception):
    """A valid batch asks for something that is not offered here. `flaws` says for what."""

    def __init__(self, flaws: list[Flaw], count: int) -> None:
        super().__init__("The batch asks for something that is not offered here; nothing was run.")
        self.flaws = flaws
        self.count = count


@dataclass(frozen=True, slots=True)
class Seen:
    """An earlier request: its operation, and the path of what it creates or returns.

    The key of what a POST creates is known only when it has run. So the path has a placeholder for it: /users/{new}.
    """

    operation_id: str
    group: str | None
    path: str
    references: Mapping[str, dict[str, Any]]


class Translation:
    """A batch while it is translated. Call `add` for each request in its order, and then `finish`."""

    def __init__(self, root: ServiceRoot, find_route: FindRoute, *, stops_at_error: bool = False) -> None:
        self.operations: list[dict[str, Any]] = []
        self._root = root
        self._find_route = find_route
        self._stops_at_error = stops_at_error
        self._requests: dict[str, Seen] = {}
        self._groups: dict[str, str] = {}  # to the operation of the last member so far
        self._last: Seen | None = None
        self._flaws = Flaws()
        self._not_offered = 0

    def add(self, index: int, document: Any) -> None:
        """Add the next request of the batch. If very many errors were found, it is not read any more."""
        if self._flaws.is_full:
            return None
        if not isinstance(document, dict):
            return self._note(index, "", "A request is a JSON object.")
        try:
            request = RequestObject.model_validate(document)
        except ValidationError as error:
            for one in errors_of(error):
                flaw = to_flaw(one, document)
                self._note(index, flaw.pointer.removeprefix("/"), flaw.detail)
            return self._remember_name(document)
        found = self._flaws.count
        for where, detail in faults_of(request):
            self._note(index, where, detail)
        for where, detail in not_offered_of(request):
            self._note_not_offered(index, where, detail)
        self._check_names(index, request)
        dependencies = self._dependencies(index, request)
        path, references = self._path(index, request, dependencies)
        if self._flaws.count == found:
            self.operations.append(_operation(request, path, references, list(dependencies)))
        return self._remember(index, request, path, references)

    def finish(self) -> None:
        """Raise InvalidRequest or NotOffered if the batch cannot be translated."""
        if self._flaws.count > self._not_offered:
            raise InvalidRequest(self._flaws.listed, self._flaws.count)
        if self._flaws.count:
            raise NotOffered(self._flaws.listed, self._flaws.count)

    def _note(self, index: int, where: str, detail: str) -> None:
        place = pointer("requests", index) + (f"/{where}" if where else "")
        self._flaws.add(index, Flaw(place, detail))

    def _note_not_offered(self, index: int, where: str, detail: str) -> None:
        self._not_offered += 1
        self._note(index, where, detail)

    def _check_names(self, index: int, request: RequestObject) -> None:
        if request.id in self._requests:
            self._note(index, "id", f"An earlier request has the same id {request.id!r}. Ids must be unique.")
        if request.id in self._groups or request.id == request.group:
            self._note(index, "id", f"The id {request.id!r} is also the name of a group. Use another id.")
        group = request.group
        if group is None:
            return
        if group in self._requests:
            self._note(index, "atomicityGroup", f"The group {group!r} is also the id of a request. Use another name.")
        if group in self._groups and (self._last is None or self._last.group != group):
            detail = f"The requests of the group {group!r} are not next to each other. Move them together."
            self._note(index, "atomicityGroup", detail)

    def _dependencies(self, index: int, request: RequestObject) -> dict[str, None]:
        """Return the operations that a request depends on. Members of its own group run before it in any case."""
        found: dict[str, None] = {}
        for position, name in enumerate(request.depends_on or ()):
            seen = self._requests.get(name)
            if seen is None and name not in self._groups:
                detail = f"No request before this one has the id or the group {name!r}."
                self._note(index, f"dependsOn/{position}", detail)
            elif name == request.group:
                self._note(index, f"dependsOn/{position}", "A request cannot depend on its own group.")
            elif seen is None:
                found[self._groups[name]] = None
            elif seen.group is None or seen.group != request.group:
                found[seen.operation_id] = None
        last = self._last
        if self._stops_at_error and last is not None and (last.group is None or last.group != request.group):
            found[last.operation_id] = None
        return found

    def _path(
        self, index: int, request: RequestObject, dependencies: dict[str, None]
    ) -> tuple[str, Mapping[str, dict[str, Any]]]:
        """Return the path of a request with its references. Note why if there is none.

        If it refers to another request, that becomes one of its dependencies, unless both are in the same group.
        """
        try:
            target = read_url(request.url, self._root)
        except ValueError as error:
            self._note(index, "url", str(error))
            return "", {}
        base = ""
        references: Mapping[str, dict[str, Any]] = {}
        if target.reference is not None:
            seen = self._requests.get(target.reference)
            if seen is None:
                self._note(index, "url", f"No request before this one has the id {target.reference!r}.")
                return "", {}
            base, references = seen.path, seen.references
            if seen.group is None or seen.group != request.group:
                dependencies[seen.operation_id] = None
        if len(references) > MOST_REFERENCES:
            chain = f"It continues a chain of {len(references)} requests that create something."
            self._note(index, "url", f"{chain} The limit is {MOST_REFERENCES}.")
        path = base + self._with_route(request.method, base, target.path)
        self._check_query(index, path, request.method)
        return path, references

    def _with_route(self, method: str, base: str, path: str) -> str:
        """Return the path after `base`, with its keys as segments if only then there is a route for it."""
        if "(" not in path or self._find_route(method, base + path) is not None:
            return path
        with_segments = with_keys_as_segments(path)
        return path if self._find_route(method, base + with_segments) is None else with_segments

    def _check_query(self, index: int, whole: str, method: str) -> None:
        path, mark, _ = whole.partition("?")
        route = self._find_route(method, path) if mark else None
        if route is not None and not route.is_forwarded:
            detail = f"{route.name} has a handler here, which accepts no query. Leave the query out."
            self._note_not_offered(index, "url", detail)

    def _remember(
        self, index: int, request: RequestObject, path: str, references: Mapping[str, dict[str, Any]]
    ) -> None:
        created = path.partition("?")[0]
        if request.method == "POST":
            name = request.id if _PLAIN_NAME.fullmatch(request.id) else f"~{index}"
            created = f"{created}/{{{name}}}"
            references = {**references, name: {"operation": request.operation_id, "member": KEYS}}
        self._last = seen = Seen(request.operation_id, request.group, created, references)
        self._requests.setdefault(request.id, seen)
        if request.group is not None:
            self._groups[request.group] = request.operation_id

    def _remember_name(self, document: dict[str, Any]) -> None:
        """Remember the id of an invalid request, so that what depends on it is not reported, too."""
        if isinstance(given := document.get("id"), str):
            self._requests.setdefault(given, Seen(given, None, "", {}))


def _operation(
    request: RequestObject, path: str, references: Mapping[str, dict[str, Any]], dependencies: list[str]
) -> dict[str, Any]:
    operation: dict[str, Any] = {"id": request.operation_id, "method": request.method, "path": path}
    if request.body is not None:
        operation["body"] = request.body
    if (key := request.header("idempotency-key")) is not None:
        operation["key"] = key
    if dependencies:
        operation["dependsOn"] = dependencies
    if references:
        operation["references"] = references
    if request.group is not None:
        operation["group"] = request.group
    return operation
