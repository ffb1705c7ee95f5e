"""What a run measures: the cases, the contenders, and the order in which they take turns. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import BaseModel

PENSTOCK = "Penstock"  # a JSON document in which one operation in a hundred fails
NONE_FAILS = "Penstock, none fails"
LINES = "Penstock, NDJSON"
BARE = "bare calls"  # the floor, see bare.py
FIRST, LATER = "first batch", "later batch"
IN_A_ROW = "in a row"

LATENCY_MS = 10
LATENCY_UP_TO = 10_000  # with more operations, the time of the round trips does not matter
FIRST_CONSUMERS = (2, 8)
LATER_BATCHES = 3  # the first of them may come before the consumers have published what they measured
WARM_UP = 1_000
OTHER, OTHER_BATCHES = 10_000, 2  # of another handler before a first batch. Each of eight consumers gets some of it
REPEATED_UP_TO = 100_000  # larger batches run once, since they average by themselves


class Way(NamedTuple):
    """How a contender sends its operations."""

    is_bare: bool = False
    as_lines: bool = False
    fails: bool = True


WAYS = {
    PENSTOCK: Way(),
    NONE_FAILS: Way(fails=False),
    LINES: Way(as_lines=True),
    BARE: Way(is_bare=True),
    FIRST: Way(),
    LATER: Way(),
    IN_A_ROW: Way(as_lines=True, fails=False),
}

CONTENDERS = {
    "noop": (PENSTOCK, BARE, NONE_FAILS, LINES),
    "wait": (PENSTOCK, BARE),
    "order": (PENSTOCK, NONE_FAILS),
}


class Case(BaseModel, frozen=True):
    server: str
    handler: str
    size: int
    consumers: int = 2
    latency_ms: int = 0

    @property
    def server_programs(self) -> list[str]:
        return self.server.split(" + ")


class Step(NamedTuple):
    """One batch."""

    case: Case
    contender: str


@dataclass(frozen=True, slots=True)
class Round:
    """The batches that run one after another on one installation. The warm-up is not recorded."""

    name: str
    server: str
    consumers: int
    steps: Sequence[Step]
    warm_up: Sequence[Step] = ()
    latency_ms: int = 0

    @property
    def has_bare(self) -> bool:
        return any(WAYS[step.contender].is_bare for step in self.steps)


@dataclass(frozen=True, slots=True)
class Plan:
    """The sizes and repeats of a run."""

    sizes: Sequence[int] = (1_000, 10_000, 100_000)
    consumers: int = 2
    repeat: int = 3
    # The operations of a first batch on two consumers. A batch for the slow handler grows with the consumers.
    first_sizes: Sequence[tuple[str, int]] = (("noop", 100_000), ("wait", 10_000), ("slow", 800))
    first_repeat: int = 3
    row: tuple[int, int] = (10, 100_000)  # batches, and operations in each


QUICK = Plan(
    sizes=(1_000, 10_000),
    repeat=2,
    first_sizes=(("noop", 10_000), ("wait", 2_000), ("slow", 200)),
    first_repeat=1,
    row=(3, 10_000),
)


def rounds(plan: Plan, server: str) -> Iterator[Round]:
    yield _speed(plan, server)
    yield _latency(plan, server)
    for _ in range(plan.first_repeat):
        yield from _first_batches(plan, server)
    yield _row(plan, server)


def _speed(plan: Plan, server: str) -> Round:
    cases = [
        Case(server=server, handler=handler, size=size, consumers=plan.consumers)
        for size in plan.sizes
        for handler in ("noop", "wait")
    ]
    size = max((size for size in plan.sizes if size <= REPEATED_UP_TO), default=REPEATED_UP_TO)
    cases.append(Case(server=server, handler="order", size=size, consumers=plan.consumers))
    return _taking_turns("speed, failures and cost", cases, plan.repeat)


def _latency(plan: Plan, server: str) -> Round:
    sizes = [size for size in plan.sizes if size <= LATENCY_UP_TO] or [WARM_UP]
    cases = [
        Case(server=server, handler="noop", size=size, consumers=plan.consumers, latency_ms=LATENCY_MS)
        for size in sizes
    ]
    return _taking_turns(f"{LATENCY_MS} ms added to each AWS call", cases, plan.repeat, (PENSTOCK, BARE))


def _taking_turns(name: str, cases: Sequence[Case], repeat: int, contenders: Sequence[str] = ()) -> Round:
    """Let the contenders take turns, so that other load on the machine affects all of them."""
    steps = [
        Step(case, contender)
        for case in cases
        for turn in range(repeat if case.size <= REPEATED_UP_TO else 1)
        for contender in (contenders or CONTENDERS[case.handler])[:: -1 if turn % 2 else 1]
    ]
    warm_up = [
        Step(case, contender)
        for case in dict.fromkeys(case.model_copy(update={"size": WARM_UP}) for case in cases)
        for contender in contenders or CONTENDERS[case.handler]
    ]
    first = cases[0]
    return Round(name, first.server, first.consumers, steps, warm_up, first.latency_ms)


def _first_batches(plan: Plan, server: str) -> Iterator[Round]:
    for handler, size in plan.first_sizes:
        for consumers in FIRST_CONSUMERS:
            size_here = size * consumers // min(FIRST_CONSUMERS) if handler == "slow" else size
            case = Case(server=server, handler=handler, size=size_here, consumers=consumers)
            steps = [Step(case, FIRST), *[Step(case, LATER)] * LATER_BATCHES]
            # Another handler warms up the programs. What they load at their start belongs to no handler.
            other = Case(
                server=server, handler="wait" if handler == "noop" else "noop", size=OTHER, consumers=consumers
            )
            name = f"the first batch of {handler}, {consumers} consumers"
            yield Round(name, server, consumers, steps, [Step(other, LATER)] * OTHER_BATCHES)


def _row(plan: Plan, server: str) -> Round:
    batches, size = plan.row
    case = Case(server=server, handler="tiny", size=size, consumers=plan.consumers)
    warm_up = [Step(case.model_copy(update={"size": WARM_UP}), IN_A_ROW)]
    return Round(f"{batches} batches in a row", server, plan.consumers, [Step(case, IN_A_ROW)] * batches, warm_up)
