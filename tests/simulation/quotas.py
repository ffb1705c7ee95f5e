"""Checks the charges of a quota: nothing is accepted without one, and nobody keeps one without being accepted.

A charge is what the table shows: an attribute that appears, together with a later TAT. It ends when the attribute
disappears: it is given back if the TAT is earlier then, and settled if not.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from penstock.quota import NANOSECONDS, Quota
from tests.simulation.expressions import Item
from tests.simulation.process import EPOCH
from tests.simulation.truth import Truth

PREFIX = "charge_"
LONGEST_CALL_SECONDS = 40.0  # until a call takes effect that was decided before, or its answer is there
MARGIN_SECONDS = 2.0  # by which a charge lapses later, because clocks differ


@dataclass
class ChargeFacts:
    """The facts about the charge of one batch."""

    batch_id: str
    cost: int
    lapses_at: int
    tat: int  # right after it
    given_back: bool = False
    is_open: bool = True


@dataclass
class Quotas:
    now: Callable[[], float]
    truth: Truth
    check: Callable[[bool, int, str], None]
    accept_seconds: float = 60.0
    quota: Quota | None = None
    charges: dict[str, ChargeFacts] = field(default_factory=dict)  # by the ids of their batches
    accepted: set[str] = field(default_factory=set)

    def on_write(self, before: Item, after: Item) -> None:
        tat_before, tat = _tat(before), _tat(after)
        new, ended = _charges(after) - _charges(before), _charges(before) - _charges(after)
        self.check(len(new) <= 1, 8, f"{new} are charged in one write")
        for name in new:
            self._on_charge(name, after, tat_before)
        for charge in (self._charge(name) for name in ended):
            charge.is_open = False
            if tat < tat_before:
                self._on_give_back(charge, tat_before - tat, ended)
            else:
                self._on_settle(charge)
        is_right = tat == tat_before or bool(new) or (bool(ended) and tat < tat_before)
        self.check(is_right, 8, f"the TAT moves from {tat_before} to {tat} without a charge")

    def _on_charge(self, name: str, after: Item, tat_before: int) -> None:
        assert self.quota is not None
        lapses_at, cost, batch_id = name.removeprefix(PREFIX).split("_", 2)
        tat = _tat(after)
        latest = self._nanoseconds(self.now() + self.truth.most_skew) + self.quota.window
        self.check(int(after[name]["N"]) == tat >= tat_before + int(cost), 8, f"{name} moves the TAT to {tat}")
        self.check(tat <= latest, 8, f"{name} moves the TAT to {tat}, and {latest} is the latest")
        self.check(batch_id not in self.charges, 8, f"batch {batch_id} is charged twice")
        self.charges[batch_id] = ChargeFacts(batch_id, int(cost), int(lapses_at), tat)

    def _on_give_back(self, charge: ChargeFacts, moved: int, ended: Collection[str]) -> None:
        charge.given_back = True
        words = f"the charge of {charge.batch_id} is given back"
        self.check(len(ended) == 1, 8, f"{words} together with others: {ended}")
        self.check(charge.batch_id not in self.accepted, 8, f"{words}, but the batch was accepted")
        # What has come back by itself must not be given back. The front end decided a moment ago, by its own clock.
        decided_at = self.now() - self.truth.most_skew - LONGEST_CALL_SECONDS
        most = min(charge.cost, charge.tat - self._nanoseconds(decided_at))
        self.check(moved <= most, 8, f"{words} with {moved} ns, which is more than {most} ns")

    def _on_settle(self, charge: ChargeFacts) -> None:
        """Check that the operations were accepted, or that they ran in the front end, or that nothing is left of it."""
        has_run = any(batch_id == charge.batch_id for batch_id, _ in self.truth.runs)
        is_drained = charge.tat <= self._nanoseconds(self.now() + self.truth.most_skew)
        is_right = charge.batch_id in self.accepted or has_run or is_drained
        self.check(is_right, 8, f"the charge of {charge.batch_id} is settled, but nobody accepted the batch")

    def on_accepted(self, batch_id: str, total: int) -> None:
        self.accepted.add(batch_id)
        if self.quota is None:
            return
        charge = self.charges.get(batch_id)
        is_charged = charge is not None and not charge.given_back and charge.cost == self.quota.cost(total)
        self.check(is_charged, 8, f"batch {batch_id} with {total} operations is accepted with the charge {charge}")

    def on_answered(self, label: str, total: int) -> None:
        """Check that one of the batches that became of a submission is charged, when its results are the answer."""
        if self.quota is None:
            return
        ids = {batch_id for batch_id, operation_id in self.truth.runs if operation_id.partition("-")[0] == label}
        found = [self.charges[batch_id] for batch_id in ids & self.charges.keys()]
        is_charged = any(not charge.given_back and charge.cost == self.quota.cost(total) for charge in found)
        self.check(is_charged, 8, f"{label} is answered, and its charges are {found}")

    def on_rejected(self) -> None:
        """Check that what stands in the way of a request are no charges of front ends that died long ago."""
        for charge in self.charges.values():
            over_at = charge.lapses_at - EPOCH + self.accept_seconds + MARGIN_SECONDS + 2 * self.truth.most_skew
            is_in_the_way = charge.is_open and charge.batch_id not in self.accepted
            has_run = any(batch_id == charge.batch_id for batch_id, _ in self.truth.runs)
            is_late = self.now() > over_at + LONGEST_CALL_SECONDS
            is_right = not is_in_the_way or has_run or not is_late
            self.check(is_right, 8, f"a request is rejected because of {charge}, which lapsed")

    def _charge(self, name: str) -> ChargeFacts:
        return self.charges[name.removeprefix(PREFIX).split("_", 2)[2]]

    @staticmethod
    def _nanoseconds(now: float) -> int:
        return int((EPOCH + now) * NANOSECONDS)


def _tat(item: Item) -> int:
    return int(item["tat"]["N"]) if "tat" in item else 0


def _charges(item: Item) -> set[str]:
    return {name for name in item if name.startswith(PREFIX)}
