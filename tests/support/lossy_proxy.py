"""A proxy between a client and AWS. It drops answers to calls that took effect, or rejects calls or their entries.

The signatures of the calls that it forwards are wrong. The servers that stand in for AWS do not check them.
"""

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import aiohttp
from aiohttp import web

Entry = dict[str, Any]

MAX_BODY_BYTES = 64 * 1024 * 1024
KEPT_HEADERS = {"content-type", "x-amzn-requestid", "x-amz-crc32", "x-amzn-errortype", "x-amzn-query-error"}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Entries of a batch call that the server never sees. The answer lists them as `Failed`."""

    chosen: Callable[[Entry], bool]
    sender_fault: bool
    code: str


@dataclass
class LossyProxy:
    """Forwards every call and its answer, unless a test asks for something else. `calls` counts the calls by action."""

    url: str
    calls: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    _codes: dict[str, tuple[str, int]] = field(default_factory=dict)
    _lost: Counter[str] = field(default_factory=Counter)
    _refusals: dict[str, list[Refusal]] = field(default_factory=dict)

    def lose_answers(self, action: str, times: int = 1) -> None:
        """Let the next calls of this action take effect, then drop the connection instead of answering."""
        self._lost[action] = times

    def fail_each(self, nth: int, action: str, code: str) -> None:
        """Reject each `nth` call of this action with an error code, so that it has no effect."""
        self._codes[action] = code, nth

    def error_of(self, action: str) -> str | None:
        code, nth = self._codes.get(action, ("", 0))
        if not nth or self.calls[action] % nth:
            return None
        self.failed[action] += 1
        return code

    def refuse_entries(
        self, action: str, chosen: Callable[[Entry], bool], *, sender_fault: bool, times: int = 1, code: str = "Refused"
    ) -> None:
        """Reject the chosen entries in each of the next calls of this action."""
        self._refusals[action] = [Refusal(chosen, sender_fault, code)] * times

    def take_refusal(self, action: str) -> Refusal | None:
        left = self._refusals.get(action)
        return left.pop() if left else None

    def is_answer_lost(self, action: str) -> bool:
        self._lost[action] -= 1
        return self._lost[action] >= 0


@asynccontextmanager
async def lossy_proxy(server_url: str) -> AsyncIterator[LossyProxy]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def pass_on(request: web.Request) -> web.Response:
            content = await request.read()
            action = request.headers["X-Amz-Target"].rpartition(".")[2]
            proxy.calls[action] += 1
            if (code := proxy.error_of(action)) is not None:
                return web.json_response({"__type": f"com.amazonaws.sqs#{code}", "message": "by the proxy"}, status=400)
            passed, failed = _without_refused(content, proxy.take_refusal(action))
            headers = {name: value for name, value in request.headers.items() if name not in {"Host", "Content-Length"}}
            if passed is None:
                return web.json_response({"Successful": [], "Failed": failed})
            async with session.post(server_url + request.path, data=BytesIO(passed), headers=headers) as answer:
                body = await answer.read()
            if proxy.is_answer_lost(action):
                assert request.transport is not None
                request.transport.abort()
            kept = {name: value for name, value in answer.headers.items() if name.lower() in KEPT_HEADERS}
            if failed:
                body, kept = _with_failed(body, failed), {"Content-Type": answer.headers["Content-Type"]}
            return web.Response(status=answer.status, body=body, headers=kept)

        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_post("/{path:.*}", pass_on)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            proxy = LossyProxy(f"http://127.0.0.1:{runner.addresses[0][1]}")
            yield proxy
        finally:
            await runner.cleanup()


def _without_refused(content: bytes, refusal: Refusal | None) -> tuple[bytes | None, list[Entry]]:
    """Return the call without the rejected entries, or None if none is left, and the answer for the rejected ones."""
    if refusal is None:
        return content, []
    call = json.loads(content)
    refused = [entry for entry in call["Entries"] if refusal.chosen(entry)]
    call["Entries"] = [entry for entry in call["Entries"] if not refusal.chosen(entry)]
    failed = [
        {"Id": entry["Id"], "SenderFault": refusal.sender_fault, "Code": refusal.code, "Message": "by the proxy"}
        for entry in refused
    ]
    return json.dumps(call).encode() if call["Entries"] else None, failed


def _with_failed(body: bytes, failed: list[Entry]) -> bytes:
    answer = json.loads(body)
    answer["Failed"] = [*answer.get("Failed", []), *failed]
    return json.dumps(answer).encode()
