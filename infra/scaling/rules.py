"""Decide the number of consumer tasks: target tracking as AWS documents it, with the values of our template. Pure.

Target tracking has two alarms on its metric. Three minutes in a row above the target scale out, in proportion to the
metric. Fifteen minutes below nine tenths of the target scale in. AWS does not document how gradually it scales in, so
the simulation runs both extremes: all at once, and one task at a time.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.infra.cloudformation import Stack, read_template

TEMPLATE = Path(__file__).parents[1] / "template.yaml"
POINTS_OUT = 3
POINTS_IN = 15
IN_SHARE = 0.9
MINUTE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Rules:
    """The scaling rules of the template. `target` is the number of waiting chunks for each task."""

    target: float
    min_tasks: int
    max_tasks: int
    out_cooldown_seconds: float
    in_cooldown_seconds: float
    stop_seconds: float  # time from SIGTERM to SIGKILL
    processes: int  # number of consumer processes in a task
    virtual_cpus: float
    memory_gib: float


def read_rules(parameters: Mapping[str, str]) -> Rules:
    """Read the rules from the template with these values for its parameters."""
    stack = Stack(read_template(TEMPLATE), {"Image": "penstock", **parameters}, "{}.{}".format)
    scaling, task = stack.properties("ConsumerScaling"), stack.properties("ConsumerTask")
    tracking = stack.properties("ConsumersOnBacklog")["TargetTrackingScalingPolicyConfiguration"]
    [container] = task["ContainerDefinitions"]
    command = container["Command"]
    return Rules(
        target=float(tracking["TargetValue"]),
        min_tasks=int(scaling["MinCapacity"]),
        max_tasks=int(scaling["MaxCapacity"]),
        out_cooldown_seconds=float(tracking["ScaleOutCooldown"]),
        in_cooldown_seconds=float(tracking["ScaleInCooldown"]),
        stop_seconds=float(container["StopTimeout"]),
        processes=int(command[command.index("--processes") + 1]),
        virtual_cpus=int(task["Cpu"]) / 1024,
        memory_gib=int(task["Memory"]) / 1024,
    )


@dataclass(frozen=True, slots=True)
class Scaled:
    """The wanted number of tasks, the number before the last scale-out, and the times of the last changes."""

    tasks: int
    before: int
    out_at: float = -math.inf
    in_at: float = -math.inf


def decide(rules: Rules, now: float, scaled: Scaled, metric: Sequence[float], *, at_once: bool) -> Scaled:
    """Return the wanted number of tasks. `metric` has one point per minute, oldest first: waiting chunks per task.

    During the cooldown after a scale-out, the number is computed from the number of tasks before it, and can only grow.
    During the cooldown after a scale-in, no more tasks are stopped.
    """
    if is_high(rules, metric):
        is_cooling = now - scaled.out_at < rules.out_cooldown_seconds
        before = scaled.before if is_cooling else scaled.tasks
        wanted = _bounded(rules, math.ceil(before * metric[-1] / rules.target))
        if wanted > scaled.tasks:
            return Scaled(wanted, before, out_at=now, in_at=scaled.in_at)
    elif is_low(rules, metric) and now - max(scaled.in_at, scaled.out_at) >= rules.in_cooldown_seconds:
        by_metric = math.ceil(scaled.tasks * metric[-1] / rules.target)
        wanted = _bounded(rules, by_metric if at_once else max(by_metric, scaled.tasks - 1))
        if wanted < scaled.tasks:
            return Scaled(wanted, scaled.tasks, out_at=scaled.out_at, in_at=now)
    return scaled


def is_high(rules: Rules, metric: Sequence[float]) -> bool:
    """Return True if the alarm for a scale-out is on."""
    return len(metric) >= POINTS_OUT and all(point > rules.target for point in metric[-POINTS_OUT:])


def is_low(rules: Rules, metric: Sequence[float]) -> bool:
    """Return True if the alarm for a scale-in is on."""
    return len(metric) >= POINTS_IN and all(point < IN_SHARE * rules.target for point in metric[-POINTS_IN:])


def _bounded(rules: Rules, tasks: int) -> int:
    return min(max(tasks, rules.min_tasks), rules.max_tasks)
