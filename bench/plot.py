"""Draw the results of a run: operations/s by batch size with the floors, and AWS requests by call."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.billing import Prices
from bench.figures import Contender, Figures
from bench.measure import FLOOR_A, FLOOR_B, FLOOR_B10, PENSTOCK, Case

COLORS = {PENSTOCK: "#0b6e99", FLOOR_A: "#888888", FLOOR_B: "#d9730d", FLOOR_B10: "#dfab01"}
CALL_COLORS = colormaps["tab10"]
HUNDRED_THOUSAND = 100_000


def draw(figures: Figures, prices: Prices, path: Path) -> None:
    """Draw the results of the no-op handler. A run without it has no picture."""
    servers = list(dict.fromkeys(case.server for case in figures.cases() if case.handler == "noop"))
    if not servers:
        return
    panels = len(servers) + 1
    figure = Figure(figsize=(5.2 * panels, 5.4), layout="constrained")
    *speeds, calls = figure.subplots(1, panels)
    for server, speed in zip(servers, speeds, strict=True):
        _draw_speed(speed, figures, server)
    top = max(speed.get_ylim()[1] for speed in speeds)
    for speed in speeds:
        speed.set_ylim(0, top)
    _draw_calls(calls, figures, prices)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _draw_speed(axes: Axes, figures: Figures, server: str) -> None:
    cases = [case for case in figures.cases() if case.server == server and case.handler == "noop"]
    for consumers in sorted({case.consumers for case in cases}):
        style = "-" if consumers == max(case.consumers for case in cases) else ":"
        for contender, color in COLORS.items():
            if contender == FLOOR_A and style == ":":
                continue  # floor (a) has no consumers
            points = [
                (case.size, found.rate)
                for case in cases
                if case.consumers == consumers and (found := figures.of(case, contender))
            ]
            if points:
                axes.plot(*zip(*points, strict=True), style, color=color, **_marks(contender, consumers))
    axes.set(xscale="log", xlabel="operations in the batch", title=f"Operations per second, no-op handler\n{server}")
    sizes = sorted({case.size for case in cases})
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="y", alpha=0.3)
    _legend(axes, columns=2)


def _marks(contender: str, consumers: int) -> dict[str, Any]:
    label = contender if contender == FLOOR_A else f"{contender}, {consumers} consumer{'s' * (consumers > 1)}"
    width, size = (2.5, 6) if contender == PENSTOCK else (1.2, 4)
    return {"label": label, "linewidth": width, "marker": "o", "markersize": size}


def _legend(axes: Axes, columns: int) -> None:
    """Put the legend below, since there is not always space above the lines."""
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=columns)


def _draw_calls(axes: Axes, figures: Figures, prices: Prices) -> None:
    case = figures.largest("noop", most=HUNDRED_THOUSAND)
    bars = _bars(figures, case) if case else []
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
    size = f"{case.size:,}" if case else ""
    axes.set(title=f"AWS requests per 1,000 operations\n{size} no-op operations of 200 bytes", xlabel="requests")
    _legend(axes, columns=3)


def _bars(figures: Figures, case: Case) -> Sequence[tuple[str, Contender]]:
    found = {name: figures.of(case, name) for name in (PENSTOCK, FLOOR_B, FLOOR_B10)}
    return [(name.replace(", ", ",\n"), contender) for name, contender in found.items() if contender]
