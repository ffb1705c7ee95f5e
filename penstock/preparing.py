"""How an operation gets what is known only when others have run, such as its path: just before it starts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from penstock.chunk import Operation
from penstock.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Done:
    """An operation as it ran, and its outcome."""

    operation: Operation
    outcome: Outcome


Prepare = Callable[[Operation, Mapping[int, Done]], Operation | Outcome]
"""Returns an operation as it shall run, or its failure. It gets the operations that have an outcome, by index."""
