"""What all answers of this dialect have in common: the version, and how errors are written."""

from collections.abc import Collection, Mapping

from aiohttp import web

from penstock.errors import MalformedRequest
from penstock.service.dialects.dialect import Problem
from penstock.service.dialects.odata.errors import error_of_batch, status_of
from penstock.service.dialects.odata.headers import VERSION, answer_version
from penstock.service.json_answer import json_answer


def answer(request: web.Request, response: web.Response, headers: Mapping[str, str]) -> web.Response:
    """Return the response with these headers and the version of OData."""
    response.headers.update({VERSION: answer_version(request.headers), **headers})
    return response


def write_problem(request: web.Request, problem: Problem) -> web.Response:
    return answer(request, json_answer(error_of_batch(problem), status=status_of(problem)), {})


def check_query(request: web.Request, known: Collection[str]) -> None:
    """Raise MalformedRequest for another option of OData. Custom options, such as api-version, have no effect."""
    for name in request.query:
        if name.startswith("$") and name not in known:
            raise MalformedRequest(f"The query option {name} is not offered here. Leave it out.")
