"""Show the results of a run: the targets, and one table for each question. The plot is in plot.py."""

from collections.abc import Iterator, Sequence

from rich.console import Group
from rich.table import Table

from bench.cases import BARE, FIRST, IN_A_ROW, LATER, LINES, NONE_FAILS, PENSTOCK, Case
from bench.figures import Contender, Figures, ideal_seconds
from bench.installation import BARE_CONSUMER, BARE_FRONT_END, CONSUMER, FRONT_END, PROGRAMS
from bench.targets import judge
from penstock.cost import Prices

CASE = ("server", "handler", "operations", "consumers")
COLOURS = {"reached": "green", "missed": "red"}


def tables(figures: Figures, prices: Prices) -> Group:
    return Group(
        targets_table(figures, prices),
        speed_table(figures),
        first_table(figures),
        failures_table(figures, prices),
        latency_table(figures),
        cpu_table(figures),
        memory_table(figures),
        calls_table(figures, prices),
    )


def targets_table(figures: Figures, prices: Prices) -> Table:
    table = _table("Are the targets reached?", ("what", "case"), ("measured", "target", ""))
    for target in judge(figures, prices):
        colour = COLOURS.get(target.verdict, "default")
        table.add_row(target.what, target.case, target.measured, target.target, f"[{colour}]{target.verdict}[/]")
    return table


def speed_table(figures: Figures) -> Table:
    """Compare Penstock with the bare calls, from the POST to the last result."""
    columns = ("accepted, s", "finished, s", "downloaded, s", "operations/s", "bare calls", "÷ bare calls")
    table = _table("How fast is it? From POST to the last result, 1 % failing", CASE, columns)
    for case, ours in _measured(figures, PENSTOCK):
        if case.latency_ms or case.handler == "order":
            continue
        bare = figures.of(case, BARE)
        table.add_row(*_name(case), *_seconds(ours), f"{ours.rate:,.0f}", *_bare_rate(ours, bare))
    return table


def _seconds(ours: Contender) -> tuple[str, ...]:
    return tuple(f"{one:.3f}" for one in (ours.accepted_seconds, ours.finished_seconds, ours.download_seconds))


def _bare_rate(ours: Contender, bare: Contender | None) -> tuple[str, str]:
    return (f"{bare.rate:,.0f}", f"{ours.rate / bare.rate:.2f}") if bare else ("", "")


def first_table(figures: Figures) -> Table:
    columns = ("ideal, s", "first, s", "later, s", "time ÷ later", "requests ÷ later", "last consumer after first, s")
    table = _table("How fast is the first batch ever of a handler?", CASE, columns)
    for case, first in _measured(figures, FIRST):
        if later := figures.of(case, LATER):
            ratios = first.seconds / later.seconds, first.requests / later.requests
            spread = f"{first.spread_seconds:.2f}" if case.handler == "slow" else ""
            times = f"{first.seconds:.3f}", f"{later.seconds:.3f}"
            ideal = f"{seconds:.3f}" if (seconds := ideal_seconds(case)) else ""
            table.add_row(*_name(case), ideal, *times, *(f"{ratio:.2f}" for ratio in ratios), spread)
    return table


def failures_table(figures: Figures, prices: Prices) -> Table:
    columns = (
        "failing",
        "requests per 1,000",
        "polls per 1,000",
        "USD per million",
        "CPU µs per operation",
        "operations/s",
    )
    table = _table("What do failures and a batch cost?", CASE, columns)
    for contender, share in ((NONE_FAILS, "none"), (PENSTOCK, "1 %")):
        for case, ours in _measured(figures, contender):
            if not case.latency_ms and figures.of(case, NONE_FAILS):
                calls = f"{ours.requests:.2f}", f"{ours.polls:.2f}", f"{ours.usd(prices):.4f}"
                speed = f"{ours.micros(*PROGRAMS):.1f}", f"{ours.rate:,.0f}"
                table.add_row(*_name(case), share, *calls, *speed)
    return table


def latency_table(figures: Figures) -> Table:
    columns = ("added, ms", "accepted, s", "completed, s", "bare calls: accepted, s", "completed, s", "÷ bare calls")
    table = _table("What does a slow network cost? From POST to completed", CASE, columns)
    for case, ours in _measured(figures, PENSTOCK):
        if case.latency_ms and (bare := figures.of(case, BARE)):
            seconds = (*_accepted_and_finished(ours), *_accepted_and_finished(bare))
            ratio = f"{ours.finished_seconds / bare.finished_seconds:.2f}"
            table.add_row(*_name(case), str(case.latency_ms), *seconds, ratio)
    return table


def _accepted_and_finished(contender: Contender) -> tuple[str, str]:
    return f"{contender.accepted_seconds:.3f}", f"{contender.finished_seconds:.3f}"


def cpu_table(figures: Figures) -> Table:
    table = _table("How much CPU? Microseconds", (*CASE, "contender"), ("front end", "consumers", "per result line"))
    for contender in (PENSTOCK, LINES, BARE):
        front_end, consumer = (BARE_FRONT_END, BARE_CONSUMER) if contender == BARE else PROGRAMS
        for case, found in _measured(figures, contender):
            if not case.latency_ms:
                micros = found.micros(front_end), found.micros(consumer), found.download_micros(front_end)
                table.add_row(*_name(case), contender, *(f"{one:.1f}" for one in micros))
    return table


def memory_table(figures: Figures) -> Table:
    """Show the peak memory. It includes all earlier batches of the same installation, so it only grows."""
    table = _table("How much memory? Peak MiB above idle", (*CASE, "contender"), ("front end", "largest consumer"))
    for contender in (PENSTOCK, LINES, IN_A_ROW):
        for case, found in _measured(figures, contender):
            if not case.latency_ms:
                memory = (f"{found.memory_mib(program):.0f}" for program in (FRONT_END, CONSUMER))
                table.add_row(*_name(case), contender, *memory)
    return table


def calls_table(figures: Figures, prices: Prices) -> Table:
    """Show the calls for the largest no-op batch up to 100,000 operations."""
    columns = ("requests", "SQS units", "write units", "read units", "USD/million operations")
    table = _table("Which AWS calls? Per 1,000 operations", ("", "call"), columns)
    case = figures.largest("noop", most=100_000)
    for contender in (PENSTOCK, NONE_FAILS, BARE):
        found = figures.of(case, contender) if case else None
        for name, tally in found.calls.items() if found else ():
            figures_of_call = (f"{figure:.3f}" for figure in (tally.requests, tally.sqs, tally.writes, tally.reads))
            table.add_row(contender, name, *figures_of_call, f"{prices.usd(tally.units) * 1_000:.4f}")
        table.add_section()
    return table


def _measured(figures: Figures, contender: str) -> Iterator[tuple[Case, Contender]]:
    for case in figures.cases(contender):
        if found := figures.of(case, contender):
            yield case, found


def _table(title: str, words: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(*words, title=title, title_justify="left")
    for column in numbers:
        table.add_column(column, justify="right")
    return table


def _name(case: Case) -> tuple[str, ...]:
    return case.server, case.handler, f"{case.size:,}", str(case.consumers)
