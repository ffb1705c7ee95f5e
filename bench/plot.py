"""Draw the results of a run: operations/s by batch size beside the floor, and AWS requests by call."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.cases import BARE, NONE_FAILS, PENSTOCK, Case
from bench.figures import Contender, Figures
from penstock.cost import Prices

COLORS = {PENSTOCK: "#0b6e99", BARE: "#d9730d"}
TITLES = {"noop": "no-op handler", "wait": "handler that waits 5 ms"}
CALL_COLORS = colormaps["tab10"]
HUNDRED_THOUSAND = 100_000


def draw(figures: Figures, prices: Prices, path: Path) -> None:
    """Draw the first server of a run. A run without the no-op handler has no picture."""
    case = figures.largest("noop", most=HUNDRED_THOUSAND)
    if not case:
        return
    figure = Figure(figsize=(15.6, 5.4), layout="constrained")
    *speeds, calls = figure.subplots(1, len(TITLES) + 1)
    for handler, axes in zip(TITLES, speeds, strict=True):
        _draw_speed(axes, figures, handler, case.server)
    _draw_calls(calls, _bars(figures, case), prices, case.size)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _draw_speed(axes: Axes, figures: Figures, handler: str, server: str) -> None:
    cases = [case for case in figures.cases() if case.server == server and case.handler == handler]
    cases = [case for case in cases if not case.latency_ms]
    for contender, color in COLORS.items():
        points = [(case.size, found.rate) for case in cases if (found := figures.of(case, contender))]
        if points:
            axes.plot(*zip(*points, strict=True), color=color, label=contender, marker="o")
    axes.set(xscale="log", xlabel="operations in the batch", title=f"Operations per second, {TITLES[handler]}")
    axes.set_xticks([case.size for case in cases], [f"{case.size:,}" for case in cases])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="y", alpha=0.3)
    if cases:
        _legend(axes, columns=2)


def _legend(axes: Axes, columns: int) -> None:
    """Put the legend below, since there is not always space above the lines."""
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=columns)


def _draw_calls(axes: Axes, bars: Sequence[tuple[str, Contender]], prices: Prices, size: int) -> None:
    names = sorted({name for _, contender in bars for name in contender.calls})
    for place, (_, contender) in enumerate(bars):
        left = 0.0
        for name, tally in contender.calls.items():
            label = name if name not in axes.get_legend_handles_labels()[1] else None
            axes.barh(place, tally.requests, left=left, color=CALL_COLORS(names.index(name)), label=label)
            left += tally.requests
        axes.text(left, place, f" {left:.1f}\n ${contender.usd(prices):.3f} a million", va="center", fontsize=9)
    axes.set_yticks(range(len(bars)), [label for label, _ in bars])
    axes.invert_yaxis()
    axes.margins(x=0.4)
    axes.set(title=f"AWS requests per 1,000 operations\n{size:,} no-op operations of 200 bytes", xlabel="requests")
    _legend(axes, columns=3)


def _bars(figures: Figures, case: Case) -> Sequence[tuple[str, Contender]]:
    found = {name: figures.of(case, name) for name in (PENSTOCK, NONE_FAILS, BARE)}
    return [(name.replace(", ", ",\n"), contender) for name, contender in found.items() if contender]
