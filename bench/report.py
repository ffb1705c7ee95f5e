"""Show the results of a run as tables. The plot is in plot.py."""

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table

from bench.billing import Prices
from bench.figures import Figures
from bench.installation import CONSUMER, FRONT_END, PROGRAMS
from bench.measure import FLOOR_A, FLOOR_B, FLOOR_B10, PENSTOCK, Case
from bench.reads import Reads
from bench.targets import judge

FLOORS = (FLOOR_A, FLOOR_B, FLOOR_B10)
SPEED = ("ops/s", "accepted, s", *(column for floor in FLOORS for column in (f"{floor}\nops/s", "Penstock ÷ floor")))
COST = (
    *("requests\nper 1,000", "USD\nper million"),
    *("CPU s/million\nfront end", "\nconsumers", "\nservers"),
    *("CPU share\nours", "\nlibrary", "\nservers"),
    *("peak MiB\nfront end", "\nconsumer", "\nserver"),
)


def tables(figures: Figures, reads: Sequence[Reads], prices: Prices) -> Group:
    return Group(
        targets_table(figures, reads, prices),
        speed_table(figures),
        cost_table(figures, prices),
        calls_table(figures, prices),
    )


def targets_table(figures: Figures, reads: Sequence[Reads], prices: Prices) -> Table:
    table = Table("what", title="Targets", title_justify="left")
    for column in ("measured", "target", "met?"):
        table.add_column(column, justify="right")
    for target in judge(figures, reads, prices):
        table.add_row(target.what, target.measured, target.target, "yes" if target.is_met else "[red]no[/]")
    return table


def speed_table(figures: Figures) -> Table:
    table = _case_table("From POST to the last result")
    for column in SPEED:
        table.add_column(column, justify="right")
    for case in figures.cases():
        ours = figures.of(case)
        if ours is None:
            continue
        row = [f"{ours.rate:,.0f}", f"{ours.first_seconds:.3f}"]
        for floor in (figures.of(case, name) for name in FLOORS):
            row += [f"{floor.rate:,.0f}", f"{ours.rate / floor.rate:.2f}"] if floor else ["", ""]
        table.add_row(*_name(case), *row)
    return table


def cost_table(figures: Figures, prices: Prices) -> Table:
    table = _case_table("Cost; memory is the increase above idle")
    for column in COST:
        table.add_column(column, justify="right")
    for case in figures.cases():
        ours = figures.of(case)
        if ours is None:
            continue
        whose = figures.shares(case)
        table.add_row(
            *_name(case),
            *(f"{ours.requests:.2f}", f"{ours.usd(prices):.4f}"),
            *(f"{seconds / case.size * 1e6:.1f}" for seconds in (*map(ours.cpu, PROGRAMS), ours.server_cpu)),
            *(f"{share:.0%}" for share in whose or ()),
            *([] if whose else [""] * 3),
            *(f"{ours.memory_mib(program):.0f}" for program in (FRONT_END, CONSUMER)),
            f"{ours.memory_mib(*case.server_programs):.0f}",
        )
    return table


def calls_table(figures: Figures, prices: Prices) -> Table:
    """Show the calls for the largest case up to 100,000 operations, with the no-op handler and with bodies of 1 KB."""
    table = Table("", "call", title="AWS calls per 1,000 operations", title_justify="left")
    for column in ("requests", "SQS units", "write units", "read units", "USD/million operations"):
        table.add_column(column, justify="right")
    for handler in ("noop", "order"):
        case = figures.largest(handler, most=100_000)
        for contender in (PENSTOCK, FLOOR_B, FLOOR_B10):
            found = figures.of(case, contender) if case else None
            for name, tally in found.calls.items() if found else ():
                table.add_row(
                    f"{contender}, {handler}",
                    name,
                    *(f"{figure:.3f}" for figure in (tally.requests, *tally.units)),
                    f"{prices.usd(tally.units) * 1_000:.4f}",
                )
            table.add_section()
    return table


def _case_table(title: str) -> Table:
    table = Table("server", "handler", title=title, title_justify="left")
    for column in ("consumers", "operations"):
        table.add_column(column, justify="right")
    return table


def _name(case: Case) -> tuple[str, ...]:
    return case.server, case.handler, str(case.consumers), f"{case.size:,}"
