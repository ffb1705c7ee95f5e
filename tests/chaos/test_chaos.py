"""The short form of `make chaos`: it runs every scenario once, with few operations."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
import pytest_asyncio

from penstock.infra.local.servers import Server, running_servers
from tests.chaos.scenarios import SCENARIOS, Scenario, poison, restart_queue, roll_out, run_scenario
from tests.chaos.stage import Options, Stage, Terms, open_stage

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHORT = Options(operations=240, faults=2, consumers=2, lease_seconds=2, units=60)


# Chunks are small, so that faults hit running work and poison is isolated soon. The key is whether leases run out.
TERMS = {run_out: Terms(chunk_operations=5, leases_run_out=run_out) for run_out in (True, False)}


def shortened(scenario: Scenario) -> Scenario:
    """Make a scenario short. One fault is enough if it affects every program, or if it repeats by itself."""
    return replace(
        scenario,
        terms=TERMS[scenario.terms.leases_run_out],
        poison_in=SHORT.operations if scenario.poison_in else 0,
        fault_share=0.5 if scenario.fault in {roll_out, restart_queue, poison} else 1,
    )


SHORTENED = [shortened(scenario) for scenario in SCENARIOS]


@pytest.fixture(scope="module")
def servers(java: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    folder = tmp_path_factory.mktemp("servers")
    with running_servers(folder, storage=folder) as (queue_server, table_server):
        yield queue_server, table_server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(
    request: pytest.FixtureRequest, servers: tuple[Server, Server], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stage]:
    """Open one stage for all scenarios with the same terms, since starting it takes longer than most scenarios."""
    terms: Terms = request.param
    async with open_stage(terms, SHORT, servers, tmp_path_factory.mktemp("stage") / "logs") as opened:
        yield opened


@pytest.mark.parametrize(
    ("stage", "scenario"),
    [pytest.param(scenario.terms, scenario, id=scenario.name) for scenario in SHORTENED],
    indirect=["stage"],
    scope="module",  # otherwise each would have its own stage
)
async def test_promises_are_kept(scenario: Scenario, stage: Stage) -> None:
    report = await run_scenario(scenario, SHORT, stage)

    assert report.verdict.broken == []
    assert report.verdict.outcomes == SHORT.operations
