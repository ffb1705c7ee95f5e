"""Renders the pages of the console. Jinja escapes every value, and an unknown name in a template is an error."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web

from penstock.api_key import Scope
from penstock.service import cookie
from penstock.service.base_url import root_path
from penstock.service.callers import Caller
from penstock.service.console import assets, texts
from penstock.service.json_answer import BodyAnswer
from penstock.service.keys import CALLER, CLOCK, OPERATOR_HOST, SETTINGS
from penstock.service.public_urls import path_in_app

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
HTML = "text/html"
HOME = "/console"
_PATH = re.compile(r'(?<==")/(?:console|docs)\b')  # at the start of an attribute
DOWNLOAD = web.RequestKey("download", str)  # the name of the file that a page lets the browser save


def own_path(request: web.Request, path: str) -> str:
    """Return the path if it is one of the console, and otherwise its first page.

    A form must not lead to another site. A path with a key would show the key in the page. A browser sends paths with
    what comes in front of the console, and the result is without it.
    """
    path = path.removeprefix(root_path())
    is_own = path == HOME or path.startswith((f"{HOME}/", f"{HOME}?"))
    has_key = request.app[SETTINGS].redaction.finds_key(path)
    return path if is_own and not has_key and "\\" not in path and path.isprintable() else HOME


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks at a page, and what the page may offer. `tenant` is None if nobody is known."""

    tenant: str | None = None
    key_id: str | None = None
    may_read: bool = False
    may_write: bool = False
    may_operate: bool = False
    is_operator: bool = False  # an operator at the listener for operators, which has the pages for operators
    has_key: bool = False


def viewer_of(request: web.Request) -> Viewer:
    caller: Caller | None = request.get(CALLER)
    if caller is None:
        return Viewer()
    operates = Scope.OPERATE in caller.scopes
    return Viewer(
        tenant=caller.tenant,
        key_id=caller.key_id,
        may_read=Scope.READ in caller.scopes,
        may_write=Scope.WRITE in caller.scopes,
        may_operate=operates,
        is_operator=operates and OPERATOR_HOST in request.app,
        has_key=cookie.key_in(request) is not None,
    )


def page(
    request: web.Request, template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any
) -> web.Response:
    """Return the answer with a page."""
    now = request.app[CLOCK].now()
    text = (
        templates()
        .get_template(template)
        .render(
            viewer=viewer_of(request),
            here=path_in_app(request),
            message=texts.message_of(request.query),
            now=now,
            **values,
        )
    )
    # Templates have paths as in `routes.py`. A value cannot look like this, since its quotes are escaped.
    if root := root_path():
        text = _PATH.sub(lambda found: root + found[0], text)
    return BodyAnswer(body=text.encode("utf-8", "replace"), status=status, headers=headers, content_type=HTML)


def back_to(path: str, done: str, count: int | None = None) -> web.Response:
    """Return the answer to a change: the browser shows the page again, with a message about what was done."""
    counted = "" if count is None else f"&count={count}"
    return web.Response(status=303, headers={hdrs.LOCATION: f"{path}?done={done}{counted}"})


@cache
def templates() -> "Environment":
    # Only the pages need Jinja, which takes tens of milliseconds to import.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals["asset"] = assets.url_of
    environment.filters.update(FILTERS)
    return environment


FILTERS: dict[str, Callable[..., Any]] = {
    "number": texts.number,
    "percent": texts.percent,
    "duration": texts.duration,
    "ago": texts.ago,
    "until": texts.until,
    "quota": texts.quota,
    "moment": texts.moment,
    "size": texts.size,
    "rate": texts.rate,
    "seconds": texts.to_seconds,
    "milliseconds": texts.milliseconds,
    "place": texts.place_of,
    "dollars": texts.dollars,
}
