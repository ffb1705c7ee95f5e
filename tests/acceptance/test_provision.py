"""`penstock provision` creates what is missing and damages nothing that exists."""

import pytest

from tests.acceptance.conftest import Install
from tests.acceptance.installation import Installation, on_any_aws
from tests.support.api import Operation

NOTE: Operation = {"method": "POST", "path": "/notes"}


async def provision_again(penstock: Installation, **environment: str) -> str:
    program = await penstock.programs.penstock("provision", **environment)
    assert await program.ended() == 0, program.output()
    return program.output()


@pytest.mark.story("provision")
async def test_provisioning_again_says_the_same_and_harms_nothing(install: Install) -> None:
    penstock = await install()
    await penstock.serve()
    batch_id = await penstock.api.submit([NOTE] * 120)

    again = await provision_again(penstock)
    await penstock.consume()

    assert again.splitlines() == penstock.provisioned
    *queues, table = [line for line in penstock.provisioned if not line.startswith("not known to these servers: ")]
    assert all(queue.startswith("queue http") for queue in queues)
    names = ["dead-letters", "chunks-high", "chunks-normal", "chunks-low"]
    assert [queue.rpartition("/")[2] for queue in queues] == [f"{penstock.name}-{name}" for name in names]
    assert table == f"table {penstock.name}"
    assert (await penstock.api.ended(batch_id)).succeeded == 120


async def test_provisioning_brings_a_queue_to_changed_settings(install: Install) -> None:
    penstock = await install(VISIBILITY_SECONDS="60")

    await provision_again(penstock, PENSTOCK_VISIBILITY_SECONDS="90")

    assert penstock.queue_attributes()["VisibilityTimeout"] == "90"


@on_any_aws
async def test_on_aws_it_makes_nothing_and_says_how_to_deploy(install: Install) -> None:
    penstock = await install()

    program = await penstock.programs.penstock("provision", AWS_ENDPOINT_URL="https://sqs.eu-central-1.amazonaws.com")

    assert await program.ended() == 1
    assert program.output().startswith("penstock provision: Deploy the template with CloudFormation: ")
    assert "aws cloudformation deploy --stack-name " in program.output()
    assert "template.yaml" in program.output()
