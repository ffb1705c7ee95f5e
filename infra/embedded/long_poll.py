"""How the mended moto, which must never wait, tells its host that a ReceiveMessage would have waited."""

from collections.abc import Callable
from dataclasses import dataclass

EMPTY_RECEIVE = "penstock.empty_receive"
"""Where in the WSGI environment of the call an EmptyReceive is left."""


@dataclass(frozen=True, slots=True)
class EmptyReceive:
    """A ReceiveMessage that found nothing and asked to wait, by itself or by its queue's default."""

    wait_seconds: int
    is_worth_repeating: Callable[[], bool]  # a cheap look at whether the same call would now say something else
