"""The short form of `make chaos`: every scenario once, small."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from infra.local.servers import Server, running_servers
from tests.chaos.scenarios import SCENARIOS, Options, Scenario, roll_out, run_scenario
from tests.support.backends import real_servers_or_skip

pytestmark = pytest.mark.xdist_group("real")

SHORT = Options(operations=300, faults=2, consumers=2, lease_seconds=3, units=60)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    real_servers_or_skip()
    folder = tmp_path_factory.mktemp("servers")
    with running_servers(folder, storage=folder) as (queue_server, table_server):
        yield queue_server, table_server


def shortened(scenario: Scenario) -> Scenario:
    """Small chunks, so that faults find work under way and poison is cornered soon; one rollout, that of everything."""
    if scenario.poison_in:
        return replace(scenario, chunk_operations=2, poison_in=150)
    return replace(scenario, chunk_operations=10, fault_share=0.5 if scenario.fault is roll_out else 1)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_promises_are_kept(scenario: Scenario, servers: tuple[Server, Server], tmp_path: Path) -> None:
    report = asyncio.run(run_scenario(shortened(scenario), SHORT, servers, tmp_path / "logs"))

    assert report.verdict.broken == []
    assert report.verdict.outcomes == SHORT.operations
