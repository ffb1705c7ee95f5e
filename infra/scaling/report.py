"""Report the simulated fleets as tables and as a picture."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.box import MARKDOWN
from rich.table import Table

from penstock.infra.scaling.fleet import FleetResult, Work
from penstock.infra.scaling.rules import MINUTE_SECONDS, Rules

HOUR_SECONDS = 3600
MONTH_HOURS = 730
LONGEST_SHOWN_SECONDS = 2 * HOUR_SECONDS
COLORS = ("#0b6e99", "#d9730d", "#0f7b6c", "#ad1a72", "#6940a5")


@dataclass(frozen=True, slots=True)
class Prices:
    """The on-demand prices of Fargate in USD per hour."""

    cpu: float
    gib: float

    def of_task_hours(self, rules: Rules, hours: float) -> float:
        """Return the price of this number of task hours in USD."""
        return hours * (rules.virtual_cpus * self.cpu + rules.memory_gib * self.gib)


@dataclass(frozen=True, slots=True)
class Case:
    """The results for one handler under a trace: scaled in all at once, and one task at a time."""

    work: Work
    at_once: FleetResult
    one_by_one: FleetResult

    @property
    def name(self) -> str:
        return f"{1000 * self.work.handler_seconds:g} ms"

    @property
    def results(self) -> tuple[FleetResult, FleetResult]:
        return self.at_once, self.one_by_one


def burst_table(cases: list[Case], rules: Rules, prices: Prices, burst_at: int) -> Table:
    table = _table(
        "A burst", "handler", "chunk", "drained in", "without scaling", "most tasks", "lost", "extra task hours", "USD"
    )
    for case in cases:
        result, work = case.at_once, case.work
        hours = [_extra_hours(rules, one) for one in case.results]
        table.add_row(
            case.name,
            f"{work.chunk_operations(result.burst):,}",
            "never" if result.burst_done_at is None else _minutes(result.burst_done_at - burst_at),
            _minutes(result.burst / (work.per_second * rules.processes * rules.min_tasks)),
            str(result.most_tasks),
            _both(case, lambda result: result.lost),
            " / ".join(f"{one:.1f}" for one in hours),
            " / ".join(f"{prices.of_task_hours(rules, one):.2f}" for one in hours),
        )
    return table


def load_table(cases: list[Case], rules: Rules) -> Table:
    table = _table(
        "A steady load",
        "handler",
        "operations",
        "tasks stopped",
        "operations handed over",
        "longest stop",
        "done",
        "lost",
    )
    for case in cases:
        longest = max(result.longest_stop_seconds for result in case.results)
        table.add_row(
            case.name,
            f"{case.at_once.arrived:,}",
            _both(case, lambda result: result.stops),
            _both(case, lambda result: result.handed_on),
            f"{longest} s of {rules.stop_seconds:g}",
            _both(case, lambda result: result.done),
            _both(case, lambda result: result.lost),
        )
    return table


def minute_table(case: Case) -> Table:
    """Return a table of the burst by minutes. Minutes without a change are left out."""
    table = _table(
        f"The burst minute by minute, with a handler of {case.name}, scaled in all at once",
        *("minute", "waiting chunks", "waiting operations", "held", "done", "running tasks", "paid tasks"),
    )
    before: tuple[int, ...] = ()
    for minute in case.at_once.minutes:
        number = minute.at_seconds // MINUTE_SECONDS
        shown = (minute.waiting_chunks, minute.running, minute.paid)
        if shown != before:
            counts = (minute.waiting_chunks, minute.waiting, minute.held, minute.done, minute.running, minute.paid)
            table.add_row(str(number), *(f"{count:,}" for count in counts))
        before = shown
    return table


def costs(rules: Rules, prices: Prices) -> Mapping[str, float]:
    """Return the cost of the consumers in USD per month."""
    return {
        "idle": prices.of_task_hours(rules, rules.min_tasks * MONTH_HOURS),
        "always at the maximum": prices.of_task_hours(rules, rules.max_tasks * MONTH_HOURS),
    }


def draw(cases: list[Case], path: Path) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415 - only a picture needs it
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    figure = Figure(figsize=(10, 7.5), layout="constrained")
    waiting, tasks = figure.subplots(2, 1)
    for case, color in zip(cases, COLORS, strict=False):
        moments = case.at_once.moments
        left = [moment.waiting + moment.held for moment in moments]
        waiting.plot(_minutes_of(case.at_once), left, color=color, linewidth=2, label=f"handler of {case.name}")
        for result, style, label in ((case.one_by_one, ":", None), (case.at_once, "-", f"handler of {case.name}")):
            paid = [moment.paid for moment in result.moments]
            tasks.step(_minutes_of(result), paid, style, where="post", color=color, label=label)
    drained = max(case.at_once.burst_done_at or LONGEST_SHOWN_SECONDS for case in cases) / MINUTE_SECONDS
    waiting.set(title="Remaining operations of the burst", ylabel="operations", xlim=(0, drained + 2))
    waiting.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    tasks.set(title="Paid consumer tasks; dotted: AWS scales in one task at a time", ylabel="tasks")
    tasks.yaxis.set_major_locator(MaxNLocator(integer=True))
    tasks.set_xlim(left=0)
    for axes in (waiting, tasks):
        axes.set(xlabel="minutes")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="upper right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _minutes_of(result: FleetResult) -> list[float]:
    return [moment.at_seconds / MINUTE_SECONDS for moment in result.moments]


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=MARKDOWN)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _both(case: Case, figure: Callable[[FleetResult], int]) -> str:
    return " / ".join(f"{figure(result):,}" for result in case.results)


def _extra_hours(rules: Rules, result: FleetResult) -> float:
    """Return the task hours beyond those of the smallest fleet."""
    return (result.task_seconds - rules.min_tasks * result.moments[-1].at_seconds) / HOUR_SECONDS


def _minutes(seconds: float) -> str:
    return f"{seconds / MINUTE_SECONDS:,.1f} min"
