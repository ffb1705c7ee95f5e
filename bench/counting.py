"""Count what a program of a run has used: its AWS calls and their billed units, its CPU seconds, and its memory.

A hook of botocore counts the calls, so the programs need no change. On SIGUSR1 the program writes its totals to a file.
This happens before and after each batch; the difference is the usage of the batch, without the start and idle time.
Another hook delays each call, if the run asks for it.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore
from botocore.session import Session
from pydantic import BaseModel

from bench.billing import units_of
from penstock.cost import Units

FILE_VARIABLE = "BENCH_USAGE_FILE"  # the file for the totals
LATENCY_VARIABLE = "BENCH_LATENCY_MS"  # the time that is added to each call
_REQUEST = "bench_request"


class Tally(BaseModel):
    """The usage of one kind of call."""

    requests: float = 0
    sqs: float = 0
    writes: float = 0
    reads: float = 0

    @property
    def units(self) -> Units:
        return Units(self.sqs, self.writes, self.reads)

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            requests=self.requests + other.requests,
            sqs=self.sqs + other.sqs,
            writes=self.writes + other.writes,
            reads=self.reads + other.reads,
        )

    def times(self, factor: float) -> "Tally":
        return Tally(**{name: value * factor for name, value in self.model_dump().items()})


Tallies = dict[str, Tally]


def total(*many: Tallies) -> Tallies:
    names = {name for tallies in many for name in tallies}
    return {name: sum((tallies.get(name, Tally()) for tallies in many), Tally()) for name in sorted(names)}


class Usage(BaseModel):
    cpu_seconds: float
    memory_bytes: int
    peak_bytes: int
    calls: Tallies = {}
    last_end_at: float = 0  # when the last slow operation of this process ended


def usage_of(pid: int) -> Usage:
    """Return the CPU time and memory of any of our processes. Its calls are known only to the process itself."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return Usage(
        cpu_seconds=time.clock_gettime((~pid << 3) | 2),  # the clock id of clock_getcpuclockid(3): all threads
        memory_bytes=_bytes(status["VmRSS"]),
        peak_bytes=_bytes(status["VmHWM"]),
    )


def _bytes(words: str) -> int:
    return int(words.split(maxsplit=1)[0]) * 1024


class _Counter:
    def __init__(self) -> None:
        self.calls: Tallies = {}

    def attach(self, session: Session) -> None:
        session.register("before-parameter-build", _keep_request)
        session.register("after-call", self._count)

    def _count(self, **event: Any) -> None:
        """Count a call. Repeats by the SDK count as requests; a call without a response is not counted."""
        call, answer = event["model"].name, event["parsed"]
        tries = 1 + answer.get("ResponseMetadata", {}).get("RetryAttempts", 0)
        units = units_of(call, event["context"][_REQUEST], answer)
        self.calls[call] = self.calls.get(call, Tally()) + Tally(
            requests=1, sqs=units.sqs, writes=units.writes, reads=units.reads
        ).times(tries)


class _Ends:
    last_at = 0.0


_ends = _Ends()


def note_end() -> None:
    """Remember that an operation has ended now. The slow handler calls this; for fast ones it would cost too much."""
    _ends.last_at = time.time()


def _delay(seconds: float) -> Callable[..., Any]:
    async def delay(**_: object) -> None:
        await asyncio.sleep(seconds)

    return delay


def _keep_request(**event: Any) -> None:
    event["context"][_REQUEST] = event["params"]


def count_calls() -> None:
    """Count the calls of every AWS client that this process opens from now on."""
    counter = _Counter()
    botocore.register_initializer(counter.attach)
    if milliseconds := int(os.environ.get(LATENCY_VARIABLE, "0")):
        botocore.register_initializer(lambda session: session.register("before-send", _delay(milliseconds / 1_000)))
    target = Path(os.environ[FILE_VARIABLE])

    def write_down(*_: object) -> None:
        usage = usage_of(os.getpid()).model_copy(update={"calls": counter.calls, "last_end_at": _ends.last_at})
        unfinished = target.with_suffix(".unfinished")
        unfinished.write_text(usage.model_dump_json())
        unfinished.rename(target)

    signal.signal(signal.SIGUSR1, write_down)
