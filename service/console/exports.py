"""GET /console/batch/{id}/exports/{export id} and the button that begins an export: all outcomes as files."""

from aiohttp import web

from penstock.service.batches.exports import begin_export, body_of, find_export, wish_of
from penstock.service.batches.status import batch_id_of
from penstock.service.console.forms import read_form
from penstock.service.console.rendering import back_to, page


async def create(request: web.Request) -> web.Response:
    """Begin an export in the form that was chosen, and show its page."""
    form = await read_form(request)
    export = await begin_export(request, wish_of(form.get("format"), form.get("compression") or None, None))
    return back_to(f"/console/batch/{batch_id_of(request)}/exports/{export.id}", "exported")


async def show(request: web.Request) -> web.Response:
    export = await find_export(request)
    return page(request, "export.html", export=await body_of(request, export), may_try_again=not export.is_full)
