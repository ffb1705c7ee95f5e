"""Keeps what this process has spent on each batch, until a write to the batch or to one of its groups reports it.

No call is made for that. So what a process spends on a batch after its last report is lost. The usual calls that
follow a report are part of it in advance.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from penstock.cost import Units
from penstock.latest import Latest

MOST_BATCHES = 1_000  # that are remembered; the front end only reads most of its batches after their acceptance

_NOTHING = Units()


@dataclass(slots=True)
class Report:
    """What a write reports. Set `is_done` if the write took effect. Otherwise, the next one reports it."""

    units: Units
    is_done: bool = False


class Bills:
    """There is one in each process."""

    def __init__(self) -> None:
        self._spent = Latest[str, list[float]](MOST_BATCHES)

    def add(
        self, batch_id: str, *, sqs: float = 0.0, writes: float = 0.0, reads: float = 0.0, requests: float = 0.0
    ) -> None:
        """Add what a call has cost. This is called for each call, so it creates nothing."""
        spent = self._spent.get(batch_id)
        if spent is None:
            spent = self._spent.put(batch_id, [0.0, 0.0, 0.0, 0.0])
        spent[0] += sqs
        spent[1] += writes
        spent[2] += reads
        spent[3] += requests

    def add_units(self, batch_id: str, units: Units) -> None:
        if units != _NOTHING:
            self.add(batch_id, sqs=units.sqs, writes=units.writes, reads=units.reads, requests=units.requests)

    @contextmanager
    def report(self, batch_id: str, ahead: Units) -> Iterator[Report]:
        """Take what was spent on a batch, to report it in the write that is made in the block.

        `ahead` is what this write and the calls after it cost as a rule. It is reported, too, and subtracted from what
        they really cost.
        """
        spent = Units(*self._spent.pop(batch_id, ()))
        report = Report(spent + ahead)
        try:
            yield report
        finally:
            self.add_units(batch_id, ahead.times(-1) if report.is_done else spent)
