"""Reads one operation as a client wrote it, and validates it with the model of its handler. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from pydantic import ValidationError
from pydantic_core import to_json

from penstock.documents.finite import TOO_LARGE, pointer_to_not_finite
from penstock.documents.pointer import pointer
from penstock.documents.validation import errors_of, is_large
from penstock.errors import Flaw
from penstock.files.rejected import is_rejected_file, without_added
from penstock.reading.flaws import to_flaw, without_most_unknown_members
from penstock.reading.link_reader import NO_REFERENCES
from penstock.reading.operation_request import OperationRequest, ReferenceRequest, read_plain_operation
from penstock.route import InvalidOperation, Route, UnknownOperation

# Does the same as `model_validate` at a lower cost.
_validate_request: Callable[[Any], OperationRequest] = OperationRequest.__pydantic_validator__.validate_python


class ReadOperation(Struct, frozen=True):
    """An operation that is accepted. `body` is its body as JSON, and `value` the same as a value.

    Its route is None if there is no handler and no forward for it.
    """

    method: str
    path: str
    value: Any
    body: bytes
    key: str | None
    route: Route | None
    depends_on: Sequence[str] = ()
    group: str | None = None
    references: Mapping[str, ReferenceRequest] = NO_REFERENCES

    @property
    def has_links(self) -> bool:
        return bool(self.depends_on or self.references) or self.group is not None


class OperationReader:
    """`read` returns an operation, or its errors. Their pointers start at the operation.

    If there may be more errors than those that were returned so far, `is_complete` is False.
    """

    def __init__(self, match: Callable[[str, str], Route], *, shows_errors: bool) -> None:
        self.accepts_invalid = False  # True: a body or a path parameter may be invalid. Then the operation will fail
        self.accepts_unknown = False  # True: there may be no operation with this method and path. Then it will fail
        self.invalid_accepted = 0  # operations that will fail, because they are accepted nevertheless
        self.is_complete = True
        self._match = match
        self._shows_errors = shows_errors

    def read(self, document: Any) -> ReadOperation | list[Flaw]:
        body = b""
        try:
            depends_on: Sequence[str] = ()
            group: str | None = None
            references: Mapping[str, ReferenceRequest] = NO_REFERENCES
            if (plain := read_plain_operation(document)) is not None:
                method, path, value, has_body, key = plain
            else:
                request = self._validate(document)
                method, path, value, key = request.method, request.path, request.body, request.key
                has_body, depends_on = "body" in request.model_fields_set, request.depends_on
                group, references = request.group, request.references
                _check_places(path, references)
            route = self._find(method, path)
            if not has_body and route is not None and route.absent_body is not None:
                value = route.absent_body
            body = to_json(value)
            if (place := pointer_to_not_finite(value, body)) is not None:
                raise InvalidOperation([Flaw("/body" + place, TOO_LARGE)])
            if route is not None:
                self._check_arguments(route, path, value, body, has_body=has_body, open_=references)
        except ValidationError as error:
            return [to_flaw(one, document) for one in errors_of(error)]
        except InvalidOperation as error:
            self.is_complete &= not is_large(body)
            return list(error.flaws)
        return ReadOperation(method, path, value, body, key, route, depends_on, group, references)

    def read_valid(self, document: Any) -> tuple[str, str, bytes, str | None]:
        """Return the method, the path, the body and the key of an operation that was read before, and was valid."""
        if (plain := read_plain_operation(document)) is not None:
            method, path, value, has_body, key = plain
        else:
            request = self._validate(document)
            method, path, value, key = request.method, request.path, request.body, request.key
            has_body = "body" in request.model_fields_set
        if not has_body and (route := self._find(method, path)) is not None:
            value = route.absent_body
        return method, path, to_json(value), key

    def _find(self, method: str, path: str) -> Route | None:
        try:
            return self._match(method, path)
        except UnknownOperation:
            if not self.accepts_unknown:
                raise
            self.invalid_accepted += 1
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
            self.invalid_accepted += 1

    def _validate(self, document: Any) -> OperationRequest:
        """Return an operation as Pydantic reads it. Raises ValidationError."""
        if isinstance(document, dict) and is_rejected_file(document):
            document = without_added(document)
        cut = without_most_unknown_members(document, OperationRequest)
        self.is_complete &= cut is document
        return _validate_request(cut)


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
    match = route.pattern.fullmatch(path) if places else None
    texts = match.groupdict() if match else {}
    unknown = tuple(f"{name}: " for name, text in texts.items() if any(place in text for place in places))
    return [flaw for flaw in flaws if flaw.pointer != "/path" or not flaw.detail.startswith(unknown)]
