"""A stub of a model server: it speaks a little of OpenAI's API, has no model, and allows few requests a second.

Run it with `python -m examples.models.server`. `GET /turned-away` tells how often it has answered 429.
"""

import time
from collections.abc import Callable

from aiohttp import web

PORT = 3000
REQUESTS_A_SECOND = 50
MODEL = "stub-1"


class Quota:
    """Allows so many requests in each second."""

    def __init__(self, requests: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.requests = requests
        self.turned_away = 0
        self._clock = clock
        self._second = 0
        self._used = 0

    @property
    def left(self) -> int:
        return self.requests - self._used

    def take(self) -> bool:
        """Return False if the request must come back in the next second."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._used = second, 0
        if self.left == 0:
            self.turned_away += 1
            return False
        self._used += 1
        return True


def create_app(quota: Quota) -> web.Application:
    async def complete(request: web.Request) -> web.Response:
        headers = {
            "x-ratelimit-limit-requests": str(quota.requests),
            "x-ratelimit-remaining-requests": str(quota.left),
            "x-ratelimit-reset-requests": "1s",
        }
        if not quota.take():
            error = {"message": "Rate limit reached for requests.", "type": "requests", "code": "rate_limit_exceeded"}
            return web.json_response({"error": error}, status=429, headers={**headers, "Retry-After": "1"})
        body = await request.json()
        if body.get("model") != MODEL:
            error = {"message": f"There is no model {body.get('model')!r}.", "type": "invalid_request_error"}
            return web.json_response({"error": error}, status=404)
        return web.json_response(completion(body["messages"][-1]["content"]), headers=headers)

    async def models(_request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "nobody"}]})

    async def turned_away(_request: web.Request) -> web.Response:
        return web.json_response({"turned_away": quota.turned_away})

    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_get("/turned-away", turned_away)
    return app


def completion(question: str) -> dict[str, object]:
    """Return an answer as a chat model gives it. A real one takes more than counting the words."""
    words = len(question.split())
    answer = {"role": "assistant", "content": f"Your question has {words} words."}
    return {
        "id": f"chatcmpl-{time.time_ns()}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": MODEL,
        "choices": [{"index": 0, "message": answer, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": words, "completion_tokens": 5, "total_tokens": words + 5},
    }


if __name__ == "__main__":
    web.run_app(create_app(Quota(REQUESTS_A_SECOND)), host="127.0.0.1", port=PORT)
