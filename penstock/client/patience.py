"""Decides whether a request is sent again after an error, and how long to wait before that. Pure."""

import random
from dataclasses import dataclass
from enum import Enum, auto

from penstock.client.errors import (
    AnswerLost,
    ClientError,
    Conflict,
    Problem,
    RateLimited,
    ServerUnreachable,
)


class Repeat(Enum):
    """When a request may be sent again."""

    ALWAYS = auto()  # it has the same effect if the server gets it twice
    IF_NOT_DONE = auto()  # only if the server has certainly not acted on it


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a request is repeated.

    After `seconds` of errors the client gives up. The time that the server takes to answer with an error counts. While
    the server asks to wait because of a quota, the client waits up to `quota_seconds` in all. The pause between two
    attempts doubles from `backoff_seconds` to `longest_backoff_seconds`, and up to half of it is random.
    """

    seconds: float = 60.0
    quota_seconds: float = 600.0
    backoff_seconds: float = 0.25
    longest_backoff_seconds: float = 10.0

    def backoff(self, failures: int) -> float:
        longest = min(self.backoff_seconds * 2.0 ** min(failures - 1, 30), self.longest_backoff_seconds)
        return longest * random.uniform(0.5, 1)  # noqa: S311 - it only spreads requests

    def pause(self, error: ClientError, repeat: Repeat, failures: int, waited_seconds: float) -> float | None:
        """Return how long to wait before the request is sent again, or None if the error is final.

        `failures` is the number of attempts that failed, and `waited_seconds` the time since the first of them failed,
        or since it was sent if the server answered it with an error.
        """
        if not _may_repeat(error, repeat):
            return None
        asked = error.retry_after if isinstance(error, Problem) else None
        pause = self.backoff(failures) if asked is None else max(asked, self.backoff_seconds)
        most = self.quota_seconds if isinstance(error, RateLimited) else self.seconds
        return pause if waited_seconds + pause <= most else None


_TEMPORARY = frozenset({408, 425, 429, 502, 503, 504})


def _may_repeat(error: ClientError, repeat: Repeat) -> bool:
    match error:
        case ServerUnreachable():
            return True
        case AnswerLost():
            return repeat is Repeat.ALWAYS
        case Conflict():
            return error.is_in_progress
        case Problem() if error.status in {429, 503} and error.retry_after is not None:
            return True
        case Problem():
            return error.status in _TEMPORARY and (repeat is Repeat.ALWAYS or error.status == 429)
        case _:
            return False
