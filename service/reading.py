"""A request's body into operations that may run, or every reason why not."""

from collections.abc import Callable
from typing import Any

from aiohttp import web
from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

from penstock.chunk import Operation
from penstock.errors import Flaw, InvalidRequest, LimitPassed, MalformedRequest
from penstock.operations import Operations
from penstock.pointer import pointer, pointer_to
from penstock.route import InvalidOperation
from penstock.settings import Settings
from service.content import JSON, check_type, read_content
from service.parts import SETTINGS
from service.schemas import BatchRequest, OperationRequest

# What `model_validate` does, without its own part of the cost: it is called for every operation of every batch.
_validate_request: Callable[[Any], OperationRequest] = OperationRequest.__pydantic_validator__.validate_python


async def read_json(request: web.Request) -> Any:
    check_type(request, [JSON])
    return parse_json(await read_content(request, request.app[SETTINGS].max_body_bytes))


def parse_json(content: bytes) -> Any:
    try:
        return from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedRequest(f"The body is not JSON: {error}.") from error


def read_envelope(document: Any, settings: Settings, flaws: list[Flaw]) -> BatchRequest:
    """The batch request, its operations still as they came. Adds to `flaws`; raises LimitPassed.

    Where it is wrong, it is what can be read of it, so that the operations are told their errors too.
    """
    try:
        envelope = BatchRequest.model_validate(document)
    except ValidationError as error:
        flaws += [to_flaw("", one, document) for one in errors_of(error)]
        operations = document.get("operations") if isinstance(document, dict) else None
        envelope = BatchRequest.model_construct(operations=operations if isinstance(operations, list) else [])
    count, limit = len(envelope.operations), settings.max_operations
    if count > limit:
        raise LimitPassed(
            f"The batch has {count:,} operations; at most {limit:,} go into one.", limit={"maxOperations": limit}
        )
    return envelope


def read_operations(documents: list[Any], registry: Operations[Any], flaws: list[Flaw]) -> list[Operation]:
    """Every operation, valid for its handler and with an id of its own. Raises InvalidRequest with every flaw."""
    operations: list[Operation] = []
    places: dict[str, int] = {}
    for index, document in enumerate(documents):
        operation_id = _read_id(index, document)
        first = places.setdefault(operation_id, index)
        if first != index:
            detail = f"{operation_id!r} is the id of operation {first} too; ids are unique."
            flaws.append(Flaw(pointer("operations", index, "id"), detail))
        try:
            request = _validate_request(document)
            registry.match(request.method, request.path).arguments(request.path, request.body)
        except ValidationError as error:
            flaws += [to_flaw(pointer("operations", index), one, document) for one in errors_of(error)]
        except InvalidOperation as error:
            flaws += [Flaw(pointer("operations", index) + flaw.pointer, flaw.detail) for flaw in error.flaws]
        else:
            operations.append(Operation(index, operation_id, request.method, request.path, request.body))
    if flaws:
        raise InvalidRequest(flaws)
    return operations


def _read_id(index: int, document: Any) -> str:
    """Its own, or its place. Also of an operation that is wrong otherwise: a duplicate is told at once."""
    given = document.get("id") if isinstance(document, dict) else None
    return given if isinstance(given, str) else str(index)


def errors_of(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_context=False, include_input=False)


def to_flaw(where: str, error: ErrorDetails, document: Any) -> Flaw:
    return Flaw(where + pointer_to(error, document), f"{error['msg']}.")
