"""One kind of operation: its method and path, its handler, and what the handler's signature says of path and body."""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, get_args, get_origin, get_type_hints
from urllib.parse import unquote

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import ErrorDetails, to_json

from penstock.context import Context
from penstock.errors import Flaw, Misconfigured
from penstock.pointer import pointer_to

AnyHandler = Callable[..., Awaitable[Any]]

DEFAULT_MAX_ATTEMPTS = 3
DEFAULT_TIMEOUT_SECONDS = 60.0
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class InvalidOperation(Exception):
    """An operation that no handler takes as it is. `flaws` point into the operation: `/path`, `/body/email`."""

    def __init__(self, flaws: list[Flaw]) -> None:
        super().__init__(" ".join(flaw.detail for flaw in flaws))
        self.flaws = flaws


@dataclass(frozen=True, slots=True)
class Policy:
    """How an operation is tried; `status` is what it ends with when the handler returns."""

    status: int = 200
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    max_attempts: int = DEFAULT_MAX_ATTEMPTS


@dataclass(frozen=True, slots=True)
class Signature:
    """What a handler takes, read from its annotations."""

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

    is_forwarded: ClassVar[bool] = False  # its work is another program's: no transaction of ours holds it

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

    def call(self, arguments: dict[str, Any], context: Context) -> Awaitable[Any]:
        if self.signature.context_parameter is None:
            return self.handler(**arguments)
        return self.handler(**arguments, **{self.signature.context_parameter: context})

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
            return {}
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
    if not (inspect.isroutine(handler) and inspect.iscoroutinefunction(handler)):
        raise Misconfigured(f"Write the handler of {where} as `async def`.")
    signature = _read_signature(handler, where, _PLACEHOLDER.findall(path))
    return Route(method, path, handler, policy, signature, _pattern(path), name=f"{method} {path}")


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


def _pattern(path: str) -> re.Pattern[str]:
    fixed_and_names = _PLACEHOLDER.split(path)
    pieces = [
        f"(?P<{piece}>[^/]+)" if position % 2 else re.escape(piece) for position, piece in enumerate(fixed_and_names)
    ]
    return re.compile("".join(pieces))


def _read_signature(handler: AnyHandler, where: str, names_in_path: list[str]) -> Signature:
    hints = _hints(handler, where)
    parameters = list(inspect.signature(handler).parameters.values())
    for parameter in parameters:
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise Misconfigured(f"Give the handler of {where} plain named parameters; {parameter} is none.")
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
    return Signature(
        path_parameters,
        body_parameter=body.name,
        body_adapter=_adapter(hints[body.name], body.name, where),
        body_required=body.default is inspect.Parameter.empty,
        context_parameter=context_parameter,
    )


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
