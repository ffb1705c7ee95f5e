"""Toy applications, loaded by the programs as `tests.acceptance.apps:operations`. They journal to TOY_FOLDER."""

import asyncio
import os
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


class Text(BaseModel):
    text: str


def journal() -> Journal:
    return Journal(Path(os.environ[FOLDER]))


@operations.post("/sums", status=201)
async def add(addition: Addition) -> dict[str, int]:
    return {"sum": addition.a + addition.b}


@operations.post("/notes")
async def note(context: Context) -> dict[str, int]:
    """Leaves word that it ran."""
    journal().write("done", context.key, context.attempt)
    return {"attempt": context.attempt}


@operations.post("/pauses")
async def pause(lingering: Lingering) -> None:
    """As `linger`, with no word left: for many at once."""
    await asyncio.sleep(lingering.seconds)


@operations.post("/lingers")
async def linger(lingering: Lingering, context: Context) -> dict[str, int]:
    journal().write("begun", context.key, context.attempt)
    await asyncio.sleep(lingering.seconds)
    journal().write("done", context.key, context.attempt)
    return {"attempt": context.attempt}


@operations.post("/waits")
async def wait_at_gate(context: Context) -> dict[str, int]:
    """Is under way until the test opens the gate."""
    journal().write("begun", context.key, context.attempt)
    await journal().until_gate_is_open()
    journal().write("done", context.key, context.attempt)
    return {"attempt": context.attempt}


@operations.post("/texts/{name}")
async def measure(name: str, text: Text) -> dict[str, Any]:
    return {"name": name, "length": len(text.text)}


@operations.post("/echoes")
async def echo(text: Text) -> str:
    return text.text


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


@operations.post("/poison-at-every-attempt")
async def kill_process_three_times() -> None:
    os._exit(9)
