"""The targets and the measured values. A run without a case has no row for it. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from bench.cases import BARE, FIRST, IN_A_ROW, LATER, LINES, NONE_FAILS, PENSTOCK, Case
from bench.figures import Figures, ideal_seconds
from bench.installation import CONSUMER, FRONT_END, PROGRAMS
from penstock.cost import Prices
from penstock.settings import Settings

HUNDRED_THOUSAND = 100_000
FASTER_THAN_BARE = {
    "noop": {1_000: 0.8, 10_000: 1.1, HUNDRED_THOUSAND: 1.7},
    "wait": {1_000: 1.0},
}
FIRST_RATIO = 1.25
FAILURES_RATIO = 1.1
BODIES = {"noop": "body and result 200 bytes", "order": "body 1 KB, result 200 bytes"}
MEMORY_MIB, GROWTH_MIB = 64, 8
NOT_MEASURED = "not measured here"


@dataclass(frozen=True, slots=True)
class Target:
    what: str
    case: str
    measured: str
    target: str
    verdict: str


def at_most(what: str, case: Case, measured: float, limit: float, form: str = "{:.2f}") -> Target:
    return Target(what, _words(case), form.format(measured), "≤ " + form.format(limit), _verdict(measured <= limit))


def at_least(what: str, case: Case, measured: float, limit: float, form: str = "{:.2f}") -> Target:
    return Target(what, _words(case), form.format(measured), "≥ " + form.format(limit), _verdict(measured >= limit))


def _verdict(is_met: bool) -> str:
    return "reached" if is_met else "missed"


ELSEWHERE = [
    Target("no-op: operations/s ÷ SAQ on Redis", "100,000", "", "≥ 1", NOT_MEASURED),
    Target("5 ms: operations/s ÷ SAQ on Redis", "10,000", "", "≥ 1", NOT_MEASURED),
    Target("no-op: operations/s ÷ taskiq on SQS", "10,000 and 100,000", "", "≥ 3", NOT_MEASURED),
    Target("exactness, fairness, priorities, memory of large results", "", "", "all tests", NOT_MEASURED),
]


def judge(figures: Figures, prices: Prices) -> list[Target]:
    return [
        *_speed(figures),
        *_ideal(figures),
        *_first(figures),
        *_failures(figures),
        *_cost(figures, prices),
        *_cpu(figures),
        *_latency(figures),
        *_row(figures),
        *ELSEWHERE,
    ]


def _speed(figures: Figures) -> Iterator[Target]:
    for case in figures.cases(BARE):
        limit = FASTER_THAN_BARE[case.handler].get(case.size)
        ours, bare = figures.of(case), figures.of(case, BARE)
        if limit and not case.latency_ms and ours and bare:
            yield at_least(f"{_handler(case)}: operations/s ÷ bare calls", case, ours.rate / bare.rate, limit)


def _ideal(figures: Figures) -> Iterator[Target]:
    for case in figures.cases():
        ideal, ours = ideal_seconds(case), figures.of(case)
        if (case.handler, case.size) == ("wait", 10_000) and ideal and ours:
            what = f"5 ms: operations/s ÷ the ideal {case.size / ideal:,.0f}"
            yield at_least(what, case, ideal / ours.seconds, 0.85)


def _first(figures: Figures) -> Iterator[Target]:
    for case in figures.cases(FIRST):
        first, later = figures.of(case, FIRST), figures.of(case, LATER)
        name = f"{_handler(case)}: first batch ÷ later batch"
        if first and later:
            yield at_most(f"{name}, time", case, first.seconds / later.seconds, FIRST_RATIO)
            yield at_most(f"{name}, AWS requests", case, first.requests / later.requests, FIRST_RATIO)
        if first and case.handler == "slow":
            chunk_seconds = Settings.model_fields["chunk_seconds"].default
            what = "500 ms: first batch, last consumer ends after the first, s"
            yield at_most(what, case, first.spread_seconds, chunk_seconds)


def _failures(figures: Figures) -> Iterator[Target]:
    case = figures.largest("noop", NONE_FAILS, most=HUNDRED_THOUSAND)
    if case and (some := figures.of(case)) and (none := figures.of(case, NONE_FAILS)):
        name = "1 % failing ÷ none failing"
        yield at_most(f"{name}, AWS requests", case, some.requests / none.requests, FAILURES_RATIO)
        yield at_most(f"{name}, CPU", case, some.micros(*PROGRAMS) / none.micros(*PROGRAMS), FAILURES_RATIO)


def _cost(figures: Figures, prices: Prices) -> Iterator[Target]:
    """Judge batches of 100,000 only. In a smaller one, the calls for the batch itself and the polls decide."""
    for case in figures.cases(NONE_FAILS):
        for contender, name in ((NONE_FAILS, "none failing"), (PENSTOCK, "1 % failing")):
            ours = figures.of(case, contender)
            if ours and case.size == HUNDRED_THOUSAND and case.handler == "noop":
                yield at_most(f"AWS requests per 1,000 operations, {name}", case, ours.requests, 4)
            if ours and case.size == HUNDRED_THOUSAND and case.handler in BODIES:
                what = f"USD per million operations, {BODIES[case.handler]}, {name}"
                yield at_most(what, case, ours.usd(prices), 0.04, "{:.4f}")


def _cpu(figures: Figures) -> Iterator[Target]:
    case = figures.largest("noop", most=HUNDRED_THOUSAND)
    if case and (ours := figures.of(case)):
        yield _micros("front end, an operation in JSON", case, ours.micros(FRONT_END), 12)
        if lines := figures.of(case, LINES):
            yield _micros("front end, an operation in NDJSON", case, lines.micros(FRONT_END), 12)
        yield _micros("consumer, a no-op operation", case, ours.micros(CONSUMER), 18)
        yield _micros("front end, a result line", case, ours.download_micros(FRONT_END), 5)
    case = figures.largest("wait", most=HUNDRED_THOUSAND)
    if case and (ours := figures.of(case)):
        yield _micros("consumer, an operation that waits 5 ms", case, ours.micros(CONSUMER), 50)


def _micros(what: str, case: Case, measured: float, limit: float) -> Target:
    return at_most(f"CPU µs: {what}", case, measured, limit, "{:.1f}")


def _latency(figures: Figures) -> Iterator[Target]:
    for case in figures.cases(BARE):
        ours, bare = figures.of(case), figures.of(case, BARE)
        if case.latency_ms and case.size == 1_000 and ours and bare:
            what = f"{case.latency_ms} ms added to each AWS call: time to completed ÷ bare calls"
            yield at_most(what, case, ours.finished_seconds / bare.finished_seconds, 1.5)


def _row(figures: Figures) -> Iterator[Target]:
    """Judge the memory here. In the other rounds, a JSON document of 100,000 operations was in memory before."""
    for case in figures.cases(IN_A_ROW):
        last = figures.last(case, IN_A_ROW)
        for program in PROGRAMS:
            what = f"batches in a row: MiB above idle, {program}"
            yield at_most(what, case, last.memory_mib(program), MEMORY_MIB, "{:.0f}")
        growth = figures.growth_mib(case, IN_A_ROW)
        yield at_most("batches in a row: growth in the second half, MiB", case, growth, GROWTH_MIB, "{:.0f}")
        if case.size == HUNDRED_THOUSAND and (row := figures.of(case, IN_A_ROW)):
            rate = row.size / row.finished_seconds
            yield at_least("batches in a row: operations/s until finished", case, rate, 33_000, "{:,.0f}")


def _handler(case: Case) -> str:
    return {"noop": "no-op", "wait": "5 ms", "slow": "500 ms"}[case.handler]


def _words(case: Case) -> str:
    consumers = "1 consumer" if case.consumers == 1 else f"{case.consumers} consumers"
    return f"{case.size:,}, {consumers}, {case.server}"
