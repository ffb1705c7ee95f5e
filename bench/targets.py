"""The performance targets and the measured values. A run with fewer sizes is judged by the sizes it has. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.alone import CONCURRENCY
from bench.application import WAIT_SECONDS
from bench.billing import Prices
from bench.figures import Contender, Figures
from bench.installation import ALONE, CONSUMER, FRONT_END, PROGRAMS
from bench.measure import FLOOR_A, FLOOR_B, FLOOR_B10, Case
from bench.reads import Reads
from bench.servers import EMBEDDED, REAL

HUNDRED_THOUSAND = 100_000


@dataclass(frozen=True, slots=True)
class Target:
    what: str
    measured: str
    target: str
    is_met: bool

    @classmethod
    def at_most(cls, what: str, measured: float, limit: float, form: str = "{:.2f}") -> "Target":
        return cls(what, form.format(measured), "≤ " + form.format(limit), measured <= limit)

    @classmethod
    def at_least(cls, what: str, measured: float, limit: float, form: str = "{:.2f}") -> "Target":
        return cls(what, form.format(measured), "≥ " + form.format(limit), measured >= limit)


def judge(figures: Figures, reads: Sequence[Reads], prices: Prices) -> list[Target]:
    return [
        *_requests(figures),
        *_usd(figures, prices),
        *_end_to_end(figures),
        *_cpu(figures),
        *_accepting(figures),
        *_waiting(figures),
        *_memory(figures),
        *_growth(figures),
        *_reads(reads),
    ]


def _requests(figures: Figures) -> Iterator[Target]:
    case = figures.largest("noop", most=HUNDRED_THOUSAND)
    if case and (ours := figures.of(case)):
        yield Target.at_most(f"AWS requests per 1,000 operations, {_words(case)}", ours.requests, 4)


def _usd(figures: Figures, prices: Prices) -> Iterator[Target]:
    case = figures.largest("order", most=HUNDRED_THOUSAND)
    if case and (ours := figures.of(case)):
        what = f"USD per million operations, 1 KB body and 200-byte result, {_words(case)}"
        yield Target.at_most(what, ours.usd(prices), 0.04, "{:.4f}")


def _end_to_end(figures: Figures) -> Iterator[Target]:
    for case in figures.cases():
        limit = 1.3 if case.server == EMBEDDED else 1.0
        sizes = (10_000, HUNDRED_THOUSAND) if case.server == EMBEDDED else (HUNDRED_THOUSAND,)
        is_asked_for = case == figures.largest("noop", server=case.server, most=case.size) and case.size in sizes
        for floor in (FLOOR_B, FLOOR_B10):
            ours, bare = figures.of(case), figures.of(case, floor)
            if is_asked_for and ours and bare:
                yield Target.at_least(f"operations/s ÷ {floor}, {_words(case)}", ours.rate / bare.rate, limit)


def _cpu(figures: Figures) -> Iterator[Target]:
    for server in (EMBEDDED, REAL):
        case = figures.largest("noop", server=server, most=HUNDRED_THOUSAND)
        if case and (ours := figures.of(case)) and (alone := figures.of(case, FLOOR_A)):
            ratio = ours.cpu(*PROGRAMS) / alone.cpu(ALONE)
            yield Target.at_most(f"CPU of our programs ÷ {FLOOR_A}, {_words(case)}", ratio, 2.5)


def _accepting(figures: Figures) -> Iterator[Target]:
    for server in (EMBEDDED, REAL):
        case = figures.largest("noop", server=server, most=1_000)
        if case and (ours := figures.of(case)) and (floor := _accept_floor(figures, case)):
            what = f"request to 202 ÷ (validate alone + bare sends), {_words(case)}"
            yield Target.at_most(what, ours.first_seconds / floor, 1.5)


def _accept_floor(figures: Figures, case: Case) -> float | None:
    alone, bare = figures.of(case, FLOOR_A), figures.of(case, FLOOR_B)
    return alone.first_seconds + bare.first_seconds if alone and bare else None


def _waiting(figures: Figures) -> Iterator[Target]:
    for server in (EMBEDDED, REAL):
        case = figures.largest("wait", server=server, most=HUNDRED_THOUSAND)
        if case and (ours := figures.of(case)):
            ideal = case.consumers * CONCURRENCY / WAIT_SECONDS
            what = f"operations/s ÷ the ideal {ideal:,.0f}, {_words(case)}"
            yield Target.at_least(what, ours.rate / ideal, 0.85)


def _memory(figures: Figures) -> Iterator[Target]:
    case = figures.largest("noop")
    if case and (ours := figures.of(case)):
        for program in (FRONT_END, CONSUMER):
            what = f"MiB above idle, {program}, {_words(case)}"
            yield Target.at_most(what, ours.memory_mib(program), 64, "{:.0f}")


def _growth(figures: Figures) -> Iterator[Target]:
    large = figures.largest("noop")
    small = large and figures.largest("noop", server=large.server, most=10_000)
    if not (large and small) or large.size == small.size:
        return
    before, after = figures.of(small), figures.of(large)
    if before and after:
        span = f"{small.size:,} to {large.size:,}, {large.server}"
        yield Target.at_most(f"growth of our CPU per operation, {span}", _cpu_each(after) / _cpu_each(before), 1.1)
        yield Target.at_most(f"growth of requests per operation, {span}", after.requests / before.requests, 1.1)


def _cpu_each(contender: Contender) -> float:
    return contender.cpu(*PROGRAMS) / contender.size


def _reads(reads: Sequence[Reads]) -> Iterator[Target]:
    if reads:
        one = max(reads, key=lambda one: one.size)
        sizes = f"batch of {one.size:,} ÷ {one.small_size:,}, {one.server}"
        yield Target.at_most(f"status call, {sizes}", one.status_seconds / one.small_status_seconds, 3)
        yield Target.at_most(f"results page, {sizes}", one.page_seconds / one.small_page_seconds, 1.5)


def _words(case: Case) -> str:
    consumers = "1 consumer" if case.consumers == 1 else f"{case.consumers} consumers"
    return f"{case.size:,}, {consumers}, {case.server}"
