"""A run always ends clean, so that nothing of it disturbs a later test."""

import asyncio
import random

import pytest

from penstock.settings import Settings
from tests.simulation.mixes import MIXES, RandomFates
from tests.simulation.stage import Stage
from tests.simulation.world import World


def test_scenario_that_fails_leaves_no_task_behind() -> None:
    world = World(0, RandomFates(MIXES[0], random.Random(0)), visibility_seconds=30)
    stage = Stage(world, Settings(), skew_seconds=0)
    started: list[asyncio.Task[None]] = []

    async def fail() -> None:
        stage.open(consumers=2)
        await asyncio.sleep(1)
        started.extend(world.loop.tasks)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        world.run(fail())
    assert len(started) > 2
    assert all(task.done() for task in started)
