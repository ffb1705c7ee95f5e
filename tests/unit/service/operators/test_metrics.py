"""GET /metrics, and which work of the front end is counted."""

from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from penstock import Operations, Reject
from penstock.metrics.names import Metric
from penstock.service.keys import METER
from tests.support.faults import Outage
from tests.support.service import Serve, Service, ask_for, assert_problem
from tests.unit.service.conftest import Logs

operations = Operations()


@operations.post("/succeed/{name}")
async def succeed(name: str) -> str:
    return name


@operations.post("/reject/{name}")
async def reject(name: str) -> None:
    raise Reject(409, name)


def counts_of(service: Service) -> dict[str, int]:
    """Return all counters, by their names in CloudWatch."""
    app = service.client.app
    assert app is not None
    return {metric.value: count for metric, count in app[METER].totals().counts.items() if count}


async def test_figures_of_every_handler_as_text_and_as_json(serve: Serve) -> None:
    service = await serve(operations)
    await service.post(ask_for("/succeed/a", "/succeed/b", "/reject/c"))
    answer = await service.get("/metrics")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = {family.name: family for family in text_string_to_metric_families(answer.content.decode())}
    succeeded = {sample.labels["handler"]: sample.value for sample in families["penstock_operations_succeeded"].samples}
    assert succeeded == {"POST /succeed/{name}": 2, "POST /reject/{name}": 0}
    document = (await service.get("/metrics", Accept="application/json")).body
    assert document["program"] == "service"
    assert document["handlers"]["POST /reject/{name}"]["failed"] == 1
    assert document["metrics"]["HttpAnswers2xx"] == 1


async def test_other_types_are_refused(serve: Serve) -> None:
    service = await serve(operations)
    assert_problem(await service.get("/metrics", Accept="image/png"), 406)


async def ask_well(service: Service) -> None:
    await service.post(ask_for("/succeed/a"))


async def ask_wrongly(service: Service) -> None:
    await service.post(ask_for("/nothing"))


async def ask_for_nothing_there_is(service: Service) -> None:
    await service.get("/nowhere")


async def ask_for_too_much(service: Service) -> None:
    await service.post(ask_for("/succeed/a", "/succeed/b", "/succeed/c", "/succeed/d"))


async def ask_how_it_is(service: Service) -> None:
    for path in ("/health/live", "/health/ready", "/metrics", "/dead-letters"):
        await service.get(path)


@pytest.mark.parametrize(
    ("ask", "counted"),
    [
        (ask_well, {"HttpAnswers2xx": 1}),
        (ask_wrongly, {"HttpAnswers4xx": 1}),
        (ask_for_nothing_there_is, {"HttpAnswers4xx": 1}),
        (ask_for_too_much, {"HttpAnswers4xx": 1, "RejectedByLimit": 1}),
        (ask_how_it_is, {}),
    ],
)
async def test_answers_are_counted_by_class(
    serve: Serve, ask: Callable[[Service], object], counted: dict[str, int]
) -> None:
    service = await serve(operations, max_operations=3, sync_max_operations=3)
    outcome = ask(service)
    assert hasattr(outcome, "__await__")
    await outcome
    assert counts_of(service) == counted


async def test_answers_for_trouble_of_ours_are_counted(serve: Serve, logs: Logs) -> None:
    service = await serve(operations, watch=Outage("chunks.send"))
    answer = await service.post(ask_for("/succeed/a"), {"Prefer": "respond-async"})
    assert answer.status == 503
    assert counts_of(service) == {"HttpAnswers5xx": 1}


async def test_acceptance_is_measured(serve: Serve) -> None:
    service = await serve(operations)
    await service.post(ask_for("/succeed/a"))
    await service.post(ask_for("/succeed/a"), {"Prefer": "respond-async"})
    app = service.client.app
    assert app is not None
    assert app[METER].totals().spreads[Metric.ACCEPT_SECONDS].count == 1
