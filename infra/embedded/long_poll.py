"""The message from the patched moto to its host that a ReceiveMessage has to wait. moto itself must never wait."""

from collections.abc import Callable
from dataclasses import dataclass

EMPTY_RECEIVE = "penstock.empty_receive"
"""The key in the WSGI environment of the call under which moto leaves an EmptyReceive."""


@dataclass(frozen=True, slots=True)
class EmptyReceive:
    """A ReceiveMessage that found no message and has a wait time, from the call or from the queue's default."""

    wait_seconds: int
    is_worth_repeating: Callable[[], bool]  # a cheap check whether the same call would now return something else
