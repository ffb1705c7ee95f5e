"""The targets and the measured values. A run without a case has no row for it. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from bench.application import WAIT_SECONDS
from bench.bare import CONCURRENCY
from bench.billing import Prices
from bench.cases import BARE, FIRST, IN_A_ROW, LATER, LINES, NONE_FAILS, PENSTOCK, Case
from bench.figures import Contender, Figures
from bench.installation import CONSUMER, FRONT_END, PROGRAMS
from penstock.settings import Settings

HUNDRED_THOUSAND = 100_000
FASTER_THAN_BARE = {
    "noop": {1_000: 0.8, 10_000: 1.1, HUNDRED_THOUSAND: 1.7},
    "wait": {1_000: 1.0},
}
FIRST_RATIO = 1.25
FAILURES_RATIO = 1.1
MEMORY_MIB, GROWTH_MIB = 64, 8
NOT_MEASURED = "not measured here"


@dataclass(frozen=True, slots=True)
class Target:
    what: str
    measured: str
    target: str
    verdict: str

    @classmethod
    def at_most(cls, what: str, measured: float, limit: float, form: str = "{:.2f}") -> "Target":
        return cls(what, form.format(measured), "≤ " + form.format(limit), _verdict(is_met=measured <= limit))

    @classmethod
    def at_least(cls, what: str, measured: float, limit: float, form: str = "{:.2f}") -> "Target":
        return cls(what, form.format(measured), "≥ " + form.format(limit), _verdict(is_met=measured >= limit))


def _verdict(*, is_met: bool) -> str:
    return "reached" if is_met else "missed"


ELSEWHERE = [
    Target("no-op: operations/s ÷ SAQ on Redis, 100,000", "", "≥ 1", NOT_MEASURED),
    Target("5 ms: operations/s ÷ SAQ on Redis, 10,000", "", "≥ 1", NOT_MEASURED),
    Target("no-op: operations/s ÷ taskiq on SQS, 10,000 and 100,000", "", "≥ 3", NOT_MEASURED),
    Target("exactness, fairness, priorities, memory of large results", "", "all tests", NOT_MEASURED),
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
        *_memory(figures),
        *_row(figures),
        *ELSEWHERE,
    ]


def _speed(figures: Figures) -> Iterator[Target]:
    for case in figures.cases(BARE):
        limit = FASTER_THAN_BARE[case.handler].get(case.size)
        if limit and not case.latency_ms and (ratio := _ratio(figures.of(case), figures.of(case, BARE))):
            yield Target.at_least(f"{_handler(case)}: operations/s ÷ bare calls, {_words(case)}", ratio, limit)


def _ratio(ours: Contender | None, bare: Contender | None) -> float | None:
    return ours.rate / bare.rate if ours and bare else None


def _ideal(figures: Figures) -> Iterator[Target]:
    for case in figures.cases():
        if (case.handler, case.size) == ("wait", 10_000) and (ours := figures.of(case)):
            ideal = case.consumers * CONCURRENCY / WAIT_SECONDS
            yield Target.at_least(
                f"{_handler(case)}: operations/s ÷ the ideal {ideal:,.0f}, {_words(case)}", ours.rate / ideal, 0.85
            )


def _first(figures: Figures) -> Iterator[Target]:
    for case in figures.cases(FIRST):
        first, later = figures.of(case, FIRST), figures.of(case, LATER)
        if first and later:
            name = f"{_handler(case)}: first batch ÷ later batch, {_words(case)}"
            yield Target.at_most(f"{name}, time", first.seconds / later.seconds, FIRST_RATIO)
            yield Target.at_most(f"{name}, requests", first.requests / later.requests, FIRST_RATIO)
        if first and case.handler == "slow":
            what = f"{_handler(case)}: first batch, seconds between first and last consumer, {_words(case)}"
            yield Target.at_most(what, first.spread_seconds, Settings.model_fields["chunk_seconds"].default)


def _failures(figures: Figures) -> Iterator[Target]:
    case = figures.largest("noop", NONE_FAILS, most=HUNDRED_THOUSAND)
    if case and (some := figures.of(case)) and (none := figures.of(case, NONE_FAILS)):
        name = f"1 % failing ÷ none failing, {_words(case)}"
        yield Target.at_most(f"{name}, requests", some.requests / none.requests, FAILURES_RATIO)
        yield Target.at_most(f"{name}, CPU", some.micros(*PROGRAMS) / none.micros(*PROGRAMS), FAILURES_RATIO)


def _cost(figures: Figures, prices: Prices) -> Iterator[Target]:
    for contender, name in ((NONE_FAILS, "none failing"), (PENSTOCK, "1 % failing")):
        case = figures.largest("noop", contender, most=HUNDRED_THOUSAND)
        if case and (ours := figures.of(case, contender)):
            yield Target.at_most(f"AWS requests per 1,000 operations, {name}, {_words(case)}", ours.requests, 4)
        case = figures.largest("order", contender, most=HUNDRED_THOUSAND)
        if case and (ours := figures.of(case, contender)):
            what = f"USD per million operations (body 1 KB, result 200 bytes), {name}, {_words(case)}"
            yield Target.at_most(what, ours.usd(prices), 0.04, "{:.4f}")


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
    return Target.at_most(f"CPU µs: {what}, {_words(case)}", measured, limit, "{:.1f}")


def _latency(figures: Figures) -> Iterator[Target]:
    for case in figures.cases(BARE):
        ours, bare = figures.of(case), figures.of(case, BARE)
        if case.latency_ms and case.size == 1_000 and ours and bare:
            what = f"{case.latency_ms} ms added to each AWS call: time to completed ÷ bare calls, {_words(case)}"
            yield Target.at_most(what, ours.finished_seconds / bare.finished_seconds, 1.5)


def _memory(figures: Figures) -> Iterator[Target]:
    case = figures.largest("noop", LINES)
    if case and (ours := figures.of(case, LINES)):
        for program in PROGRAMS:
            what = f"MiB above idle, {program}, {_words(case)}"
            yield Target.at_most(what, ours.memory_mib(program), MEMORY_MIB, "{:.0f}")


def _row(figures: Figures) -> Iterator[Target]:
    for case in figures.cases(IN_A_ROW):
        growth = figures.growth_mib(case, IN_A_ROW)
        yield Target.at_most(f"batches in a row: growth in MiB, {_words(case)}", growth, GROWTH_MIB, "{:.0f}")
        if case.size == HUNDRED_THOUSAND and (row := figures.of(case, IN_A_ROW)):
            rate = row.size / row.finished_seconds
            yield Target.at_least(f"batches in a row: operations/s, {_words(case)}", rate, 33_000, "{:,.0f}")


def _handler(case: Case) -> str:
    return {"noop": "no-op", "wait": "5 ms", "slow": "500 ms"}.get(case.handler, case.handler)


def _words(case: Case) -> str:
    consumers = "1 consumer" if case.consumers == 1 else f"{case.consumers} consumers"
    return f"{case.size:,}, {consumers}, {case.server}"
