"""Reads a JSON body into a model."""

from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from penstock.documents.validation import errors_of
from penstock.errors import InvalidRequest, MalformedRequest
from penstock.reading.flaws import to_flaw, without_most_unknown_members
from penstock.service.content import read_json

M = TypeVar("M", bound=BaseModel)


def check_no_query(request: web.Request) -> None:
    """Raise MalformedRequest if a request has a query: ignored, it would have another effect."""
    if request.query:
        raise MalformedRequest("This request has no query. Send it without one.")


async def read_model(request: web.Request, model: type[M]) -> M:
    """Return the body of a request that has no query. Raises InvalidRequest with all errors of the body."""
    check_no_query(request)
    document = without_most_unknown_members(await read_json(request), model)
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise InvalidRequest([to_flaw(one, document) for one in errors_of(error)]) from error
