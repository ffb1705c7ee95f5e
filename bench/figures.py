"""Compute figures from samples: medians of the repeats of a case, per operation. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.application import SLOW_SECONDS, WAIT_SECONDS
from bench.bare import CONCURRENCY
from bench.cases import PENSTOCK, Case
from bench.counting import Tallies, Tally
from bench.installation import CONSUMER, FRONT_END
from bench.measure import Sample, Used
from penstock.cost import MILLION, Prices, sum_units

MIB = 1024 * 1024
_WAITING = {"wait": WAIT_SECONDS, "slow": SLOW_SECONDS}


@dataclass(frozen=True, slots=True)
class Contender:
    """All samples of one contender for one case."""

    samples: Sequence[Sample]

    @property
    def size(self) -> int:
        return self.samples[0].case.size

    @property
    def rate(self) -> float:
        """Return the operations per second, from the POST to the last result."""
        return self.size / self.seconds

    @property
    def seconds(self) -> float:
        return self._median(lambda sample: sample.seconds)

    @property
    def accepted_seconds(self) -> float:
        return self._median(lambda sample: sample.accepted_seconds)

    @property
    def finished_seconds(self) -> float:
        return self._median(lambda sample: sample.finished_seconds)

    @property
    def download_seconds(self) -> float:
        return self._median(lambda sample: sample.download_seconds)

    @property
    def spread_seconds(self) -> float:
        return self._median(lambda sample: sample.spread_seconds)

    @property
    def polls(self) -> float:
        """Return the calls for the status per 1,000 operations."""
        return self._median(lambda sample: sample.polls) * 1_000 / self.size

    def micros(self, *programs: str) -> float:
        """Return the CPU microseconds per operation, until the batch is finished, of all these programs together."""
        return self._per_operation(programs, lambda used: used.cpu_seconds)

    def download_micros(self, program: str) -> float:
        """Return the CPU microseconds per result line."""
        return self._per_operation((program,), lambda used: used.download_cpu_seconds)

    def memory_mib(self, program: str) -> float:
        """Return the memory of the largest program of this kind."""
        return self._median(lambda sample: max(used.memory_bytes for used in _programs(sample, (program,))) / MIB)

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
        return prices.usd(sum_units(tally.units for tally in self.calls.values())) * MILLION / 1_000

    def _per_operation(self, programs: tuple[str, ...], seconds: Callable[[Used], float]) -> float:
        each = self._median(lambda sample: sum(map(seconds, _programs(sample, programs)))) / self.size
        return each * MILLION

    def _median(self, figure: Callable[[Sample], float]) -> float:
        return median(map(figure, self.samples))


def ideal_seconds(case: Case) -> float | None:
    """Return the time of a batch that only waits, in all slots at the same time. None if its handler does not wait."""
    waiting = _WAITING.get(case.handler)
    return waiting and case.size * waiting / (case.consumers * CONCURRENCY)


def _programs(sample: Sample, names: tuple[str, ...]) -> list[Used]:
    return [used for name, used in sample.programs.items() if name.startswith(names)]


@dataclass(frozen=True, slots=True)
class Figures:
    samples: Sequence[Sample]

    def cases(self, contender: str = PENSTOCK) -> list[Case]:
        """Return the cases in which this contender was measured, each once, in the order of the run."""
        return list(dict.fromkeys(sample.case for sample in self.samples if sample.contender == contender))

    def of(self, case: Case, contender: str = PENSTOCK) -> Contender | None:
        found = self._samples(case, contender)
        return Contender(found) if found else None

    def last(self, case: Case, contender: str) -> Contender:
        """Return the last batch of a contender. Its memory is the peak of all batches on the same installation."""
        return Contender(self._samples(case, contender)[-1:])

    def largest(self, handler: str, contender: str = PENSTOCK, *, most: int = MILLION) -> Case | None:
        """Return the case without added latency that has the most operations, up to a limit."""
        fitting = [
            case
            for case in self.cases(contender)
            if case.handler == handler and case.size <= most and not case.latency_ms
        ]
        return max(fitting, key=lambda case: case.size, default=None)

    def growth_mib(self, case: Case, contender: str) -> float:
        """Return how much the front end and a consumer have grown in the second half of a row of batches."""
        row = self._samples(case, contender)
        return _memory_mib(row[-1]) - _memory_mib(row[(len(row) - 1) // 2])

    def _samples(self, case: Case, contender: str) -> list[Sample]:
        return [sample for sample in self.samples if (sample.case, sample.contender) == (case, contender)]


def _memory_mib(sample: Sample) -> float:
    largest = Contender([sample])
    return largest.memory_mib(FRONT_END) + largest.memory_mib(CONSUMER)
