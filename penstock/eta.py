"""Estimates when a batch will finish, as a band in which it does so in about 80 % of cases. Pure.

Each count adds its operations to a *slice* of the time for which the batch has run. Pauses of the batch are left out.
Slices become longer: each takes a fifth more than the one before. So 72 of them reach for two weeks, and the last half
of any run has about four. A slice is an attribute of a group's counter that the count increases anyway, so the history
costs no call.

The rate is that of the last half of the run. What came before the first outcomes is left out: programs that start, and
caches that are cold, say nothing about the rest. A slice without outcomes is a gap: AWS was away, or the queue was
paused. What came before it is left out as well. How much the slices differ says how wide the band is.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from penstock.batch import RUNNING_STATES, Batch

SLICES = 72
LEAST_SECONDS = 15.0  # since the first outcome
LEAST_OUTCOMES = 30
_FIRST_SECONDS = 4.0  # the first slice
_GROWTH = 1.2
_LEAST_SLICES = 3  # whose rates are compared
_NINTH_DECILES = (3.08, 1.89, 1.64, 1.53, 1.48, 1.44, 1.41, 1.40)  # of Student's distribution, by degrees of freedom
_LEAST_ERROR = 0.02  # of a rate, however even the slices are

_ENDS = tuple(accumulate([_FIRST_SECONDS] * SLICES, lambda end, _: end * _GROWTH))


@dataclass(frozen=True, slots=True)
class Band:
    """When a batch will probably finish. In one of ten cases it is before `earliest`, and in one after `latest`."""

    earliest: float
    likely: float
    latest: float


@dataclass(frozen=True, slots=True)
class _Slice:
    seconds: float
    outcomes: int

    @property
    def rate(self) -> float:
        return self.outcomes / self.seconds


def estimate_end(batch: Batch, completed: int, history: Iterable[Mapping[int, int]], now: float) -> Band | None:
    """Return the band of times (seconds since the epoch) in which the batch will finish. It ends at the deadline.

    `history` has those of the groups. Return None if too little is known, or if the batch is not running.
    """
    if batch.started_at is None or batch.state not in RUNNING_STATES or batch.is_paused(now):
        return None
    counted = Counter[int]()
    for one in history:
        counted.update(one)
    band = estimate(counted, batch.running_seconds(now), batch.total - completed)
    if band is None:
        return None
    return Band(*(min(now + seconds, batch.deadline_at) for seconds in (band.earliest, band.likely, band.latest)))


def slice_at(seconds: float) -> int:
    """Return the slice of an outcome that came when the batch had run for this number of seconds."""
    if seconds < _FIRST_SECONDS:
        return 0
    return min(SLICES - 1, 1 + int(math.log(seconds / _FIRST_SECONDS, _GROWTH)))


def estimate(history: Mapping[int, int], seconds: float, left: int) -> Band | None:
    """Return in how many seconds the operations that are left will finish. The batch has run for `seconds`.

    Return None if too little is known yet.
    """
    if left <= 0 or not history:
        return None
    slices = _last_half(_since_gap(history, slice_at(seconds)), seconds)
    outcomes, taken = sum(one.outcomes for one in slices), sum(one.seconds for one in slices)
    if len(slices) < _LEAST_SLICES or taken < LEAST_SECONDS / 2 or outcomes < LEAST_OUTCOMES:
        return None
    rate = outcomes / taken
    likely = left / rate
    error = rate * _LEAST_ERROR + _ninth_decile(len(slices) - 1) * _deviation(slices, rate, taken, likely)
    return Band(left / (rate + error), likely, left / max(rate - error, rate / 10))


def _since_gap(history: Mapping[int, int], last: int) -> dict[int, int]:
    """Return the slices after the last one without outcomes. The slice `last` is not over, so it may still get some."""
    gaps = [number for number in range(min(history), last) if number not in history]
    start = max(gaps, default=min(history))
    return {number: outcomes for number, outcomes in history.items() if number >= start}


def _last_half(history: Mapping[int, int], seconds: float) -> list[_Slice]:
    """Return the slices of the last half of the run, without the one of the first outcomes and those before it."""
    if not history:
        return []
    first, last = min(history) + 1, slice_at(seconds)
    if last < first or seconds - _start_of(first) < LEAST_SECONDS:
        return []
    middle = (_start_of(first) + seconds) / 2
    used = [number for number in range(first, last + 1) if _ENDS[number] > middle]
    slices = [_Slice(_ENDS[number] - _start_of(number), history.get(number, 0)) for number in used]
    return _cut_last(slices, seconds - _start_of(last))


def _cut_last(slices: list[_Slice], seconds: float) -> list[_Slice]:
    """Cut the last slice, which is not over yet. If it has only started, make it a part of the one before."""
    *others, last = slices
    cut = _Slice(seconds, last.outcomes)
    if not others or seconds > last.seconds / 2:
        return [*others, cut]
    return [*others[:-1], _Slice(others[-1].seconds + seconds, others[-1].outcomes + cut.outcomes)]


def _start_of(number: int) -> float:
    return _ENDS[number - 1] if number else 0.0


def _deviation(slices: Sequence[_Slice], rate: float, taken: float, left_seconds: float) -> float:
    """Return the standard deviation of the difference between this rate and that of the time that is left."""
    squares = sum(one.seconds * (one.rate - rate) ** 2 for one in slices) / (len(slices) - 1)
    return math.sqrt(squares * (1 / taken + 1 / left_seconds))


def _ninth_decile(degrees: int) -> float:
    return _NINTH_DECILES[min(degrees, len(_NINTH_DECILES)) - 1]
