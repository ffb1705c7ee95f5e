"""`penstock provision` makes what is missing and harms nothing that is there."""

from penstock.priority import Priority
from tests.acceptance.conftest import Install
from tests.acceptance.installation import Installation
from tests.support.api import Operation

NOTE: Operation = {"method": "POST", "path": "/notes"}


async def provision_again(penstock: Installation, **environment: str) -> str:
    program = await penstock.programs.penstock("provision", **environment)
    assert await program.ended() == 0, program.output()
    return program.output()


async def test_provisioning_again_says_the_same_and_harms_nothing(install: Install) -> None:
    penstock = await install()
    await penstock.serve()
    batch_id = await penstock.api.submit([NOTE] * 120)

    first = await provision_again(penstock)
    second = await provision_again(penstock)
    await penstock.consume()

    assert first == second
    *queues, dead_letters, table = first.splitlines()
    assert all(queue.startswith("queue http") for queue in queues)
    assert [queue.rpartition("/")[2] for queue in queues] == [f"{penstock.name}-chunks-{one}" for one in Priority]
    assert dead_letters.endswith(f"/{penstock.name}-dead-letters")
    assert table == f"table {penstock.name}"
    assert (await penstock.api.ended(batch_id)).succeeded == 120


async def test_provisioning_brings_a_queue_to_changed_settings(install: Install) -> None:
    penstock = await install(VISIBILITY_SECONDS="60")

    await provision_again(penstock, PENSTOCK_VISIBILITY_SECONDS="90")

    assert penstock.queue_attributes()["VisibilityTimeout"] == "90"
