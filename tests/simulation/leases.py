"""How often consumers write the state of a limit of the fleet."""

import itertools
from collections import defaultdict

import pytest

from penstock.aws.store import DynamoDbStore
from penstock.fleet_limit import LimitState
from penstock.running.limit_gate import LEAST_WRITE_SECONDS
from tests.simulation.truth import current_process
from tests.simulation.world import World


class NotedLeases:
    """Notes when each consumer writes the state of a limit."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times: defaultdict[str, list[float]] = defaultdict(list)
        lease_limit = DynamoDbStore.lease_limit

        async def noted(store: DynamoDbStore, name: str, seen: LimitState, state: LimitState) -> bool:
            self.times[current_process().name].append(world.loop.time())
            return await lease_limit(store, name, seen, state)

        monkeypatch.setattr(DynamoDbStore, "lease_limit", noted)

    @property
    def count(self) -> int:
        return sum(map(len, self.times.values()))

    @property
    def are_spaced(self) -> bool:
        """Return True if no consumer has written more than once a second."""
        return all(
            later - earlier >= LEAST_WRITE_SECONDS
            for times in self.times.values()
            for earlier, later in itertools.pairwise(times)
        )
