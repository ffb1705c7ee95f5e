"""The event loop that the programs run on: uvloop's, or asyncio's own where uvloop does not exist, as on Windows.

`asyncio.run` waits at its end for every task and for every thread of `asyncio.to_thread`. A program must also end if
handlers ignore their cancellation, or hang in a thread. So here nobody waits for them for long.

And asyncio ends a program if any task or callback raises SystemExit or KeyboardInterrupt. A handler may start tasks,
and these must only hurt its own operation. So here only the main task can end the program.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from penstock.process.ending import ENDING_SECONDS, unfinished
from penstock.telemetry import Event, get_log

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on the fastest event loop that is installed, and return its result."""
    runner = asyncio.Runner(loop_factory=_loop_factory())
    loop = runner.get_loop()
    try:
        return _run_to_its_end(loop, loop.create_task(main))
    finally:
        if loop.run_until_complete(_end_rest()):
            loop.close()
        else:
            unfinished.append(runner)


def _run_to_its_end(loop: asyncio.AbstractEventLoop, task: "asyncio.Task[T]") -> T:
    while True:
        try:
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as error:
            if task.done() or _is_ctrl_c(error):
                raise
            # Whoever awaits the task that raised this gets it, too.
            get_log().warning(Event.EXIT_IGNORED, error=repr(error))


def _is_ctrl_c(error: BaseException) -> bool:
    """Return True if the error can come from Ctrl-C. It cannot once the program handles that signal itself."""
    return isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not installed on Windows
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


async def _end_rest() -> bool:
    """Cancel all other tasks, and close the async generators. Return True if all have ended soon."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    closing = asyncio.create_task(asyncio.get_running_loop().shutdown_asyncgens())
    _, pending = await asyncio.wait({*rest, closing}, timeout=ENDING_SECONDS)
    if pending:
        get_log().warning(Event.TASKS_LEFT_BEHIND, tasks=len(pending))
    return not pending
