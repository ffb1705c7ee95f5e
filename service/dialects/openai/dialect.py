"""OpenAI's files: their endpoints, and the paths that OpenAI's clients use."""

from penstock.api_key import Scope
from penstock.service.dialects.dialect import Dialect
from penstock.service.dialects.openai import files, upload
from penstock.service.dialects.openai.errors import answering, write_problem
from penstock.service.route import Route

_PREFIX = "/v1/"
_NATIVE = "/v1/webhook_endpoints"

_ROUTES = (
    ("POST", "/v1/files", upload.create_file, Scope.WRITE),
    ("GET", "/v1/files", files.list_files, Scope.READ),
    ("GET", "/v1/files/{file_id}", files.show_file, Scope.READ),
    ("DELETE", "/v1/files/{file_id}", files.delete_file, Scope.WRITE),
    ("GET", "/v1/files/{file_id}/content", files.file_content, Scope.READ),
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
