"""What the outcomes of a submitted file show, collected while they are read."""

from dataclasses import dataclass, field

from penstock.cli.submitted_file import OperationsToSubmit, ToSubmit
from penstock.client import Outcome

LISTED = 10  # failures, and errors of a rejected batch


@dataclass(slots=True)
class Findings:
    """The figures of the outcomes, and the first failures, each with its index in the file."""

    seconds: float = 0.0
    as_expected: int = 0
    failures: list[tuple[int, Outcome]] = field(default_factory=list)

    def add(self, file: ToSubmit, index: int, outcome: Outcome) -> None:
        if file.has_expectations and isinstance(file, OperationsToSubmit):
            is_failure = outcome.status not in file.expected(index)
            self.as_expected += not is_failure
        else:
            is_failure = not outcome.succeeded
        if is_failure and len(self.failures) < LISTED:
            self.failures.append((index, outcome))
