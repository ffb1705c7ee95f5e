"""What all pages of the console have in common: their headers, and that their errors are pages, too."""

from typing import Any
from urllib.parse import urlencode, urlsplit

from aiohttp import hdrs, web
from pydantic_core import from_json

from penstock.service import cookie
from penstock.service.base_url import root_path
from penstock.service.console.rendering import DOWNLOAD, own_path, page
from penstock.service.problems import CONTENT_TYPE, Endpoint
from penstock.service.public_urls import path_and_query_in_app, path_in_app

PREFIX = "/console"
DOCS = "/docs"
REFRESH = "HX-Request"  # htmx sends it with every request

# Everything comes from this server, no script or style is in a page, and no other page may show this one.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Frame-Options": "DENY",
    # Not no-referrer: with that, browsers would send `Origin: null` with forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
# The styles of Swagger UI contain a few small pictures.
_WITH_PICTURES = {"Content-Security-Policy": _POLICY.replace("img-src 'self'", "img-src 'self' data:")}


def is_in_console(request: web.Request) -> bool:
    return cookie.is_sent_to(path_in_app(request))


def _is_page(request: web.Request) -> bool:
    return is_in_console(request) or path_in_app(request) == DOCS


async def set_page_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Set the headers that protect the pages. Pages may have data of a tenant, so nobody keeps a copy."""
    if _is_page(request):
        response.headers.update(_HEADERS if path_in_app(request) != DOCS else _HEADERS | _WITH_PICTURES)
        response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
        if response.status == web.HTTPOk.status_code and (name := request.get(DOWNLOAD)) is not None:
            response.headers[hdrs.CONTENT_DISPOSITION] = f'attachment; filename="{name}"'


@web.middleware
async def pages(request: web.Request, handler: Endpoint) -> web.StreamResponse:
    """Show every problem of a page as a page. A person without a valid key sees the page that asks for it."""
    answer = await handler(request)
    if not _is_page(request):
        return answer
    if answer.content_type == CONTENT_TYPE and isinstance(answer, web.Response):
        assert isinstance(answer.body, bytes)
        answer = _problem_page(request, answer.status, from_json(answer.body), answer.headers)
    for name in (hdrs.LOCATION, "HX-Redirect"):
        if name in answer.headers:
            answer.headers[name] = root_path() + answer.headers[name]
    return answer


def _problem_page(request: web.Request, status: int, problem: dict[str, Any], headers: Any) -> web.Response:
    if status == web.HTTPUnauthorized.status_code:
        return _ask_for_key(request, problem)
    if status == web.HTTPNotFound.status_code and problem["type"] == "about:blank":
        problem = {**problem, "detail": "This page does not exist."}  # the hint is about the API
    kept = {name: headers[name] for name in ("Retry-After", "Allow") if name in headers}
    if REFRESH in request.headers:
        kept |= {"HX-Retarget": "#message", "HX-Reselect": "#problem", "HX-Reswap": "innerHTML"}
    return page(request, "problem.html", status=status, headers=kept, problem=problem)


def _open_page(request: web.Request) -> str:
    """Return the path of the page that refreshes itself. The request may be for a part of it."""
    try:
        url = urlsplit(request.headers.get("HX-Current-URL", PREFIX))
    except ValueError:
        return PREFIX
    return f"{url.path}?{url.query}" if url.query else url.path


def _ask_for_key(request: web.Request, problem: dict[str, Any]) -> web.Response:
    if REFRESH in request.headers:
        form = f"{PREFIX}/key?{urlencode({'then': own_path(request, _open_page(request))})}"
        return web.Response(status=problem["status"], headers={"HX-Redirect": form})
    is_read, has_key = request.method == hdrs.METH_GET, cookie.key_in(request) is not None
    # Browsers do not send the cookie when a person comes from another site. A request from this page has it.
    if is_read and not has_key and request.headers.get("Sec-Fetch-Site") in {"cross-site", "same-site"}:
        return page(
            request, "again.html", status=problem["status"], path=own_path(request, path_and_query_in_app(request))
        )
    return page(
        request,
        "key.html",
        status=problem["status"],
        error=problem["detail"] if has_key else None,
        then=own_path(request, path_and_query_in_app(request)) if is_read else PREFIX,
    )
