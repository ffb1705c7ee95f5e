"""Toy applications, loaded by the programs as `tests.acceptance.apps:operations`. They journal to TOY_FOLDER."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from penstock import Context, Operations, Reject
from tests.acceptance.journal import Journal

FOLDER = "TOY_FOLDER"

operations = Operations()
without_handlers = Operations()


class Addition(BaseModel):
    a: int
    b: int


class Lingering(BaseModel):
    seconds: float


class Size(BaseModel):
    size: int


class Text(BaseModel):
    text: str


def journal() -> Journal:
    return Journal(Path(os.environ[FOLDER]))


@operations.post("/sums", status=201)
async def add(addition: Addition) -> dict[str, int]:
    return {"sum": addition.a + addition.b}


@operations.post("/notes")
async def note(context: Context) -> dict[str, int]:
    """Write into the journal that it ran."""
    journal().write("done", context.key, context.attempt)
    return {"attempt": context.attempt}


@operations.post("/pauses")
async def pause(lingering: Lingering) -> None:
    """Sleep, and write nothing into the journal: for tests with many operations."""
    await asyncio.sleep(lingering.seconds)


@operations.post("/pauses-once", max_attempts=1)
async def pause_once(lingering: Lingering) -> None:
    """Have only one attempt, so that a death that is blamed on it fails it."""
    await asyncio.sleep(lingering.seconds)


@operations.post("/lingers")
async def linger(lingering: Lingering, context: Context) -> dict[str, int]:
    """Sleep, unless the gate is open: a test that needs no more of it can end sooner."""
    journal().write("begun", context.key, context.attempt)
    if not journal().is_gate_open:
        await asyncio.sleep(lingering.seconds)
    journal().write("done", context.key, context.attempt)
    return {"attempt": context.attempt}


@operations.post("/waits")
async def wait_at_gate(context: Context) -> dict[str, int]:
    """Run until the test opens the gate."""
    journal().write("begun", context.key, context.attempt)
    await journal().until_gate_is_open()
    journal().write("done", context.key, context.attempt)
    return {"attempt": context.attempt}


@operations.post("/waits-in-a-thread", timeout_seconds=600)
def wait_in_thread(context: Context) -> dict[str, int]:
    journal().write("begun", context.key, context.attempt)
    while not journal().is_gate_open:
        time.sleep(0.01)
    journal().write("done", context.key, context.attempt)
    return {"attempt": context.attempt}


@operations.post("/hangs-in-a-thread", timeout_seconds=0.2, max_attempts=1)
def hang_in_thread() -> None:
    while not journal().is_gate_open:
        time.sleep(0.01)


@operations.post("/ignores-its-cancellation", timeout_seconds=0.2, max_attempts=1)
async def ignore_cancellation(context: Context) -> None:
    journal().write("begun", context.key, context.attempt)
    while True:
        try:
            await asyncio.Event().wait()
        except:  # noqa: E722 - the mistake that this handler shows
            journal()


@operations.post("/hangs-in-to-thread", timeout_seconds=0.2, max_attempts=1)
async def hang_in_to_thread(context: Context) -> None:
    """Hang in a thread for which Python waits at its end."""
    journal().write("begun", context.key, context.attempt)
    await asyncio.to_thread(time.sleep, 600)


@operations.post("/burns", cpu_bound=True, timeout_seconds=600)
def burn(context: Context) -> dict[str, int]:
    """Keep a core busy until the test opens the gate."""
    journal().write("begun", context.key, context.attempt)
    while not journal().is_gate_open:
        sum(range(10_000))
    journal().write("done", context.key, context.attempt)
    return {"attempt": context.attempt}


@operations.post("/burns-for-too-long", cpu_bound=True, timeout_seconds=0.3, max_attempts=1)
def burn_for_too_long() -> None:
    while True:
        sum(range(10_000))


@operations.post("/kills-its-worker", cpu_bound=True, max_attempts=2)
def kill_worker() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@operations.post("/squares", cpu_bound=True)
def square(number: int) -> int:
    return number * number


@operations.post("/rows/{name}", bulk=True)
async def insert_rows(name: list[str], numbers: list[int]) -> list[Any]:
    """Reject negative numbers, and fail the whole call if one of them is zero."""
    if 0 in numbers:
        raise ZeroDivisionError
    return [
        Reject(422, f"{one} is negative.") if number < 0 else 1 / number
        for one, number in zip(name, numbers, strict=True)
    ]


@operations.post("/texts/{name}")
async def measure(name: str, text: Text) -> dict[str, Any]:
    return {"name": name, "length": len(text.text)}


@operations.post("/echoes")
async def echo(text: Text) -> str:
    return text.text


@operations.post("/copies")
async def copy(size: Size) -> str:
    return "x" * size.size


@operations.post("/refused-texts/{name}")
async def refuse(name: str, text: Text) -> None:
    raise Reject(409, f"{name} has {len(text.text)} characters too many.")


@operations.post("/second-time-lucky")
async def succeed_at_second_attempt(context: Context) -> dict[str, int]:
    if context.attempt == 1:
        raise ConnectionError("the other side hung up")
    return {"attempt": context.attempt}


@operations.post("/broken", max_attempts=2)
async def break_always(context: Context) -> None:
    journal().write("done", context.key, context.attempt)
    raise RuntimeError("it never works")


@operations.post("/refused")
async def reject(context: Context) -> None:
    journal().write("done", context.key, context.attempt)
    raise Reject(409, "It stands there already.")


@operations.post("/poison", max_attempts=1)
async def kill_process() -> None:
    os._exit(9)


@operations.post("/blocks-the-loop", max_attempts=1)
async def block_the_loop() -> None:
    time.sleep(600)  # noqa: ASYNC251 - the mistake that this handler shows


@operations.post("/poison-at-every-attempt")
async def kill_process_three_times() -> None:
    os._exit(9)
