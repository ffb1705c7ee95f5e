"""Both programs report what they did: at /metrics, in the log, and to CloudWatch when they stop."""

import json
from typing import Any

import aiohttp
import boto3
import pytest

from penstock.metrics.names import Program
from tests.acceptance.conftest import Install
from tests.acceptance.installation import Installation, on_any_aws
from tests.support.api import Operation
from tests.support.programs import free_port

ADD: Operation = {"method": "POST", "path": "/sums", "body": {"a": 1, "b": 2}}
REFUSED: Operation = {"method": "POST", "path": "/refused"}


async def metrics_at(port: int) -> Any:
    async with aiohttp.ClientSession() as session:
        url, headers = f"http://127.0.0.1:{port}/metrics", {"Accept": "application/json"}
        async with session.get(url, headers=headers) as answer:
            assert answer.status == 200
            return await answer.json()


def names_in_cloudwatch(penstock: Installation, program: Program) -> set[str]:
    environment = penstock.environment
    client = boto3.client(
        "cloudwatch",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
    dimensions: list[Any] = [{"Name": "Service", "Value": penstock.name}, {"Name": "Program", "Value": program.value}]
    try:
        return {metric["MetricName"] for metric in client.list_metrics(Dimensions=dimensions)["Metrics"]}
    finally:
        client.close()


@pytest.mark.story("roles")
@on_any_aws
async def test_both_programs_tell_what_they_have_done(install: Install) -> None:
    penstock = await install(LEAVE_SECONDS="0")
    front_end = await penstock.serve()
    port = free_port()
    consumer = await penstock.programs.start("penstock.consumer", "--health-port", str(port))
    await consumer.says("consumer ready")
    await penstock.api.ended(await penstock.api.submit([ADD, ADD, REFUSED] * 40))
    await penstock.until_queue_is_empty()

    told = await metrics_at(port)
    assert told["handlers"]["POST /sums"]["succeeded"] == 80
    assert told["handlers"]["POST /refused"]["failed"] == 40
    assert (await metrics_at(penstock.operator_port))["metrics"]["AcceptSeconds"]["count"] == 1

    for program in (consumer, front_end):
        program.terminate()
        assert await program.ended() == 0
    lines = [json.loads(line) for line in consumer.output().splitlines() if "handler figures" in line]
    assert {line["handler"]: line["count"] for line in lines} == {"POST /sums": 80, "POST /refused": 40}
    assert names_in_cloudwatch(penstock, Program.CONSUMER) >= {"OperationsSucceeded", "HandlerSeconds", "ChunkSeconds"}
    assert names_in_cloudwatch(penstock, Program.SERVICE) >= {"AcceptSeconds", "HttpAnswers2xx"}


@on_any_aws
async def test_programs_work_and_stop_in_time_while_cloudwatch_is_away(install: Install) -> None:
    penstock = await install(CONCURRENCY="2")
    nowhere = {"AWS_ENDPOINT_URL_CLOUDWATCH": f"http://127.0.0.1:{free_port()}"}
    await penstock.serve(**nowhere)
    consumer = await penstock.consume(**nowhere)
    status = await penstock.api.ended(await penstock.api.submit([ADD] * 120))
    consumer.terminate()
    assert status.succeeded == 120
    assert await consumer.ended(units=10) == 0
    assert consumer.output().count("metrics unsent") == 1
