"""Runs the operations of a chunk in the order that their links ask for."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from penstock.chunk import Chunk, Operation
from penstock.dependencies import Progress, Unit, components, is_group
from penstock.outcome import Verdict, has_long_result, note_results, states_of, unresolved_in
from penstock.references import Results
from penstock.running.joining import gather, join

RunAll = Callable[[int, Sequence[Operation]], Coroutine[Any, Any, dict[int, Verdict]]]
RunGroups = Callable[[int, Sequence[Unit]], Coroutine[Any, Any, dict[int, Verdict]]]


async def run_in_order(
    chunk: Chunk, run_all: RunAll, run_groups: RunGroups, ended: Callable[[int], None], *, most_at_once: int
) -> dict[int, Verdict]:
    """Run the operations of a chunk with links, and return the verdicts by index.

    `run_all` gets the number of an attempt, and operations that need not wait for each other. `run_groups` gets atomic
    groups in the same way. Both call `ended` with the numbers of operations that have ended.

    An operation runs only when all that it depends on has succeeded. Otherwise it has no verdict.

    Up to `most_at_once` components run at the same time, beside the operations that are not connected with others.
    """
    attempts = chunk.attempts()
    parts = components(chunk.operations)
    single = [part for part in parts if len(part) == 1]
    waiting = deque(part for part in parts if len(part) > 1)
    verdicts: dict[int, Verdict] = {}

    async def run_ready(ready: Sequence[Unit]) -> dict[int, Verdict]:
        alone: defaultdict[int, list[Operation]] = defaultdict(list)  # by their attempts
        groups: defaultdict[int, list[Unit]] = defaultdict(list)
        for unit in ready:
            attempt = attempts[unit[0].index]
            if is_group(unit):
                groups[attempt].append(unit)
            else:
                alone[attempt].extend(unit)
        runs = [run_all(attempt, some) for attempt, some in alone.items()]
        return await join([*runs, *(run_groups(attempt, some) for attempt, some in groups.items())])

    async def take_turns() -> None:
        while waiting:
            component = waiting.popleft()
            made = await run_component(component, attempts.__getitem__, run_ready, ended)
            verdicts.update(made)

    async def run_single() -> None:
        verdicts.update(await run_ready(single))

    turns = [take_turns() for _ in range(min(most_at_once, len(waiting)))]
    await gather([run_single(), *turns] if single else turns)
    return verdicts


async def run_component(
    component: Unit,
    attempt_of: Callable[[int], int],
    run_ready: Callable[[Sequence[Unit]], Awaitable[dict[int, Verdict]]],
    gave_up: Callable[[int], None] = lambda _count: None,
) -> dict[int, Verdict]:
    """Run connected operations, as many as possible at the same time.

    `run_ready` runs those that need not wait for each other. `gave_up` gets the number of those that did not start,
    because what they depend on has not succeeded, or because their path could not be made.
    """
    verdicts: dict[int, Verdict] = {}
    progress = Progress(component)
    results = Results(component)
    while taken := progress.take_ready():
        ready, failures = _resolve(taken, results)
        gave_up(len(failures))
        made = await run_ready(ready) if ready else {}
        verdicts |= made | failures
        for verdict in made.values() if results else ():
            note_results(results, [verdict])
            if has_long_result(verdict):
                await asyncio.sleep(0)  # parsing it has taken a moment
        for index, has_succeeded in states_of(made, attempt_of).items():
            if has_succeeded:
                progress.note_success(index)
    gave_up(progress.left)
    return verdicts


def _resolve(units: Sequence[Unit], results: Results) -> tuple[Sequence[Unit], dict[int, Verdict]]:
    """Return the units with their paths, and the failures of those whose paths cannot be made.

    A path that refers to a member of its own group stays open. The group makes it when that member has run.
    """
    if not results:
        return units, {}
    resolved: list[Unit] = []
    failures: dict[int, Verdict] = {}
    for unit in units:
        if failed := unresolved_in(unit, results):
            failures |= failed
        else:
            own = {operation.index for operation in unit}
            resolved.append(tuple(results.resolve(operation, own) for operation in unit))
    return resolved, failures
