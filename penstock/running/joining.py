"""Waits for several runs of operations at once."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from penstock.outcome import Verdict
from penstock.waiting import raise_first

T = TypeVar("T")


async def join(runs: Sequence[Coroutine[Any, Any, dict[int, Verdict]]]) -> dict[int, Verdict]:
    """Return the verdicts of all runs."""
    return {index: verdict for verdicts in await gather(runs) for index, verdict in verdicts.items()}


async def gather(runs: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results of all runs. If one of them raises, cancel the others and raise the same."""
    if len(runs) == 1:
        return [await runs[0]]
    tasks: list[asyncio.Task[T]] = []
    faults: list[BaseException] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks.extend([group.create_task(run) for run in runs])
    except BaseExceptionGroup as raised:
        faults.extend(raised.with_traceback(None).exceptions)  # its frames have a variable with it
        tasks.clear()
    raise_first(faults)
    return [task.result() for task in tasks]
