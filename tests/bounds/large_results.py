"""An application whose handlers return a megabyte each: text, which compresses to a half.

It forwards everything else to the upstream that TEST_UPSTREAM names.
"""

import os
import random
from typing import Any

from penstock import Context, Operations

RESULT_BYTES = 1_000_000

operations: Operations[Any] = Operations()
operations.forward(
    "/{path}", to=os.environ.get("TEST_UPSTREAM", "http://upstream.invalid"), max_result_bytes=RESULT_BYTES
)


def _text() -> str:
    return random.randbytes(RESULT_BYTES // 2).hex()


@operations.post("/loop")
async def on_loop() -> str:
    return _text()


@operations.post("/thread")
def in_thread() -> str:
    return _text()


@operations.post("/process", cpu_bound=True)
def in_process() -> str:
    return _text()


@operations.post("/bulk", bulk=True, max_size=10)
async def in_bulk(contexts: list[Context]) -> list[str]:
    return [_text() for _ in contexts]
