"""How values are spread, in little room: buckets whose bounds grow by a tenth. Pure.

A bucket answers for all that is in it with one value, its geometric middle, so a quantile is off by at most 4.9 % of
itself (`RELATIVE_ERROR`); count, total and the largest are exact. Values below a microsecond share the first bucket.
"""

import math
from collections.abc import Iterator

BUCKETS_PER_DECADE = 24  # a growth of 10^(1/24); every power of ten is a bound
RELATIVE_ERROR = 10 ** (1 / (2 * BUCKETS_PER_DECADE)) - 1
SMALLEST = 1e-6

_PER_E = BUCKETS_PER_DECADE / math.log(10)
_OFFSET = (
    -math.log(SMALLEST) * _PER_E - 1e-9
)  # a value that is a bound stays below it, however its logarithm is rounded
_log, _ceil = math.log, math.ceil


class Histogram:
    """Bucket n holds what is above `upper_bound(n - 1)` and not above `upper_bound(n)`; a dictionary of the few in use.

    Adding takes about a third of a microsecond.
    """

    __slots__ = ("buckets", "largest", "total")

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}
        self.total = 0.0
        self.largest = 0.0

    def add(self, value: float) -> None:
        bucket = _ceil(_log(value) * _PER_E + _OFFSET) if value > SMALLEST else 0
        buckets = self.buckets
        buckets[bucket] = buckets.get(bucket, 0) + 1
        self.total += value
        if value > self.largest:  # noqa: PLR1730 - max() takes as long as the rest of this
            self.largest = value

    def merge(self, other: "Histogram") -> None:
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count
        self.total += other.total
        self.largest = max(self.largest, other.largest)

    @property
    def count(self) -> int:
        return sum(self.buckets.values())

    @property
    def mean(self) -> float:
        return self.total / count if (count := self.count) else 0.0

    def quantile(self, share: float) -> float:
        """The smallest value that so large a share of all does not exceed; 0 when there is none."""
        wanted = max(1, math.ceil(share * self.count))
        for value, count in self.values():
            wanted -= count
            if wanted <= 0:
                return value
        return self.largest

    def values(self) -> Iterator[tuple[float, int]]:
        """A value for each bucket in use, and how many are in it; smallest first."""
        for bucket, count in sorted(self.buckets.items()):
            yield min(_middle(bucket), self.largest), count

    def count_up_to(self, bucket: int) -> int:
        """How many are not above this bucket's upper bound."""
        return sum(count for other, count in self.buckets.items() if other <= bucket)


def upper_bound(bucket: int) -> float:
    return float(SMALLEST * 10 ** (bucket / BUCKETS_PER_DECADE))


def _middle(bucket: int) -> float:
    return SMALLEST if bucket == 0 else upper_bound(bucket) / (1 + RELATIVE_ERROR)
