"""A limit of the whole fleet: how fast all consumers together may start operations, and how many may run together."""

import math
import re
from dataclasses import dataclass

from penstock.errors import Misconfigured

LEAST_RATE = 0.001
MOST_RATE = 1_000_000.0
MOST_OPERATIONS = 1_000_000_000
NAME_FORM = "1 to 64 letters, digits and the characters . _ -"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A limit that an application declares. All consumers of the fleet share it.

    An example::

        operations = Operations(limits={"stripe": Limit(rate=100, concurrency=20)})

        @operations.post("/charges", limit="stripe")
        async def charge(...): ...

    Args:
        rate: The number of operations that may start in a second. If it is None, Penstock learns the rate: it lowers
            the rate when operations are throttled, and raises it while they are not.
        burst: The number of operations that may start together after a quiet time. It is at least what the rate allows
            in 1.3 seconds.
        concurrency: The number of operations that may run at the same time, in all consumers together. A bulk call
            counts as one. If it is None, there is no such limit.

    Raises:
        Misconfigured: A value is out of its range.
    """

    rate: float | None = None
    burst: int | None = None
    concurrency: int | None = None

    def __post_init__(self) -> None:
        if self.rate is not None and not (_is_number(self.rate) and LEAST_RATE <= self.rate <= MOST_RATE):
            raise Misconfigured(
                f"The rate of a Limit is {self.rate!r}. Use a number of operations a second from {LEAST_RATE} to "
                f"{MOST_RATE:,.0f}, or None to let Penstock learn it."
            )
        for name, value in (("burst", self.burst), ("concurrency", self.concurrency)):
            if value is not None and not (_is_whole(value) and 1 <= value <= MOST_OPERATIONS):
                raise Misconfigured(
                    f"The {name} of a Limit is {value!r}. Use a whole number from 1 to {MOST_OPERATIONS:,}, or None."
                )


def is_limit_name(name: object) -> bool:
    """Return True if a limit may have this name."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
