"""Checks retries of chosen failures: what a client has chosen runs again, whoever else has chosen it."""

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from penstock.outcome import OutcomeState
from tests.simulation.truth import Truth

if TYPE_CHECKING:
    from tests.simulation.promises import BatchFacts

_ROUND = re.compile(r"(.+\.d)([0-9]+)")

Check = Callable[[bool, int, str], None]
Failure = tuple[str, int, str]  # a batch, the index of an operation, and the chunk in which it failed


def letter_of(chunk_id: str) -> tuple[str, bool] | None:
    """Return what all rounds of a dead letter have in common, or None if the chunk is no round."""
    match = _ROUND.fullmatch(chunk_id)
    return None if match is None else (match[1], int(match[2]) % 2 == 1)


def is_same_letter(chunk_id: str, other: str) -> bool:
    """Return True if two ids are equal, or are rounds of the same dead letter. Then they may share their operations."""
    return chunk_id == other or (letter_of(chunk_id) == letter_of(other) is not None)


class Retries:
    """`chosen` are the failures that a client has chosen, and whose retry was answered with success."""

    def __init__(self, truth: Truth, check: Check) -> None:
        self.chosen: set[Failure] = set()
        self._truth = truth
        self._check = check

    def failures(self, batch_id: str, facts: "BatchFacts", indexes: Iterable[int]) -> set[Failure]:
        """Return those of these operations that have failed, as far as it is counted."""
        found = {index: facts.outcome(index, counted=True) for index in indexes}
        return {
            (batch_id, index, outcome[1])
            for index, outcome in found.items()
            if outcome is not None and outcome[0].state is OutcomeState.FAILED
        }

    def check_end(self, facts_of: Callable[[str], "BatchFacts"]) -> None:
        """Check that each chosen failure has run again, unless a message of the batch was lost."""
        lost = {batch_id for batch_id, _ in self._truth.lost}
        for batch_id, index, chunk_id in sorted(self.chosen):
            found = facts_of(batch_id).outcome(index, counted=True)
            has_run = found is not None and found[1] != chunk_id
            words = (
                f"operation {index} of batch {batch_id} failed in chunk {chunk_id}. It was chosen, and never ran again"
            )
            self._check(has_run or batch_id in lost, 7, words)
