"""Draw the dashboard of `infra/template.yaml` with an hour of simulated load: `python -m bench.dashboard FILE.png`.

CloudWatch draws the real dashboard. The widgets, positions, titles, metrics and labels come from the template; only the
values are simulated: batches arrive, a million operations of low priority arrive at the same time, consumers scale by
the rules of the template, and a database fails for five minutes.
"""

import argparse
import json
import math
import operator
import random
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.widgets import rows_of
from penstock.infra.cloudformation import Document, Stack, read_template
from penstock.infra.provision import TEMPLATE

MINUTES = 60
CHUNK_OPERATIONS = 40  # operations of 50 ms: two seconds of handler time
HANDLER_SECONDS = 0.05
CHUNKS_PER_TASK_AND_SECOND = 5.0  # with ten slots
START_SECONDS = 60
HIGH_WATCH_MINUTES, LOW_WATCH_MINUTES = 3, 15  # minutes before target tracking scales out, and in
BURST_MINUTE, BURST_CHUNKS = 12, 25_000
BROKEN_MINUTES = range(42, 47)
LOW_SHARE = 0.1  # the share of the consumers for low priority while other priorities wait
QUEUES = {"high": "ChunksHigh", "normal": "ChunksNormal", "low": "ChunksLow"}

CAPTION = (
    "Drawn by bench/dashboard.py from infra/template.yaml, with an hour of simulated load. CloudWatch draws it "
    "differently. Alarms on an expression or on days are grey."
)

COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "GreaterThanThreshold": operator.gt,
    "GreaterThanOrEqualToThreshold": operator.ge,
    "LessThanThreshold": operator.lt,
}

# The values of each metric by minute. The key is its name, its last dimension and the statistic.
Key = tuple[str, str, str]


@dataclass
class Hour:
    """An hour of load, simulated second by second. `series` has the metrics as CloudWatch would store them."""

    scaling: Document
    least: int
    most: int
    chance: random.Random = field(default_factory=lambda: random.Random(6))  # noqa: S311 - a fixed seed, for the same picture each time
    waiting: dict[str, deque[int]] = field(default_factory=lambda: {name: deque() for name in QUEUES})
    starting: list[int] = field(default_factory=list)
    tasks: int = 0
    watched: list[float] = field(default_factory=list)
    letters: int = 0
    series: dict[Key, list[float]] = field(default_factory=dict)

    def run(self) -> None:
        self.tasks = self.least
        for minute in range(MINUTES):
            self.run_minute(minute)

    def run_minute(self, minute: int) -> None:
        batches = self.arrive(minute)
        waits: list[float] = []
        for second in range(minute * 60, minute * 60 + 60):
            started = [at for at in self.starting if at <= second]
            self.starting = [at for at in self.starting if at > second]
            self.tasks += len(started)
            waits += self.work(second)
        self.note_queues(minute)
        self.note_operations(minute, len(waits), batches)
        self.note_times(waits)
        self.scale(minute)

    def arrive(self, minute: int) -> int:
        batches = {"high": self.chance.randint(0, 2), "normal": self.chance.randint(2, 6)}
        for name, count in batches.items():
            self.waiting[name].extend([minute * 60] * (count * (5 if name == "high" else 40)))
        if minute == BURST_MINUTE:
            self.waiting["low"].extend([minute * 60] * BURST_CHUNKS)
        return sum(batches.values()) + (minute == BURST_MINUTE)

    def work(self, second: int) -> list[float]:
        """Receive the chunks of this second and return how long each one had waited."""
        room = int(self.tasks * CHUNKS_PER_TASK_AND_SECOND)
        shares = {"low": math.ceil(room * LOW_SHARE), "high": room, "normal": room}
        waits: list[float] = []
        for name in ("low", "high", "normal", "low"):
            queue = self.waiting[name]
            taken = min(len(queue), room - len(waits), shares[name])
            waits += [second - queue.popleft() for _ in range(taken)]
            shares["low"] = room  # in the second pass it gets the remaining capacity
        return waits

    def note_queues(self, minute: int) -> None:
        now = minute * 60 + 60
        for name, resource in QUEUES.items():
            queue = self.waiting[name]
            self.note("ApproximateNumberOfMessagesVisible", f"{resource}.QueueName", "Maximum", len(queue))
            self.note(
                "ApproximateAgeOfOldestMessage", f"{resource}.QueueName", "Maximum", now - queue[0] if queue else 0
            )
        self.note("CPUUtilization", "ConsumerService.Name", "SampleCount", self.tasks)
        busy = 55 if any(self.waiting.values()) else 18
        self.note("CPUUtilization", "ConsumerService.Name", "Average", busy + self.chance.uniform(-4, 4))
        self.note("CPUUtilization", "FrontEndService.Name", "Average", 12 + self.chance.uniform(-3, 3))
        self.note("InFlight", "consumer", "Maximum", 6 if busy > 50 else self.chance.randint(0, 3))

    def note_operations(self, minute: int, chunks: int, batches: int) -> None:
        share = 0.25 if minute in BROKEN_MINUTES else 0.01
        operations = chunks * CHUNK_OPERATIONS
        failed = round(operations * share)
        self.note("OperationsSucceeded", "consumer", "Sum", operations - failed)
        self.note("OperationsFailed", "consumer", "Sum", failed)
        self.note("OperationsRetried", "consumer", "Sum", 2 * failed)
        at_once = self.chance.randint(200, 500)
        self.note("OperationsSucceeded", "service", "Sum", at_once)
        self.note("OperationsFailed", "service", "Sum", round(at_once * share))
        letters = min(chunks, math.ceil(failed / 10)) if minute in BROKEN_MINUTES else 0
        self.letters += letters
        self.note("DeadLetters", "consumer", "Sum", letters)
        self.note("ApproximateNumberOfMessagesVisible", "DeadLetters.QueueName", "Maximum", self.letters)
        self.note("BatchesSwept", "consumer", "Sum", 0)
        self.note("WebhooksFailed", "consumer", "Sum", 0)
        self.note("HttpAnswers2xx", "service", "Sum", batches + self.chance.randint(80, 120))
        self.note("HttpAnswers4xx", "service", "Sum", self.chance.randint(0, 6))
        errors = 3 if minute in BROKEN_MINUTES else 0
        self.note("HttpAnswers5xx", "service", "Sum", errors)
        self.note("HTTPCode_Target_5XX_Count", "FrontEnds.TargetGroupFullName", "Sum", errors)
        self.note("HTTPCode_ELB_5XX_Count", "LoadBalancer.LoadBalancerFullName", "Sum", 0)
        self.note("HealthyHostCount", "FrontEnds.TargetGroupFullName", "Maximum", 2)
        self.note("RejectedByLimit", "service", "Sum", self.chance.randint(0, 1))
        self.note("ConsumedWriteCapacityUnits", "Table", "Sum", 8 * chunks + 4 * batches)
        self.note("ConsumedReadCapacityUnits", "Table", "Sum", 3 * chunks + 60)
        self.note("WriteThrottleEvents", "Table", "Sum", 40 if minute == BURST_MINUTE + 6 else 0)
        self.note("ReadThrottleEvents", "Table", "Sum", 0)
        self.note("ReadThrottleEvents", "due", "Sum", 0)

    def note_times(self, waits: Sequence[float]) -> None:
        ordered = sorted(waits) or [0.0]
        for stat, share, slow in (("p50", 0.5, 1.0), ("p99", 0.99, 3.0)):
            jitter = self.chance.uniform(0.9, 1.1)
            self.note("HandlerSeconds", "consumer", stat, HANDLER_SECONDS * slow * jitter)
            self.note("HandlerSeconds", "service", stat, HANDLER_SECONDS * slow * jitter * 0.9)
            self.note("ChunkAgeSeconds", "consumer", stat, ordered[int(share * (len(ordered) - 1))])
            self.note("ChunkSeconds", "consumer", stat, 0.25 * slow * jitter)
            self.note("AcceptSeconds", "service", stat, 0.06 * slow * jitter)

    def scale(self, minute: int) -> None:
        """Scale like target tracking: out after 3 minutes above the target, in after 15 below nine tenths of it."""
        target = float(self.scaling["TargetValue"])
        load = sum(map(len, self.waiting.values())) / self.tasks
        self.watched.append(load / target)
        if not self.starting and all(one > 1 for one in self.watched[-HIGH_WATCH_MINUTES:]):
            wanted = min(self.most, math.ceil(self.tasks * load / target))
            self.starting = [minute * 60 + 60 + START_SECONDS] * (wanted - self.tasks)
        quiet = self.watched[-LOW_WATCH_MINUTES:]
        if len(quiet) == LOW_WATCH_MINUTES and all(one < 0.9 for one in quiet):
            self.tasks = max(self.least, math.ceil(self.tasks * max(quiet)), self.tasks // 2)

    def note(self, metric: str, dimension: str, stat: str, value: float) -> None:
        self.series.setdefault((metric, dimension, stat), []).append(value)


def simulate(template: Document) -> dict[Key, list[float]]:
    stack = _stack(template)
    policy = stack.properties("ConsumersOnBacklog")["TargetTrackingScalingPolicyConfiguration"]
    capacity = stack.properties("ConsumerScaling")
    hour = Hour(policy, int(capacity["MinCapacity"]), int(capacity["MaxCapacity"]))
    hour.run()
    return hour.series


def _stack(template: Document) -> Stack:
    needed = {name: name for name, one in template["Parameters"].items() if "Default" not in one}
    return Stack(template, needed, lambda name, attribute: name if attribute == "Ref" else f"{name}.{attribute}")


def draw(template: Document, series: Mapping[Key, Sequence[float]]) -> Figure:
    body = json.loads(_stack(template).properties("Dashboard")["DashboardBody"])
    rows = max(widget["y"] + widget["height"] for widget in body["widgets"])
    figure = Figure(figsize=(15, rows * 0.5))
    for widget in body["widgets"]:
        axes = figure.add_axes(_place(widget, rows))
        axes.set_title(widget["properties"]["title"], loc="left", fontsize=9, fontweight="bold")
        if widget["type"] == "alarm":
            _draw_alarms(axes, template, series)
        else:
            _draw_lines(axes, widget["properties"], series)
    figure.text(0.99, 0.004, CAPTION, fontsize=7, color="gray", ha="right")
    return figure


def _place(widget: Document, rows: int) -> tuple[float, float, float, float]:
    """Return left, bottom, width and height as shares of the figure, with space for the title and the ticks."""
    left, top = widget["x"] + 1.0, widget["y"] + 0.9
    width, height = widget["width"] - 1.9, widget["height"] - 1.7
    return left / 24, 1 - (top + height) / rows, width / 24, height / rows


def _draw_lines(axes: Axes, properties: Document, series: Mapping[Key, Sequence[float]]) -> None:
    right = axes.twinx() if any(options.get("yAxis") == "right" for _, options in rows_of(properties)) else axes
    lines = []
    highest = {axes: 0.0, right: 0.0}
    for number, (words, options) in enumerate(rows_of(properties)):
        values = series[words[1], words[-1], options.get("stat", properties["stat"])]
        side = right if options.get("yAxis") == "right" else axes
        highest[side] = max(highest[side], *values)
        lines += side.plot(range(len(values)), values, f"C{number}", label=options["label"], linewidth=1.2)
    axes.legend(handles=lines, fontsize=7, frameon=False, loc="upper left", ncols=2)
    for one, value in highest.items():
        one.set_ylim(bottom=0, top=(value or 1) * 1.5)  # leaves space for the legend
        one.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        one.tick_params(labelsize=7)
        one.spines["top"].set_visible(False)
    axes.set_xlim(0, MINUTES - 1)
    axes.set_xticks(range(0, MINUTES, 15), [f"{minute} min" for minute in range(0, MINUTES, 15)])


def _draw_alarms(axes: Axes, template: Document, series: Mapping[Key, Sequence[float]]) -> None:
    """Show alarms in red or green at the end of the hour, or in grey if this simulation cannot compute them."""
    axes.set_axis_off()
    stack = _stack(template)
    alarms = [stack.properties(name) for name in stack.resources("AWS::CloudWatch::Alarm")]
    for number, alarm in enumerate(alarms):
        x, y = (number % 7) / 7, 0.7 - 0.5 * (number // 7)
        name = re.sub("^penstock-", "", alarm["AlarmName"])
        colours = {"edgecolor": "none", "facecolor": _colour(alarm, series), "boxstyle": "round,pad=0.4"}
        axes.text(x + 0.01, y, name, fontsize=8, color="white", va="center", bbox=colours, transform=axes.transAxes)


def _colour(alarm: Document, series: Mapping[Key, Sequence[float]]) -> str:
    if "MetricName" not in alarm:
        return "tab:gray"
    values = series.get((alarm["MetricName"], alarm["Dimensions"][-1]["Value"], alarm["Statistic"]))
    if values is None:
        return "tab:gray"
    periods: int = alarm["EvaluationPeriods"]
    limit = float(alarm["Threshold"])
    breaching = [COMPARISONS[alarm["ComparisonOperator"]](value, limit) for value in values[-periods:]]
    return "tab:red" if sum(breaching) >= int(alarm.get("DatapointsToAlarm", periods)) else "tab:green"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.dashboard", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    mpl.use("agg")
    template = read_template(TEMPLATE)
    draw(template, simulate(template)).savefig(arguments.file, dpi=90)


if __name__ == "__main__":
    main()
