"""OpenAI's files and batches: their endpoints, and the paths that OpenAI's clients use."""

from aiohttp import web

from penstock.api_key import Scope
from penstock.service.dialects.dialect import Dialect
from penstock.service.dialects.openai import batches, creation, files, output_list, outputs, upload
from penstock.service.dialects.openai.errors import answering, write_problem
from penstock.service.problems import Endpoint
from penstock.service.route import Route

_PREFIX = "/v1/"
_NATIVE = "/v1/webhook_endpoints"


def _of_file(of_input: Endpoint, of_output: Endpoint) -> Endpoint:
    """Return an endpoint that asks one of these, by the kind of the file in the path."""

    async def of_file(request: web.Request) -> web.StreamResponse:
        endpoint = of_output if outputs.is_output(request.match_info["file_id"]) else of_input
        return await endpoint(request)

    return of_file


async def _list_files(request: web.Request) -> web.StreamResponse:
    """List the output files of batches if the client asks for their purpose, or else input files."""
    is_of_outputs = request.query.get("purpose") == outputs.PURPOSE
    return await (output_list.list_outputs if is_of_outputs else files.list_files)(request)


_ROUTES: tuple[tuple[str, str, Endpoint, Scope], ...] = (
    ("POST", "/v1/files", upload.create_file, Scope.WRITE),
    ("GET", "/v1/files", _list_files, Scope.READ),
    ("GET", "/v1/files/{file_id}", _of_file(files.show_file, outputs.show_output), Scope.READ),
    ("DELETE", "/v1/files/{file_id}", _of_file(files.delete_file, outputs.delete_output), Scope.WRITE),
    ("GET", "/v1/files/{file_id}/content", _of_file(files.file_content, outputs.output_content), Scope.READ),
    ("POST", "/v1/batches", creation.create_batch, Scope.WRITE),
    ("GET", "/v1/batches", batches.list_batches, Scope.READ),
    ("GET", "/v1/batches/{batch_id}", batches.show_batch, Scope.READ),
    ("POST", "/v1/batches/{batch_id}/cancel", batches.cancel_batch, Scope.WRITE),
)


def _has_path(path: str) -> bool:
    """Return True for every path of OpenAI's API. Only the endpoints of webhooks are ours."""
    return path.startswith(_PREFIX) and not f"{path}/".startswith(f"{_NATIVE}/")


OPENAI = Dialect(
    "openai",
    tuple(Route(method, path, answering(endpoint), scope) for method, path, endpoint, scope in _ROUTES),
    _has_path,
    write_problem,
)
