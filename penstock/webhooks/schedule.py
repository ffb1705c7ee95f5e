"""Decides what an answer to a delivery means, and when the next attempt is due. Pure."""

from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus

MINUTE, HOUR = 60.0, 3_600.0
# The delay before each attempt, after the one before it failed. The delays are those of Standard Webhooks.
DELAYS = (0.0, 5.0, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR)
MOST_ATTEMPTS = len(DELAYS)
JITTER = 0.1  # of the delay, so that deliveries that failed together are not repeated together
SLOW_SECONDS = 60.0  # the shortest delay after an answer that asks to slow down
LONGEST_ASKED_SECONDS = 24 * HOUR  # of a Retry-After
_SLOW_DOWN = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT}


class Result(Enum):
    """The result of an attempt."""

    DELIVERED = auto()
    FAILED = auto()  # it may be repeated
    GONE = auto()  # the receiver wants no more events


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request: the status of the response, or `error` if there was none."""

    status: int | None = None
    error: str | None = None
    retry_after: float | None = None  # seconds
    text: str = ""  # the beginning of the response, for operators only

    @property
    def result(self) -> Result:
        if self.status == HTTPStatus.GONE:
            return Result.GONE
        is_success = self.status is not None and HTTPStatus(200) <= self.status < HTTPStatus(300)
        return Result.DELIVERED if is_success else Result.FAILED


def next_delay(attempts: int, answer: Answer, draw: float) -> float | None:
    """Return the delay after this number of failed attempts, or None if there is no further attempt.

    `draw` is a random number from 0 to 1.
    """
    if attempts >= MOST_ATTEMPTS:
        return None
    least = SLOW_SECONDS if answer.status in _SLOW_DOWN else 0.0
    asked = min(answer.retry_after or 0.0, LONGEST_ASKED_SECONDS)
    return max(DELAYS[attempts], least, asked) * (1 + JITTER * draw)
