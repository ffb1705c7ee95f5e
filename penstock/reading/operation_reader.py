"""Reads one operation as a client wrote it, and validates it with the model of its handler. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import Struct
from pydantic import ValidationError
from pydantic_core import from_json, to_json

from penstock.documents.finite import TOO_LARGE, pointer_to_not_finite
from penstock.documents.nesting import TOO_DEEP, is_too_deep
from penstock.documents.pointer import pointer
from penstock.documents.validation import errors_of, is_large
from penstock.errors import Flaw
from penstock.files.rejected import is_rejected_file, without_added
from penstock.reading.flaws import to_flaw, without_most_unknown_members
from penstock.reading.link_reader import NO_REFERENCES
from penstock.reading.operation_request import OperationRequest, PlainParts, ReferenceRequest, read_plain_operation
from penstock.reading.raw_operation import Columns, RawOperation, to_columns
from penstock.route import InvalidOperation, Route, UnknownOperation

_NULL = b"null"
_NO_BODIES = (b"", _NULL)

# Does the same as `model_validate` at a lower cost.
_validate_request: Callable[[Any], OperationRequest] = OperationRequest.__pydantic_validator__.validate_python


class ReadOperation(Struct, frozen=True):
    """An operation that is accepted. `body` is its body as JSON.

    Its route is None if there is no handler and no forward for it.
    """

    method: str
    path: str
    body: bytes
    key: str | None
    route: Route | None
    depends_on: Sequence[str] = ()
    group: str | None = None
    references: Mapping[str, ReferenceRequest] = NO_REFERENCES
    has_links: bool = False

    @property
    def value(self) -> Any:
        """Return the body as a JSON value."""
        return from_json(self.body)


class UsualOperations(NamedTuple):
    """Several operations that are accepted. They have bodies, which are JSON, but no keys and no links."""

    columns: Columns
    routes: Sequence[Route]


class OperationReader:
    """`read` returns an operation, or its errors. Their pointers start at the operation.

    If there may be more errors than those that were returned so far, `is_complete` is False.
    """

    def __init__(self, match: Callable[[str, str], Route], *, shows_errors: bool) -> None:
        self.accepts_invalid = False  # True: a body or a path parameter may be invalid. Then the operation will fail
        self.accepts_unknown = False  # True: there may be no operation with this method and path. Then it will fail
        self.invalid_accepted = 0  # operations that will fail, because they are accepted nevertheless
        self.is_complete = True
        self._tries_raw = True
        self._routes: dict[tuple[str, str], Route] = {}
        self._match = match
        self._shows_errors = shows_errors

    def read(self, document: Any) -> ReadOperation | list[Flaw]:
        """Read an operation: a RawOperation, or a JSON value."""
        if type(document) is RawOperation:
            if self._tries_raw and (raw := self._read_raw(document)) is not None:
                return raw
            document = document.value
        read = self._read_value(document)
        self._tries_raw = isinstance(read, ReadOperation)  # if an operation is invalid, the next one often is, too
        return read

    def read_usual(self, operations: Sequence[Any], *, with_forwards: bool = True) -> UsualOperations | None:
        """Read several operations at once. Return None if one of them must be read by itself: it may be invalid.

        `to_columns` has the other reasons. Unless `with_forwards`, a forward is one, too.
        """
        columns = to_columns(operations) if self._tries_raw else None
        if columns is None:
            return None
        known = self._routes
        pairs = zip(columns.methods, columns.paths, strict=True)
        routes = [route for pair in pairs if (route := known.get(pair) or self._remember(*pair)) is not None]
        if len(routes) < len(operations) or (not with_forwards and any(route.is_forwarded for route in routes)):
            return None
        is_valid = _are_valid(routes, columns.paths, columns.bodies)
        return UsualOperations(columns, routes) if is_valid else None

    def _read_raw(self, operation: RawOperation) -> ReadOperation | list[Flaw] | None:
        """Read an operation without parsing its body. Return None if it must be parsed, since it may be invalid."""
        method, path, key = operation.method, operation.path, operation.key
        if not (key is None or (key.isascii() and key.isprintable())):
            return None
        if operation.has_links:
            return self._read_linked(operation)
        route = self._routes.get((method, path)) or self._remember(method, path)
        if route is None:
            return None
        body = operation.content
        if body in _NO_BODIES:
            return self._check((method, path, None, bool(body), key), route, None)
        return ReadOperation(method, path, body, key, route) if route.is_valid_operation(path, body) else None

    def _read_linked(self, operation: RawOperation) -> ReadOperation | None:
        """Read an operation that may have links. Return None if it must be parsed."""
        try:
            links = _validate_request(operation.without_body)
            _check_places(links.path, links.references)
            route = self._match(links.method, links.path)
        except (ValidationError, InvalidOperation):
            return None
        body = operation.content
        if body in _NO_BODIES or not route.is_valid_operation(links.path, body):
            return None
        return ReadOperation(links.method, links.path, body, links.key, route, *_fields_of(links))

    def _remember(self, method: str, path: str) -> Route | None:
        """Return the route of an operation, if it has one. Remember it if its path has no parameters."""
        try:
            route = self._match(method, path)
        except InvalidOperation:
            return None
        if route.path == path:
            self._routes[method, path] = route
        return route

    def _read_value(self, document: Any) -> ReadOperation | list[Flaw]:
        links: OperationRequest | None = None
        try:
            if (parts := read_plain_operation(document)) is None:
                links = self._validate(document)
                parts = _parts_of(links)
                _check_places(links.path, links.references)
            route = self._find(*parts[:2])
        except ValidationError as error:
            return [to_flaw(one, document) for one in errors_of(error)]
        except InvalidOperation as error:
            return list(error.flaws)
        return self._check(parts, route, links)

    def _check(
        self, parts: PlainParts, route: Route | None, links: OperationRequest | None
    ) -> ReadOperation | list[Flaw]:
        method, path, value, has_body, key = parts
        if not has_body and route is not None and route.absent_body is not None:
            value = route.absent_body
        body = _NULL if value is None else to_json(value)
        try:
            if value is not None and (place := pointer_to_not_finite(value, body)) is not None:
                raise InvalidOperation([Flaw("/body" + place, TOO_LARGE)])
            if route is None:
                self._accept_invalid(value, body)
            else:
                open_ = () if links is None else links.references
                self._check_arguments(route, path, value, body, has_body=has_body, open_=open_)
        except InvalidOperation as error:
            self.is_complete &= not is_large(body)
            return list(error.flaws)
        return ReadOperation(method, path, body, key, route, *_fields_of(links))

    def read_valid(self, document: Any) -> tuple[str, str, bytes, str | None]:
        """Return the method, the path, the body and the key of an operation that was read before, and was valid."""
        parts = read_plain_operation(document) or _parts_of(self._validate(document))
        method, path, value, has_body, key = parts
        if not has_body and (route := self._find(method, path)) is not None:
            value = route.absent_body
        return method, path, to_json(value), key

    def _find(self, method: str, path: str) -> Route | None:
        try:
            return self._match(method, path)
        except UnknownOperation:
            if not self.accepts_unknown:
                raise
            return None

    def _check_arguments(
        self, route: Route, path: str, value: Any, body: bytes, *, has_body: bool, open_: Iterable[str]
    ) -> None:
        """Check an operation with the types of its handler. `open_` are the placeholders in its path."""
        try:
            try:
                route.arguments(path, value, body, shows_errors=self._shows_errors)
            except InvalidOperation as error:
                if flaws := _without_open(error.flaws, route, path, open_):
                    raise InvalidOperation(flaws) from error
            if value is None and not has_body:
                route.check_body_is_given()
        except InvalidOperation:
            if not self.accepts_invalid:
                raise
            self._accept_invalid(value, body)

    def _accept_invalid(self, value: Any, body: bytes) -> None:
        """Count an operation that will fail. Raise InvalidOperation if consumers could not even read its body."""
        if is_too_deep(value, body):
            raise InvalidOperation([Flaw("/body", TOO_DEEP)])
        self.invalid_accepted += 1

    def _validate(self, document: Any) -> OperationRequest:
        """Return an operation as Pydantic reads it. Raises ValidationError."""
        if isinstance(document, dict) and is_rejected_file(document):
            document = without_added(document)
        cut = without_most_unknown_members(document, OperationRequest)
        self.is_complete &= cut is document
        return _validate_request(cut)


def _are_valid(routes: Sequence[Route], paths: Sequence[str], bodies: Sequence[bytes]) -> bool:
    """Return True if operations with these bodies are valid. Usually, all have the same route."""
    first = routes[0]
    if all(route is first for route in routes):
        return first.are_valid_operations(paths, bodies)
    parts = zip(routes, paths, bodies, strict=True)
    return all(route.is_valid_operation(path, body) for route, path, body in parts)


def _parts_of(request: OperationRequest) -> PlainParts:
    return request.method, request.path, request.body, "body" in request.model_fields_set, request.key


def _fields_of(links: OperationRequest | None) -> tuple[Any, ...]:
    """Return the fields of a ReadOperation that say what it needs of others."""
    if links is None:
        return ()
    has_links = bool(links.depends_on or links.references) or links.group is not None
    return links.depends_on, links.group, links.references, has_links


def _check_places(path: str, references: Mapping[str, ReferenceRequest]) -> None:
    """Raise InvalidOperation unless each reference has one place in the path."""
    flaws = [
        Flaw(pointer("references", name), f"The path must have {{{name}}} once.")
        for name in references
        if path.count(f"{{{name}}}") != 1
    ]
    if flaws:
        raise InvalidOperation(flaws)


def _without_open(flaws: Sequence[Flaw], route: Route, path: str, open_: Iterable[str]) -> list[Flaw]:
    """Return the errors without those of path parameters whose value is not known yet."""
    places = [f"{{{name}}}" for name in open_]
    texts = (route.pattern.match(path) or {}) if places else {}
    unknown = tuple(f"{name}: " for name, text in texts.items() if any(place in text for place in places))
    return [flaw for flaw in flaws if flaw.pointer != "/path" or not flaw.detail.startswith(unknown)]
