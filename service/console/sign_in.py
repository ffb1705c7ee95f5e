"""GET and POST /console/key, POST /console/key/forget: a person pastes a key once, and the browser keeps it."""

from aiohttp import hdrs, web

from penstock.api_key import id_in
from penstock.errors import NotAuthenticated
from penstock.service import cookie
from penstock.service.console.forms import read_form
from penstock.service.console.rendering import HOME, back_to, own_path, page
from penstock.service.keys import CALLERS, PRESENTED_KEY_ID

_ENDED = "Your key is not valid any more."


async def show(request: web.Request) -> web.Response:
    """Show the form. `then` is in the query if a page was open when its key ended."""
    then = request.query.get("then")
    return page(request, "key.html", error=None if then is None else _ENDED, then=own_path(request, then or HOME))


async def sign_in(request: web.Request) -> web.Response:
    """Keep a valid key in a cookie, and show the page that the person wanted to see."""
    form = await read_form(request)
    key, then = form.get("key", "").strip().removeprefix("Bearer ").strip(), own_path(request, form.get("then", HOME))
    request[PRESENTED_KEY_ID] = id_in(key)
    try:
        await request.app[CALLERS].find(key)
    except NotAuthenticated as error:
        return page(request, "key.html", status=401, error=str(error), then=then)
    answer = web.Response(status=303, headers={hdrs.LOCATION: then})
    cookie.keep_key(request, answer, key)
    return answer


async def sign_out(request: web.Request) -> web.Response:
    answer = back_to("/console/key", "signed-out")
    cookie.forget_key(request, answer)
    return answer
