"""A request's body into operations that may run, or every reason why not."""

from typing import Any

from aiohttp import web
from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

from penstock.chunk import Operation
from penstock.errors import Flaw, InvalidRequest, LimitPassed, MalformedRequest, UnsupportedContent
from penstock.operations import Operations
from penstock.pointer import pointer, pointer_to
from penstock.route import InvalidOperation
from penstock.settings import Settings
from service.schemas import BatchRequest, OperationRequest

CONTENT_TYPE = "application/json"


async def read_json(request: web.Request) -> Any:
    if request.content_type != CONTENT_TYPE:
        given = request.headers.get("Content-Type", "none")
        raise UnsupportedContent(f"Send the batch as Content-Type: {CONTENT_TYPE}; this request has {given}.")
    content = await request.read()
    try:
        return from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedRequest(f"The body is not JSON: {error}.") from error


def read_envelope(document: Any, settings: Settings) -> BatchRequest:
    """The batch request, its operations still as they came. Raises InvalidRequest or LimitPassed."""
    try:
        envelope = BatchRequest.model_validate(document)
    except ValidationError as error:
        raise InvalidRequest([_flaw("", one, document) for one in _errors(error)]) from error
    count, limit = len(envelope.operations), settings.max_operations
    if count > limit:
        raise LimitPassed(
            f"The batch has {count:,} operations; at most {limit:,} go into one.", limit={"maxOperations": limit}
        )
    return envelope


def read_operations(documents: list[Any], registry: Operations[Any]) -> list[Operation]:
    """Every operation, valid for its handler and with an id of its own. Raises InvalidRequest with every flaw."""
    flaws: list[Flaw] = []
    operations: list[Operation] = []
    places: dict[str, int] = {}
    for index, document in enumerate(documents):
        where = pointer("operations", index)
        operation = _read_operation(index, document, where, flaws)
        if operation is None:
            continue
        first = places.setdefault(operation.id, index)
        if first != index:
            flaws.append(Flaw(f"{where}/id", f"{operation.id!r} is the id of operation {first} too; ids are unique."))
        try:
            registry.match(operation.method, operation.path).arguments(operation.path, operation.body)
        except InvalidOperation as error:
            flaws += [Flaw(where + flaw.pointer, flaw.detail) for flaw in error.flaws]
        operations.append(operation)
    if flaws:
        raise InvalidRequest(flaws)
    return operations


def _read_operation(index: int, document: Any, where: str, flaws: list[Flaw]) -> Operation | None:
    try:
        request = OperationRequest.model_validate(document)
    except ValidationError as error:
        flaws += [_flaw(where, one, document) for one in _errors(error)]
        return None
    operation_id = str(index) if request.id is None else request.id
    return Operation(index, operation_id, request.method, request.path, request.body)


def _errors(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_context=False, include_input=False)


def _flaw(where: str, error: ErrorDetails, document: Any) -> Flaw:
    return Flaw(where + pointer_to(error, document), f"{error['msg']}.")
