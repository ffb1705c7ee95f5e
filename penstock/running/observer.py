"""The port for code that follows attempts from start to end, such as tracing."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from penstock.chunk import Operation
from penstock.outcome import Verdict


class Observation(Protocol):
    """An attempt that is being observed."""

    def end(self, verdicts: Mapping[int, Verdict]) -> None:
        """Note the verdicts. This is not called for an attempt that was cut short or that raised."""


class Observer(Protocol):
    """Follows the attempts of a runner. It must not raise and must not block."""

    def attempting(
        self, handler: str, batch_id: str, operations: Sequence[Operation], attempt: int
    ) -> AbstractContextManager[Observation]:
        """Return a context manager that is open while `handler` performs `operations` in one call."""
