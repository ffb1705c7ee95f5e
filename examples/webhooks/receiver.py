"""A receiver of Penstock's events. It verifies the signature of each event, and handles each event once.

Run it with the secret of your endpoint: `WEBHOOK_SECRET=whsec_... python -m examples.webhooks.receiver`
"""

import os
from collections.abc import Callable
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

Handle = Callable[[dict[str, Any]], None]


def create_app(secret: str, handle: Handle) -> web.Application:
    webhook = Webhook(secret)
    handled: set[str] = set()  # in a real program a table with a unique column, so that it survives a restart

    async def receive(request: web.Request) -> web.Response:
        body = await request.read()  # the signature is that of the bytes, so verify them before they are parsed
        try:
            event = webhook.verify(body, dict(request.headers))
        except WebhookVerificationError:
            return web.Response(status=401)
        if event["id"] not in handled:  # an event may arrive more than once
            handle(event)
            handled.add(event["id"])
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/hook", receive)
    return app


def show(event: dict[str, Any]) -> None:
    print(event["type"], event["data"])  # noqa: T201 - this is what the example does


if __name__ == "__main__":
    web.run_app(create_app(os.environ["WEBHOOK_SECRET"], show), host="127.0.0.1", port=9000)
