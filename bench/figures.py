"""Compute figures from samples: medians of the repeats of a case, per operation, and relative to the floors. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from bench.billing import MILLION, Prices, Units
from bench.counting import Tallies, Tally
from bench.installation import BARE_PROGRAMS, PROGRAMS
from bench.measure import FLOOR_B, PENSTOCK, Case, Sample

MIB = 1024 * 1024


class Shares(NamedTuple):
    """The shares of the CPU seconds of all programs that worked on a batch. They add up to 1."""

    ours: float
    library: float
    server: float


def shares(programs_seconds: float, requests: float, seconds_per_request: float, server_seconds: float) -> Shares:
    """Compute the shares. That of the client library is the cost of as many bare calls, at most the total."""
    library = min(requests * seconds_per_request, programs_seconds)
    whole = programs_seconds + server_seconds
    return Shares((programs_seconds - library) / whole, library / whole, server_seconds / whole)


@dataclass(frozen=True, slots=True)
class Contender:
    """All samples of one contender for one case."""

    samples: Sequence[Sample]

    @property
    def size(self) -> int:
        return self.samples[0].case.size

    @property
    def rate(self) -> float:
        """Return the operations per second."""
        return self.size / self._median(lambda sample: sample.seconds)

    @property
    def first_seconds(self) -> float:
        return self._median(lambda sample: sample.first_seconds)

    def cpu(self, *programs: str) -> float:
        """Return the CPU seconds of all programs whose name starts with one of these names."""
        return self._median(
            lambda sample: sum(used.cpu_seconds for name, used in sample.programs.items() if name.startswith(programs))
        )

    @property
    def server_cpu(self) -> float:
        return self.cpu(*self.samples[0].case.server_programs)

    def memory_mib(self, *programs: str) -> float:
        """Return the memory of the largest of these programs."""
        return self._median(
            lambda sample: (
                max(used.memory_bytes for name, used in sample.programs.items() if name.startswith(programs)) / MIB
            )
        )

    @property
    def calls(self) -> Tallies:
        """Return the usage per 1,000 operations for each kind of call."""
        names = sorted({name for sample in self.samples for name in sample.calls})
        return {name: self._call(name).times(1_000 / self.size) for name in names}

    def _call(self, name: str) -> Tally:
        tallies = [sample.calls.get(name, Tally()) for sample in self.samples]
        return Tally(**{field: median(getattr(tally, field) for tally in tallies) for field in Tally.model_fields})

    @property
    def requests(self) -> float:
        """Return the requests per 1,000 operations."""
        return sum(tally.requests for tally in self.calls.values())

    def usd(self, prices: Prices) -> float:
        """Return the price per million operations for requests, writes and reads, without compute."""
        units = [tally.units for tally in self.calls.values()]
        return prices.usd(Units(*map(sum, zip(*units, strict=True)))) * MILLION / 1_000

    def _median(self, figure: Callable[[Sample], float]) -> float:
        return median(map(figure, self.samples))


@dataclass(frozen=True, slots=True)
class Figures:
    samples: Sequence[Sample]

    def cases(self) -> list[Case]:
        """Return the cases for which Penstock was measured, each once, in the order of the run."""
        return list(dict.fromkeys(sample.case for sample in self.samples if sample.contender == PENSTOCK))

    def of(self, case: Case, contender: str = PENSTOCK) -> Contender | None:
        found = [one for one in self.samples if one.contender == contender and one.case == case]
        return Contender(found) if found else None

    def largest(self, handler: str, *, server: str | None = None, most: int = MILLION) -> Case | None:
        """Return the case with the most operations, up to a limit, and then with the most consumers."""
        fitting = [
            case
            for case in self.cases()
            if case.handler == handler and case.size <= most and server in {None, case.server}
        ]
        return max(fitting, key=lambda case: (case.size, case.consumers), default=None)

    def shares(self, case: Case) -> Shares | None:
        ours, bare = self.of(case), self.of(case.model_copy(update={"handler": "noop"}), FLOOR_B)
        if ours is None or bare is None:
            return None
        per_request = bare.cpu(*BARE_PROGRAMS) / (bare.requests * bare.size / 1_000)
        return shares(ours.cpu(*PROGRAMS), ours.requests * ours.size / 1_000, per_request, ours.server_cpu)
