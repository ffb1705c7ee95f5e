"""POST /uploads: lets a client send a file directly to the bucket. POST /batch?upload= then makes a batch of it."""

from aiohttp import web
from ulid import PureRandomPolicy, ULIDGenerator

from penstock.bucket import MOST_UPLOAD_BYTES, upload_key
from penstock.service.audit import Action, auditing
from penstock.service.caller import tenant_of
from penstock.service.content import check_no_options
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, CLOCK, SETTINGS
from penstock.service.schemas import time_text
from penstock.settings import Settings

OFFER_SECONDS = 3_600  # a permission that is signed with a role's credentials may end with them, before that

_UPLOAD_IDS = ULIDGenerator(policy=PureRandomPolicy())


async def create_upload(request: web.Request) -> web.Response:
    """Answer with a form that the client sends to the bucket together with its file."""
    await check_no_options(request)
    bucket, settings = request.app[BACKEND].require_bucket(), request.app[SETTINGS]
    upload_id, expires_at = str(_UPLOAD_IDS.generate()), request.app[CLOCK].now() + OFFER_SECONDS
    most_bytes = settings.max_upload_bytes
    with auditing(request, Action.CREATE_UPLOAD, upload_id=upload_id):
        form = await bucket.offer_upload(upload_key(tenant_of(request), upload_id), most_bytes, OFFER_SECONDS)
    body = {
        "uploadId": upload_id,
        "url": form.url,
        "fields": dict(form.fields),
        "expiresAt": time_text(expires_at),
        "maxBytes": most_bytes,
    }
    return json_answer(body, status=201)


def most_upload_bytes(settings: Settings) -> int:
    """Return the largest size of a file that a front end reads itself."""
    return min(settings.max_stream_bytes, MOST_UPLOAD_BYTES)
