"""A histogram that needs little memory: each bucket's bound is a tenth larger than the previous one. Pure.

All values in a bucket are represented by its geometric middle, so a quantile has a relative error of at most 4.9 %
(`RELATIVE_ERROR`). The count, the total and the largest value are exact. Values below a microsecond share the first
bucket.
"""

import math
from collections.abc import Iterator, Sequence

BUCKETS_PER_DECADE = 24  # a growth of 10^(1/24); every power of ten is a bound
RELATIVE_ERROR = 10 ** (1 / (2 * BUCKETS_PER_DECADE)) - 1
SMALLEST = 1e-6

_PER_E = BUCKETS_PER_DECADE / math.log(10)
_OFFSET = (
    -math.log(SMALLEST) * _PER_E - 1e-9
)  # a value equal to a bound stays in its bucket, even if its logarithm is rounded up
_log, _ceil = math.log, math.ceil


class Histogram:
    """A histogram of seconds. Bucket n holds the values above `upper_bound(n - 1)` and up to `upper_bound(n)`.

    `buckets` contains only the buckets that have values. Adding a value takes about a third of a microsecond.
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
        if value > self.largest:  # noqa: PLR1730 - max() takes as long as the rest of this method
            self.largest = value

    def add_all(self, values: Sequence[float]) -> None:
        """Add values, in half of the time that adding each of them takes."""
        buckets = self.buckets
        for value in values:
            bucket = _ceil(_log(value) * _PER_E + _OFFSET) if value > SMALLEST else 0  # as in `add`
            buckets[bucket] = buckets.get(bucket, 0) + 1
        self.total += sum(values)
        self.largest = max((self.largest, *values))

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
        """Return the smallest value that at least this share of all values does not exceed, or 0 if there is none."""
        wanted = max(1, math.ceil(share * self.count))
        for value, count in self.values():
            wanted -= count
            if wanted <= 0:
                return value
        return self.largest

    def values(self) -> Iterator[tuple[float, int]]:
        """Yield a value for each used bucket, and the number of values in it; the smallest first."""
        for bucket, count in sorted(self.buckets.items()):
            yield min(_middle(bucket), self.largest), count

    def count_up_to(self, bucket: int) -> int:
        """Return the number of values that do not exceed this bucket's upper bound."""
        return sum(count for other, count in self.buckets.items() if other <= bucket)


def upper_bound(bucket: int) -> float:
    """Return the largest value of a bucket, in seconds."""
    return float(SMALLEST * 10 ** (bucket / BUCKETS_PER_DECADE))


def _middle(bucket: int) -> float:
    return SMALLEST if bucket == 0 else upper_bound(bucket) / (1 + RELATIVE_ERROR)
