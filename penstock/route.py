"""A route is one kind of operation: its method and path, its handler, and the types in the handler's signature."""

import inspect
import secrets
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import UnionType
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

import msgspec
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import from_json

from penstock.context import Context, Reject, Retry, Throttled
from penstock.documents.nesting import MOST_LEVELS, TOO_DEEP, is_too_deep
from penstock.documents.pointer import pointer_to
from penstock.documents.validation import JsonValidator, errors_of, reject_infinity, sentence_of
from penstock.error_ids import id_of, see_log
from penstock.errors import Flaw, Misconfigured
from penstock.limit import NAME_FORM, is_limit_name
from penstock.path_parameter import decode_rest, decode_segment
from penstock.path_pattern import PLACEHOLDER, REST, PathPattern, read_path
from penstock.surroundings import Surroundings
from penstock.telemetry import Event, get_log

AnyHandler = Callable[..., Any]

DEFAULT_MAX_ATTEMPTS = 3
DEFAULT_TIMEOUT_SECONDS = 60.0
_encode = msgspec.json.Encoder().encode  # of JSON values, in a third of the time that `to_json` takes
_KEY = secrets.token_bytes(16)  # of the ids of validators' failures
MAX_WORDS = 2_000  # characters of a validator's exception


class InvalidOperation(Exception):
    """The operation is invalid, or no handler exists for it. `flaws` point into it: `/path`, `/body/email`."""

    def __init__(self, flaws: list[Flaw]) -> None:
        super().__init__(" ".join(map(_with_member, flaws)))
        self.flaws = flaws

    def __reduce__(self) -> tuple[type["InvalidOperation"], tuple[list[Flaw]]]:
        return type(self), (self.flaws,)  # a process for cpu_bound handlers sends it pickled


class UnknownOperation(InvalidOperation):
    """The application has no handler and no forward for the operation."""


def _with_member(flaw: Flaw) -> str:
    """Return the detail of an error, with the member of the body that has it."""
    member = flaw.pointer.removeprefix("/body/")
    return flaw.detail if member == flaw.pointer else f"{member}: {flaw.detail}"


class Place(StrEnum):
    """The place where a handler runs."""

    LOOP = "loop"  # `async def`
    THREAD = "thread"  # `def`
    PROCESS = "process"  # `def` with `cpu_bound=True`


@dataclass(frozen=True, slots=True)
class Policy:
    """The options of a route: the status of a success, the time limit, and the number of attempts.

    A `bulk` handler performs many operations in one call, at most `max_size`. Its `timeout_seconds` applies to a call.
    `limit` is the name of a limit that all operations of the fleet with this name share.
    """

    status: int = 200
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    cpu_bound: bool = False
    bulk: bool = False
    max_size: int | None = None
    limit: str | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters of a handler, read from its annotations. For a bulk handler, the types are those of the items."""

    path_parameters: Mapping[str, TypeAdapter[Any]]
    body_parameter: str | None = None
    body_validator: JsonValidator | None = None
    body_required: bool = False  # None is no valid body
    body_has_default: bool = False
    absent_body: Any = None  # the default as JSON, if it is not null and null is a valid body
    context_parameter: str | None = None
    rest_parameter: str | None = None  # the path parameter that matches the rest of the path


@dataclass(frozen=True, slots=True)
class Route:
    """One kind of operation: its method, its path and its handler."""

    method: str
    path: str
    handler: AnyHandler
    policy: Policy
    signature: Signature
    pattern: PathPattern
    name: str  # `POST /users/{user_id}`
    place: Place
    surroundings: Surroundings = field(default_factory=Surroundings, kw_only=True)

    is_forwarded: ClassVar[bool] = False  # True if another program does the work, so that no transaction covers it

    @property
    def is_bulk(self) -> bool:
        return self.policy.bulk

    @property
    def has_transaction(self) -> bool:
        """Return True if the handler runs inside the application's transaction."""
        return self.place is Place.LOOP and not self.is_forwarded

    @property
    def shape(self) -> str:
        """Return the path without the names of its parameters. Two routes with the same shape match the same paths."""
        return PLACEHOLDER.sub("{}", REST.sub("/{:path}", self.path))

    @property
    def has_parameters(self) -> bool:
        return bool(self.signature.path_parameters)

    @property
    def has_rest(self) -> bool:
        """Return True if the last path parameter matches the rest of the path."""
        return self.signature.rest_parameter is not None

    def arguments(
        self, path: str, body: Any, content: bytes | None = None, *, shows_errors: bool = False
    ) -> dict[str, Any]:
        """Validate an operation and return the handler's arguments, except the context.

        `content` is the body as JSON, if the caller already has it. Raises InvalidOperation with all errors. With
        `shows_errors`, they have the words of a validator's unexpected exception. Otherwise, only the log has them.
        """
        signature = self.signature
        flaws: list[Flaw] = []
        arguments = self._from_path(path, flaws, shows_errors) if signature.path_parameters else {}
        name, validator = signature.body_parameter, signature.body_validator
        if name is None or validator is None:
            if body is not None:
                flaws.append(Flaw("/body", f"{self.name} accepts no body."))
        elif body is None and signature.body_required:
            flaws.append(self._no_body())
        elif body is not None or not signature.body_has_default or signature.absent_body is not None:
            content = _encode(body) if content is None else content
            if len(content) > MOST_LEVELS and is_too_deep(body, content):
                flaws.append(Flaw("/body", TOO_DEEP))
            else:
                try:
                    # Parsing again gives each attempt a new body, so a handler cannot change that of the next attempt.
                    arguments[name] = validator.validate(content)
                except BaseException as error:  # noqa: BLE001 - a validator failed unexpectedly: the operation must not run
                    flaws += self._flaws_of_body(error, body, shows_errors)
        if flaws:
            raise InvalidOperation(flaws)
        return arguments

    def _flaws_of_body(self, error: BaseException, body: Any, shows_errors: bool) -> list[Flaw]:
        if isinstance(error, ValidationError):
            return [Flaw("/body" + pointer_to(one, body), sentence_of(one)) for one in errors_of(error)]
        return [Flaw("/body", _validator_failure(self.name, error, shows_errors))]

    def is_valid_operation(self, path: str, content: bytes) -> bool:
        """Return True if an operation with a body, which is not null, is valid. `arguments` finds what is wrong.

        `content` is the body as JSON. It must not have too many levels. If it is invalid, validators of the application
        run twice: here, and in `arguments`.
        """
        signature = self.signature
        if signature.body_validator is None or (signature.path_parameters and not self._is_valid_path(path)):
            return False
        try:
            signature.body_validator.check(content)
        except BaseException:  # noqa: BLE001 - `arguments` calls the validator again and reports what it raises
            return False
        return True

    def are_valid_operations(self, paths: Sequence[str], contents: Sequence[bytes]) -> bool:
        """Return True if several operations are valid, each as `is_valid_operation` says."""
        validator = self.signature.body_validator
        if validator is None or self.signature.path_parameters:
            return all(map(self.is_valid_operation, paths, contents))
        try:
            validator.check_all(contents)
        except BaseException:  # noqa: BLE001 - as in `is_valid_operation`
            return False
        return True

    def _is_valid_path(self, path: str) -> bool:
        flaws: list[Flaw] = []
        self._from_path(path, flaws, False)
        return not flaws

    def check_body_is_given(self) -> None:
        """Raise InvalidOperation if an operation must have a body, even if that is null. This one has none."""
        signature = self.signature
        if signature.body_parameter is not None and not signature.body_has_default and not self.is_bulk:
            raise InvalidOperation([self._no_body()])

    @property
    def absent_body(self) -> Any:
        """Return the body with which an operation without a body travels.

        On its way it has null for none. So if null is a body of its own, the default travels instead of none.
        """
        return self.signature.absent_body

    def _no_body(self) -> Flaw:
        return Flaw("/body", f"{self.name} needs a body.")

    def result_adapter(self) -> TypeAdapter[Any] | None:
        """Return the type of a result as the handler's annotation says it, or None if there is none to describe.

        For a bulk handler, this is the type of an item. An item may also be a verdict such as Reject, which is none.
        """
        annotation = _hints(self.handler, self.name).get("return")
        if self.is_bulk:
            annotation = _result_of_each(annotation)
        if annotation is None:
            return None
        try:
            return TypeAdapter(annotation)
        except Exception:  # noqa: BLE001 - a handler may return what Pydantic does not know, and only its description needs this
            return None

    def call(self, arguments: dict[str, Any], context: Context) -> Any:
        """Call the handler and return its result. For a handler on the event loop, this is a coroutine to await."""
        if self.signature.context_parameter is None:
            return self.handler(**arguments)
        return self.handler(**arguments, **{self.signature.context_parameter: context})

    def call_bulk(self, rows: Sequence[dict[str, Any]], contexts: Sequence[Context]) -> Any:
        """Call a bulk handler with many operations: each argument is a list with one item for each operation."""
        lists: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in rows[0]}
        if self.signature.context_parameter is not None:
            lists[self.signature.context_parameter] = list(contexts)
        return self.handler(**lists)

    def _from_path(self, path: str, flaws: list[Flaw], shows_errors: bool) -> dict[str, Any]:
        texts = self.pattern.match(path) or {}
        arguments: dict[str, Any] = {}
        for name, adapter in self.signature.path_parameters.items():
            decode = decode_rest if name == self.signature.rest_parameter else decode_segment
            try:
                text = decode(texts[name])
            except ValueError as error:
                flaws.append(Flaw("/path", f"{name}: {error}"))
                continue
            try:
                arguments[name] = adapter.validate_python(text)
            except ValidationError as error:
                flaws += [Flaw("/path", f"{name}: {sentence_of(one)}") for one in errors_of(error)]
            except BaseException as error:  # noqa: BLE001 - a validator failed unexpectedly: the operation must not run
                flaws.append(Flaw("/path", f"{name}: {_validator_failure(self.name, error, shows_errors)}"))
        return arguments


def build_route(handler: AnyHandler, method: str, path: str, policy: Policy) -> Route:
    """Build the route of a handler. Raises Misconfigured if the path, the policy or the signature is invalid."""
    where = f"{method} {path} ({_name(handler)})"
    check_route(where, path, policy)
    place = _place(handler, where, policy)
    signature = _read_signature(handler, where, PLACEHOLDER.findall(path), bulk=policy.bulk)
    if rest := REST.search(path):
        signature = replace(signature, rest_parameter=rest[1])
    if place is not Place.LOOP:
        _check_needs_no_transaction(handler, where, signature.context_parameter)
    return Route(method, path, handler, policy, signature, read_path(path), f"{method} {path}", place)


def _name(handler: AnyHandler) -> str:
    return f"{handler.__module__}.{handler.__qualname__}" if inspect.isroutine(handler) else repr(handler)


def check_route(where: str, path: str, policy: Policy) -> None:
    """Raise Misconfigured if the path or the policy of a route is invalid. `where` names the route in the message."""
    _check_path(where, path)
    if not 200 <= policy.status <= 299:
        raise Misconfigured(
            f"The status of {where} is {policy.status}. Use a status from 200 to 299; to fail, raise Reject."
        )
    if not policy.timeout_seconds > 0:
        raise Misconfigured(f"The timeout_seconds of {where} is {policy.timeout_seconds}. Use a number above 0.")
    if policy.max_attempts < 1:
        raise Misconfigured(
            f"The max_attempts of {where} is {policy.max_attempts}. Use at least 1, which is the first attempt."
        )
    if policy.bulk and policy.cpu_bound:
        raise Misconfigured(
            f"{where} has both bulk=True and cpu_bound=True. Choose one: a process runs one operation at a time."
        )
    if policy.max_size is not None and not policy.bulk:
        raise Misconfigured(
            f"{where} has max_size without bulk=True. Add bulk=True: max_size limits the operations in one bulk call."
        )
    if policy.max_size is not None and policy.max_size < 1:
        raise Misconfigured(f"The max_size of {where} is {policy.max_size}. Use at least 1.")
    if policy.limit is not None and not is_limit_name(policy.limit):
        raise Misconfigured(f"The limit of {where} is named {policy.limit!r}. Use a name of {NAME_FORM}.")


def _check_path(where: str, path: str) -> None:
    names = PLACEHOLDER.findall(path)
    if not path.startswith("/"):
        raise Misconfigured(f"The path of {where} is invalid. Start it with a slash.")
    if len(set(names)) != len(names) or set("{}") & set(PLACEHOLDER.sub("", path)):
        raise Misconfigured(f"The path of {where} is invalid. Write each path parameter once, as {{name}}.")
    if ":path}" in REST.sub("", path):
        raise Misconfigured(f"The path of {where} is invalid. Write {{name:path}} only at its end, after a slash.")


def _place(handler: AnyHandler, where: str, policy: Policy) -> Place:
    if not inspect.isroutine(handler) or inspect.isasyncgenfunction(handler):
        raise Misconfigured(
            f"The handler of {where} is not a plain function. Write it as `async def` or `def`, and return the result."
        )
    is_async = inspect.iscoroutinefunction(handler)
    if not policy.cpu_bound:
        return Place.LOOP if is_async else Place.THREAD
    if is_async:
        raise Misconfigured(
            f"The handler of {where} is an `async def` with cpu_bound=True. Write it as `def`: it runs in a process "
            "without an event loop."
        )
    if "<" in handler.__qualname__:  # <locals> or <lambda>
        raise Misconfigured(
            f"The handler of {where} is not at the top level of its module. Define it there with `def`: "
            "cpu_bound=True runs it in another process, which imports it by its name."
        )
    return Place.PROCESS


def _check_needs_no_transaction(handler: AnyHandler, where: str, context_parameter: str | None) -> None:
    if context_parameter is None:
        return
    annotation = _hints(handler, where)[context_parameter]
    asked = [argument for argument in _context_arguments(annotation) if argument not in {None, type(None), Any}]
    if asked:
        raise Misconfigured(
            f"The handler of {where} is a `def`, and the application's transaction belongs to the event loop. Write it "
            f"as `async def`, or annotate {context_parameter} as a plain Context and open a separate transaction in it."
        )


def _read_signature(handler: AnyHandler, where: str, names_in_path: list[str], *, bulk: bool = False) -> Signature:
    hints = _hints(handler, where)
    parameters = list(inspect.signature(handler).parameters.values())
    _check_kinds(parameters, where)
    if bulk:
        hints = _hints_for_each(hints, parameters, where)
    contexts = [p.name for p in parameters if _is_context(hints.get(p.name))]
    in_path = [p.name for p in parameters if p.name in names_in_path]
    bodies = [p for p in parameters if p.name not in contexts and p.name not in in_path]
    absent = [name for name in names_in_path if name not in in_path]
    if absent:
        raise Misconfigured(
            f"The handler of {where} has no parameter {absent[0]}, which is in its path. Add the parameter."
        )
    if len(bodies) > 1 or len(contexts) > 1:
        one_too_many = (bodies if len(bodies) > 1 else parameters)[-1].name
        raise Misconfigured(
            f"The handler of {where} has too many parameters: {one_too_many} is one too many. "
            "Besides the path parameters, it may have one body and one Context."
        )
    signature = Signature(
        {name: _adapter(hints.get(name, str), name, where) for name in in_path},
        context_parameter=contexts[0] if contexts else None,
    )
    return _with_body(signature, bodies[0], hints, where, bulk=bulk) if bodies else signature


def _check_kinds(parameters: Sequence[inspect.Parameter], where: str) -> None:
    """Raise Misconfigured if a parameter is positional-only, `*args` or `**kwargs`."""
    for parameter in parameters:
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise Misconfigured(
                f"The parameter {parameter} of the handler of {where} is not supported. Use plain named parameters."
            )


def _with_body(
    signature: Signature, body: inspect.Parameter, hints: dict[str, Any], where: str, *, bulk: bool
) -> Signature:
    """Return the signature with this parameter as its body. Raise Misconfigured if it has no annotation."""
    if body.name not in hints:
        raise Misconfigured(
            f"The parameter {body.name} of {where} has no annotation. Annotate it: bodies are validated with it."
        )
    adapter = _adapter(hints[body.name], body.name, where)
    has_default = not bulk and body.default is not inspect.Parameter.empty
    return replace(
        signature,
        body_parameter=body.name,
        body_validator=JsonValidator(adapter),
        body_required=not has_default and not _accepts_none(adapter),
        body_has_default=has_default,
        absent_body=_absent_body(adapter, body.default) if has_default else None,
    )


def _absent_body(adapter: TypeAdapter[Any], default: Any) -> Any:
    """Return the default as JSON if null is a valid body too. Return None if not, or if it cannot travel as JSON."""
    if default is None or not _accepts_none(adapter):
        return None
    try:
        content = adapter.dump_json(default, warnings="error")
        adapter.validate_json(content)
        return from_json(content)
    except Exception:  # noqa: BLE001 - then an operation without a body and one with null both get the default
        return None


def _hints_for_each(hints: dict[str, Any], parameters: list[inspect.Parameter], where: str) -> dict[str, Any]:
    """Return the type of one item for each parameter of a bulk handler: `NewUser` for `list[NewUser]`."""
    if not parameters:
        raise Misconfigured(
            f"The bulk handler of {where} has no parameter. Add a list of the bodies, or a list of the contexts."
        )
    for_each: dict[str, Any] = {}
    for parameter in parameters:
        annotation = hints.get(parameter.name)
        if get_origin(annotation) not in {list, Sequence} or len(get_args(annotation)) != 1:
            raise Misconfigured(
                f"The parameter {parameter.name} of {where} is not annotated as a list. A bulk handler receives lists "
                "with one item for each operation: annotate it as list[NewUser], list[int] or list[Context]."
            )
        for_each[parameter.name] = get_args(annotation)[0]
    return for_each


def _result_of_each(annotation: Any) -> Any:
    """Return `User` for `list[User | Reject]`."""
    [each] = get_args(annotation) if get_origin(annotation) in {list, Sequence} else [None]
    members = get_args(each) if get_origin(each) in {Union, UnionType} else [each]
    results = tuple(one for one in members if one not in {Reject, Retry, Throttled})
    return Union[results] if results else None  # noqa: UP007 - the members are known at run time only


def _accepts_none(adapter: TypeAdapter[Any]) -> bool:
    """Return True if None is valid, so that an operation may have no body."""
    try:
        adapter.validate_python(None)
    except BaseException:  # noqa: BLE001 - a validator that fails unexpectedly does not accept None either
        return False
    return True


def _hints(handler: AnyHandler, where: str) -> dict[str, Any]:
    try:
        return get_type_hints(handler, include_extras=True)
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        raise Misconfigured(
            f"A type in the annotations of {where} cannot be resolved: {error}. Define or import it in the module."
        ) from error


def _is_context(annotation: Any) -> bool:
    """Return True for Context, and also for `Context | None`, which Pydantic would treat as a body."""
    if annotation is Context or get_origin(annotation) is Context:
        return True
    return any(map(_is_context, get_args(annotation)))


def _context_arguments(annotation: Any) -> list[Any]:
    """Return `AsyncSession` for `Context[AsyncSession]`, also inside a list or a union."""
    if get_origin(annotation) is Context:
        return list(get_args(annotation))
    return [argument for inner in get_args(annotation) for argument in _context_arguments(inner)]


def _adapter(annotation: Any, name: str, where: str) -> TypeAdapter[Any]:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        adapter.rebuild()  # fails now, and not with the first body, if a model refers to an undefined type
        reject_infinity(adapter)
        return adapter
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        raise Misconfigured(f"Pydantic cannot validate {name} of {where}: {error.message}") from error


def _validator_failure(route: str, error: BaseException, shows_words: bool) -> str:
    """Log the failure, and return a sentence for the client. The words of the exception may be secret.

    The same failure has the same id. It has no traceback in the log, because a request can cause very many of them.
    """
    words = _words(error)[:MAX_WORDS]
    id_ = id_of(f"{route}/{words}", _KEY)
    *_, last = traceback.extract_tb(error.__traceback__)
    where = f"{last.filename}:{last.lineno}"
    get_log().error(Event.VALIDATOR_BROKE, handler=route, error_id=id_, error=words, where=where)
    return f"The validator failed: {words}." if shows_words else f"The validator failed. {see_log(id_)}"


def _words(error: BaseException) -> str:
    try:
        words = f"{type(error).__name__}: {error}".removesuffix(": ")
        return words.encode(errors="replace").decode()
    except BaseException:  # noqa: BLE001 - the text of the exception cannot be read
        return type(error).__name__
