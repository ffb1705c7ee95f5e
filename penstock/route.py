"""One kind of operation: its method and path, its handler, and what the handler's signature says of path and body."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, get_args, get_origin, get_type_hints
from urllib.parse import unquote

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import ErrorDetails, to_json

from penstock.context import Context
from penstock.errors import Flaw, Misconfigured
from penstock.pointer import pointer_to

AnyHandler = Callable[..., Any]

DEFAULT_MAX_ATTEMPTS = 3
DEFAULT_TIMEOUT_SECONDS = 60.0
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class InvalidOperation(Exception):
    """An operation that no handler takes as it is. `flaws` point into the operation: `/path`, `/body/email`."""

    def __init__(self, flaws: list[Flaw]) -> None:
        super().__init__(" ".join(flaw.detail for flaw in flaws))
        self.flaws = flaws

    def __reduce__(self) -> tuple[type["InvalidOperation"], tuple[list[Flaw]]]:
        return type(self), (self.flaws,)  # as it comes from another process


class Place(StrEnum):
    """Where a handler runs."""

    LOOP = "loop"  # `async def`
    THREAD = "thread"  # `def`
    PROCESS = "process"  # `def` with `cpu_bound=True`


@dataclass(frozen=True, slots=True)
class Policy:
    """How an operation is tried; `status` is what it ends with when the handler returns.

    A `bulk` handler performs many operations in one call, `max_size` at most; its time limit is that of a call.
    """

    status: int = 200
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    cpu_bound: bool = False
    bulk: bool = False
    max_size: int | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """What a handler takes, read from its annotations; of a bulk handler, what it takes for each operation."""

    path_parameters: Mapping[str, TypeAdapter[Any]]
    body_parameter: str | None = None
    body_adapter: TypeAdapter[Any] | None = None
    body_required: bool = False
    context_parameter: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    handler: AnyHandler
    policy: Policy
    signature: Signature
    pattern: re.Pattern[str]
    name: str  # `POST /users/{user_id}`
    place: Place

    is_forwarded: ClassVar[bool] = False  # its work is another program's: no transaction of ours holds it

    @property
    def is_bulk(self) -> bool:
        return self.policy.bulk

    @property
    def has_transaction(self) -> bool:
        """Whether the application's transaction is open around its handler."""
        return self.place is Place.LOOP and not self.is_forwarded

    @property
    def shape(self) -> str:
        """The path whatever its parameters are called: two routes of one shape match the same paths."""
        return _PLACEHOLDER.sub("{}", self.path)

    @property
    def has_parameters(self) -> bool:
        return bool(self.signature.path_parameters)

    def arguments(self, path: str, body: Any, content: bytes | None = None) -> dict[str, Any]:
        """The handler's arguments, all but the context. Raises InvalidOperation with every flaw.

        `content` is the body as JSON, from whoever has it already.
        """
        flaws: list[Flaw] = []
        arguments = self._from_path(path, flaws) if self.signature.path_parameters else {}
        arguments |= self._from_body(body, content, flaws)
        if flaws:
            raise InvalidOperation(flaws)
        return arguments

    def call(self, arguments: dict[str, Any], context: Context) -> Any:
        """What the handler returns; on the loop that is to be awaited."""
        if self.signature.context_parameter is None:
            return self.handler(**arguments)
        return self.handler(**arguments, **{self.signature.context_parameter: context})

    def call_bulk(self, rows: Sequence[dict[str, Any]], contexts: Sequence[Context]) -> Any:
        """The same, for many operations: each argument is a list with a place for each of them."""
        lists: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in rows[0]}
        if self.signature.context_parameter is not None:
            lists[self.signature.context_parameter] = list(contexts)
        return self.handler(**lists)

    def _from_path(self, path: str, flaws: list[Flaw]) -> dict[str, Any]:
        match = self.pattern.fullmatch(path)
        texts = match.groupdict() if match else {}
        arguments: dict[str, Any] = {}
        for name, adapter in self.signature.path_parameters.items():
            try:
                arguments[name] = adapter.validate_python(unquote(texts[name]))
            except ValidationError as error:
                flaws += [Flaw("/path", f"{name}: {_sentence(one)}") for one in _errors(error)]
            except Exception as error:  # noqa: BLE001 - a validator stumbles over it, which is no reason to run it
                flaws.append(Flaw("/path", f"{name}: {_stumble(error)}"))
        return arguments

    def _from_body(self, body: Any, content: bytes | None, flaws: list[Flaw]) -> dict[str, Any]:
        name, adapter = self.signature.body_parameter, self.signature.body_adapter
        if name is None or adapter is None:
            if body is not None:
                flaws.append(Flaw("/body", f"{self.name} takes no body."))
            return {}
        if body is None:
            if self.signature.body_required:
                flaws.append(Flaw("/body", f"{self.name} needs a body."))
            return {name: None} if self.is_bulk else {}
        try:
            return {name: _validate(adapter, to_json(body) if content is None else content)}
        except ValidationError as error:
            flaws += [Flaw("/body" + pointer_to(one, body), _sentence(one)) for one in _errors(error)]
        except Exception as error:  # noqa: BLE001 - as above
            flaws.append(Flaw("/body", _stumble(error)))
        return {}


def build_route(handler: AnyHandler, method: str, path: str, policy: Policy) -> Route:
    """Raises Misconfigured when the handler cannot be used as it is written."""
    where = f"{method} {path} ({_name(handler)})"
    check_route(where, path, policy)
    place = _place(handler, where, policy)
    signature = _read_signature(handler, where, _PLACEHOLDER.findall(path), bulk=policy.bulk)
    if place is not Place.LOOP:
        _check_asks_no_transaction(handler, where, signature.context_parameter)
    return Route(method, path, handler, policy, signature, _pattern(path), f"{method} {path}", place)


def _name(handler: AnyHandler) -> str:
    return f"{handler.__module__}.{handler.__qualname__}" if inspect.isroutine(handler) else repr(handler)


def check_route(where: str, path: str, policy: Policy) -> None:
    names = _PLACEHOLDER.findall(path)
    if not path.startswith("/"):
        raise Misconfigured(f"Begin the path of {where} with a slash.")
    if len(set(names)) != len(names) or set("{}") & set(_PLACEHOLDER.sub("", path)):
        raise Misconfigured(f"Write each path parameter of {where} once, as {{name}}.")
    if not 200 <= policy.status <= 299:
        raise Misconfigured(f"Give {where} a status from 200 to 299, not {policy.status}; to fail, raise Reject.")
    if not policy.timeout_seconds > 0:
        raise Misconfigured(f"Give {where} a timeout_seconds above 0, not {policy.timeout_seconds}.")
    if policy.max_attempts < 1:
        raise Misconfigured(f"Give {where} a max_attempts of at least 1, the first; not {policy.max_attempts}.")
    if policy.bulk and policy.cpu_bound:
        raise Misconfigured(f"Choose one for {where}: bulk=True or cpu_bound=True. A process is given one at a time.")
    if policy.max_size is not None and not policy.bulk:
        raise Misconfigured(f"Give {where} bulk=True too: max_size is how many operations one bulk call takes.")
    if policy.max_size is not None and policy.max_size < 1:
        raise Misconfigured(f"Give {where} a max_size of at least 1, not {policy.max_size}.")


def _place(handler: AnyHandler, where: str, policy: Policy) -> Place:
    if not inspect.isroutine(handler) or inspect.isasyncgenfunction(handler):
        raise Misconfigured(f"Write the handler of {where} as a function that returns: `async def` or `def`.")
    is_async = inspect.iscoroutinefunction(handler)
    if not policy.cpu_bound:
        return Place.LOOP if is_async else Place.THREAD
    if is_async:
        raise Misconfigured(
            f"Write the handler of {where} as `def`: cpu_bound=True runs it in a process without an event loop."
        )
    if "<" in handler.__qualname__:  # <locals> or <lambda>
        raise Misconfigured(
            f"Define the handler of {where} with `def` at the top of its module: "
            "cpu_bound=True runs it in another process, which imports it by its name."
        )
    return Place.PROCESS


def _check_asks_no_transaction(handler: AnyHandler, where: str, context_parameter: str | None) -> None:
    if context_parameter is None:
        return
    annotation = _hints(handler, where)[context_parameter]
    asked = [argument for argument in _context_arguments(annotation) if argument not in {None, type(None), Any}]
    if asked:
        raise Misconfigured(
            f"Write the handler of {where} as `async def`, or its {context_parameter} as a plain Context: the "
            "application's transaction is the event loop's, and a `def` handler runs elsewhere. It opens its own."
        )


def _pattern(path: str) -> re.Pattern[str]:
    fixed_and_names = _PLACEHOLDER.split(path)
    pieces = [
        f"(?P<{piece}>[^/]+)" if position % 2 else re.escape(piece) for position, piece in enumerate(fixed_and_names)
    ]
    return re.compile("".join(pieces))


def _read_signature(handler: AnyHandler, where: str, names_in_path: list[str], *, bulk: bool = False) -> Signature:
    hints = _hints(handler, where)
    parameters = list(inspect.signature(handler).parameters.values())
    for parameter in parameters:
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise Misconfigured(f"Give the handler of {where} plain named parameters; {parameter} is none.")
    if bulk:
        hints = _hints_for_each(hints, parameters, where)
    contexts = [p.name for p in parameters if _is_context(hints.get(p.name))]
    in_path = [p.name for p in parameters if p.name in names_in_path]
    bodies = [p for p in parameters if p.name not in contexts and p.name not in in_path]
    absent = [name for name in names_in_path if name not in in_path]
    if absent:
        raise Misconfigured(f"Add the parameter {absent[0]} to the handler of {where}: its path has it.")
    if len(bodies) > 1 or len(contexts) > 1:
        one_too_many = (bodies if len(bodies) > 1 else parameters)[-1].name
        raise Misconfigured(
            f"Give the handler of {where} at most one body and one Context beside its path parameters; "
            f"{one_too_many} is one too many."
        )
    path_parameters = {name: _adapter(hints.get(name, str), name, where) for name in in_path}
    context_parameter = contexts[0] if contexts else None
    if not bodies:
        return Signature(path_parameters, context_parameter=context_parameter)
    body = bodies[0]
    if body.name not in hints:
        raise Misconfigured(f"Annotate {body.name} of {where}: bodies are validated against its annotation.")
    body_adapter = _adapter(hints[body.name], body.name, where)
    return Signature(
        path_parameters,
        body_parameter=body.name,
        body_adapter=body_adapter,
        body_required=not _takes_none(body_adapter) if bulk else body.default is inspect.Parameter.empty,
        context_parameter=context_parameter,
    )


def _hints_for_each(hints: dict[str, Any], parameters: list[inspect.Parameter], where: str) -> dict[str, Any]:
    """What a bulk handler takes for each operation: `NewUser` of `list[NewUser]`."""
    if not parameters:
        raise Misconfigured(f"Give the bulk handler of {where} a list of the bodies, or of the contexts.")
    for_each: dict[str, Any] = {}
    for parameter in parameters:
        annotation = hints.get(parameter.name)
        if get_origin(annotation) not in {list, Sequence} or len(get_args(annotation)) != 1:
            raise Misconfigured(
                f"Annotate {parameter.name} of {where} as a list, such as list[NewUser], list[int] or list[Context]: "
                "a bulk handler is given lists with a place for each operation."
            )
        for_each[parameter.name] = get_args(annotation)[0]
    return for_each


def _takes_none(adapter: TypeAdapter[Any]) -> bool:
    """Whether an operation without a body is one of those that it takes."""
    try:
        adapter.validate_python(None)
    except Exception:  # noqa: BLE001 - also a validator that stumbles does not take it
        return False
    return True


def _hints(handler: AnyHandler, where: str) -> dict[str, Any]:
    try:
        return get_type_hints(handler, include_extras=True)
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        raise Misconfigured(f"Define the types that {where} names where its module can see them: {error}.") from error


def _is_context(annotation: Any) -> bool:
    """Also `Context | None`, which Pydantic would take for a body."""
    if annotation is Context or get_origin(annotation) is Context:
        return True
    return any(map(_is_context, get_args(annotation)))


def _context_arguments(annotation: Any) -> list[Any]:
    """`AsyncSession` of `Context[AsyncSession]`, also where it is an item of a list or one of several."""
    if get_origin(annotation) is Context:
        return list(get_args(annotation))
    return [argument for inner in get_args(annotation) for argument in _context_arguments(inner)]


def _adapter(annotation: Any, name: str, where: str) -> TypeAdapter[Any]:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        adapter.rebuild()  # a model that names a type not known yet is found out here, not by the first body
        return adapter
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        raise Misconfigured(f"Pydantic cannot validate {name} of {where}: {error.message}") from error


def _validate(adapter: TypeAdapter[Any], content: bytes) -> Any:
    """Validate by JSON's rules. They let a strict model take a date or an enum from a string, which Python's do not.

    So handlers and validators get a body of their own: what they change in it is not changed for the next attempt.
    """
    return adapter.validator.validate_json(content)


def _errors(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_context=False, include_input=False)


def _stumble(error: Exception) -> str:
    return f"It could not be validated: {type(error).__name__}: {error}."


def _sentence(error: ErrorDetails) -> str:
    text = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return text if text.endswith(".") else text + "."
