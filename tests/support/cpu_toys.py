"""Handlers for tests of the process pool. The worker processes import them from here."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel

from penstock import Context, Operations, Reject, Retry, Throttled

operations: Operations[Any] = Operations()
_post = operations.post


class Number(BaseModel):
    n: int


@_post("/double", status=201, cpu_bound=True)
def double(number: Number) -> Number:
    return Number(n=2 * number.n)


@_post("/where", cpu_bound=True)
def where() -> int:
    return os.getpid()


@_post("/imported", cpu_bound=True)
def tell_imported() -> list[str]:
    """Return which of the large libraries this process has imported."""
    return [name for name in ("aiohttp", "botocore", "prometheus_client") if name in sys.modules]


@_post("/context", cpu_bound=True)
def tell_context(context: Context) -> list[Any]:
    return [
        context.operation_id,
        context.batch_id,
        context.attempt,
        context.key,
        context.transaction,
        context.tenant,
    ]


@_post("/state", cpu_bound=True)
def use_state(context: Context) -> Any:
    return context.state["anything"]


@_post("/reject", cpu_bound=True)
def reject() -> None:
    raise Reject(409, "Taken.")


@_post("/retry", cpu_bound=True)
def retry() -> None:
    raise Retry("Not yet.", after_seconds=7)


@_post("/throttled", cpu_bound=True)
def throttled() -> None:
    raise Throttled("Too fast.", after_seconds=2)


@_post("/break", cpu_bound=True)
def break_() -> None:
    raise ValueError("no")


@_post("/exit", cpu_bound=True)
def leave() -> None:
    sys.exit(3)


@_post("/interrupt", cpu_bound=True)
def interrupt() -> None:
    raise KeyboardInterrupt


@_post("/nonsense", cpu_bound=True)
def return_nonsense() -> object:
    return object()


@_post("/print", cpu_bound=True)
def print_and_read() -> str:
    print("x" * 100_000)  # noqa: T201 - it must not get into the way of the answer
    return sys.stdin.read()


@_post("/large/{size}", cpu_bound=True)
def return_large(size: int) -> str:
    return "x" * size


@_post("/log-fields", cpu_bound=True)
def tell_log_fields() -> dict[str, Any]:
    return structlog.contextvars.get_contextvars()


@_post("/ignored-signals", cpu_bound=True)
def tell_ignored_signals() -> list[bool]:
    return [signal.getsignal(number) is signal.SIG_IGN for number in (signal.SIGINT, signal.SIGTERM)]


@_post("/die/{code}", cpu_bound=True)
def die(code: int) -> None:
    os._exit(code)


@_post("/crash", cpu_bound=True)
def crash() -> None:
    ctypes.string_at(0)


@_post("/burn", cpu_bound=True)
def burn(seconds: float) -> None:
    """In Python, which shares its one lock, not the processor, if anybody asks."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        sum(range(1_000))


@_post("/nap")
def nap(seconds: float) -> None:
    """Sleep in a thread."""
    time.sleep(seconds)


@_post("/burn-a-moment", cpu_bound=True, timeout_seconds=0.2)
def burn_too_long(note: str) -> None:
    """Write down the process id, then keep the core busy for ever."""
    Path(note).write_text(str(os.getpid()))
    while True:
        sum(range(1_000))


@_post("/burn-for-ever", cpu_bound=True)
def burn_for_ever(note: str) -> None:
    burn_too_long(note)


def _start_sleeping(note: str) -> None:
    """Start a program that runs for a minute, and write down its process id."""
    Path(note).write_text(str(subprocess.Popen(["/bin/sleep", "60"]).pid))


@_post("/start-and-hang", cpu_bound=True, timeout_seconds=0.2)
def start_and_hang(note: str) -> None:
    _start_sleeping(note)
    time.sleep(60)


@_post("/start-and-die", cpu_bound=True)
def start_and_die(note: str) -> None:
    _start_sleeping(note)
    os._exit(1)


@_post("/start", cpu_bound=True)
def start(note: str) -> int:
    _start_sleeping(note)
    return os.getpid()


@_post("/async")
async def on_loop() -> int:
    return os.getpid()
