"""Repeats calls while AWS is unavailable, so that the steps of an attempt just make them.

The heartbeats keep the lease for as long as this takes, and waiting uses up no attempt of the operations.

A call that AWS rejects as invalid is repeated a few times only. Most of these calls can never work. But sometimes the
reason passes, for instance when a proxy has cut a request off. Without the repetition the chunk would be delivered
again, and its handlers would run again, to make the same call.
"""

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar, cast

from penstock.clock import Clock
from penstock.consumer.outage import Outage
from penstock.errors import Misconfigured, RejectedCall, TooLargeForAws, Unavailable
from penstock.telemetry import Event

P = ParamSpec("P")
T = TypeVar("T")

FIRST_REPEAT_SECONDS = 0.2
LONGEST_REPEAT_SECONDS = 10.0
REJECTED_TRIES = 4  # of a call that AWS rejects as invalid: they take about a second and a half


def patient(port: T, clock: Clock) -> T:
    """Return the port, but with each of its coroutine methods repeated until AWS answers.

    A method is repeated as a whole, so each of them must be safe to repeat.
    """
    return cast("T", _Patient(port, clock))


class _Patient:
    def __init__(self, port: object, clock: Clock) -> None:
        self._port = port
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._port, name)
        return partial(until_answered, self._clock, attribute) if inspect.iscoroutinefunction(attribute) else attribute


async def until_answered(clock: Clock, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Make a call and repeat it until AWS answers. Raise RejectedCall if AWS rejects it as invalid each time.

    Missing permissions are waited for, too: an operator can add them, and no chunk has to fail because of them.
    """
    wait, outage, rejections = FIRST_REPEAT_SECONDS, Outage(Event.STEP_REPEATED), 0
    while True:
        try:
            answer = await call(*args, **kwargs)
        except (Unavailable, Misconfigured, RejectedCall) as error:
            rejections += isinstance(error, RejectedCall)
            if isinstance(error, TooLargeForAws) or rejections == REJECTED_TRIES:
                raise
            outage.report(error)
        else:
            outage.end()
            return answer
        await clock.sleep(wait)
        wait = min(2 * wait, LONGEST_REPEAT_SECONDS)
