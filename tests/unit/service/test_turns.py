"""However many requests have much to read, one of them takes a step at a time, and other work runs in between."""

import asyncio

from penstock.service.turns import Turns

STEPS = 5


async def take_steps(turns: Turns, steps: list[int], number: int) -> None:
    for _ in range(STEPS):
        await turns.next()
        steps.append(number)


async def test_one_step_is_taken_in_each_iteration_of_the_loop() -> None:
    turns, steps = Turns(), list[int]()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(take_steps(turns, steps, number)) for number in range(10)]
        while not all(task.done() for task in tasks):
            before = len(steps)
            await asyncio.sleep(0)
            assert len(steps) <= before + 1
    assert steps == list(range(10)) * STEPS


async def test_who_is_cancelled_loses_only_its_own_turns() -> None:
    turns, steps = Turns(), list[int]()
    tasks = [asyncio.create_task(take_steps(turns, steps, number)) for number in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.wait(tasks, timeout=5)
    assert steps == [1, 2] * STEPS
    await asyncio.wait_for(take_steps(turns, steps, 3), 5)
