"""Exports: clients ask for them, and their files have the outcomes of the batch, each once and in its order."""

import asyncio
import hashlib
import json
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from penstock.export import ExportState
from penstock.service.batches.export_run import EXPORTING
from penstock.testing.http import Answer
from tests.simulation.clients import Client
from tests.simulation.process import State
from tests.simulation.programs import ServiceProgram
from tests.simulation.promises import ACCEPTED, ANSWERED
from tests.simulation.stage import Stage
from tests.simulation.truth import Submission

LEASE_SECONDS = 8.0
ASKS_AGAIN_SECONDS = 2.0
MOST_ASKS = 200


def small_exports() -> ExitStack:
    """Let each row be a part of its own, and a lease end soon."""
    stack = ExitStack()
    stack.enter_context(patch("penstock.service.batches.export_files.PART_BYTES", 1))
    stack.enter_context(patch("penstock.service.batches.export_files.WINDOW_OUTCOMES", 1))
    stack.enter_context(patch("penstock.service.batches.export_run.BEAT_SECONDS", LEASE_SECONDS / 4))
    stack.enter_context(patch("penstock.export.LEASE_SECONDS", LEASE_SECONDS))
    return stack


async def export(stage: Stage, submission: Submission) -> None:
    """Export a batch once it has ended."""
    await stage.client.submit(submission)
    await stage.settle()
    for batch_id in submission.batch_ids:
        await _export(stage, batch_id)


async def export_while_its_front_end_pauses(stage: Stage, submission: Submission) -> None:
    """Pause the front end that makes an export until another one has gone on with it."""
    await stage.client.submit(submission)
    await stage.settle()
    for batch_id in submission.batch_ids:
        asking = asyncio.create_task(_export(stage, batch_id))
        front_end = await _that_exports(stage)
        stage.world.promises.check(front_end is not None, 0, "no front end has made an export")
        assert front_end is not None
        front_end.process.pause()
        await asyncio.sleep(3 * LEASE_SECONDS)
        front_end.process.resume()
        stage.world.promises.check(asking.done(), 4, f"the export of {batch_id} waits for the front end that pauses")
        await _check_it_stays_completed(stage, batch_id)


async def _check_it_stays_completed(stage: Stage, batch_id: str) -> None:
    """Check that a front end whose lease is over changes nothing of an export that another one has completed."""
    for _ in range(20):
        answer = await stage.client.ask("POST", f"/batch/{batch_id}/export")
        is_kept = answer is None or answer.status in {ANSWERED, 503}
        stage.world.promises.check(is_kept, 2, f"the completed export of {batch_id} is {answer}")
        await asyncio.sleep(0.01)


async def _that_exports(stage: Stage) -> ServiceProgram | None:
    """Wait until a front end has written a part, for a minute at most."""
    give_up_at = stage.world.loop.time() + 60
    while stage.world.loop.time() < give_up_at:
        await asyncio.sleep(0.001)
        for one in stage.front_ends:
            assert isinstance(one, ServiceProgram)
            run = None if one._app is None else one._app[EXPORTING]._run
            if run is not None and run.export.parts:
                return one
    return None


async def _export(stage: Stage, batch_id: str) -> None:
    """Ask for an export until it is completed, as a client does. Check its files."""
    client = Client(stage.world, lambda: _that_answers(stage))
    method, path, check = "POST", f"/batch/{batch_id}/export", stage.world.promises.check
    for _ in range(MOST_ASKS):
        answer = await _ask(client, method, path)
        if answer is not None and answer.status in {ANSWERED, ACCEPTED}:
            if answer.body["status"] == ExportState.COMPLETED:
                _check(stage, batch_id, answer.body)
                return
            method, path = "GET", answer.body["url"]
            check(answer.body["status"] == ExportState.RUNNING, 4, f"the export is {answer.body}")
        else:
            check(answer is None or answer.status == 503, 1, f"the export is answered {answer}")
        await asyncio.sleep(ASKS_AGAIN_SECONDS)
    check(False, 4, f"the export of {batch_id} was never completed")


async def _ask(client: Client, method: str, path: str) -> Answer | None:
    """Send a request. Return None if the connection broke, or if a front end that is paused does not answer."""
    try:
        async with asyncio.timeout(LEASE_SECONDS / 2):
            return await client.ask(method, path)
    except TimeoutError:
        return None


async def _that_answers(stage: Stage) -> ServiceProgram:
    """Return a front end that is not paused, as a load balancer does."""
    while True:
        front_end = await stage.a_front_end()
        if front_end.process.state is State.RUNNING:
            return front_end
        await asyncio.sleep(0.01)


def _check(stage: Stage, batch_id: str, told: dict[str, Any]) -> None:
    check, files = stage.world.promises.check, stage.world.files.contents
    [manifest] = [key for key in files if key.endswith(f"{told['exportId']}/manifest.json")]
    parts = json.loads(files[manifest])["parts"]
    contents = [files.get(part["key"], b"") for part in parts]
    sums = [hashlib.sha256(content).hexdigest() for content in contents]
    check(sums == [part["sha256"] for part in told["parts"]], 2, f"the files of the export are not those of {parts}")
    rows = [json.loads(line) for line in b"".join(contents).splitlines()]
    stage.world.promises.check_results(batch_id, rows)
    check(told["rows"] == told["total"] == len(rows), 2, f"the export tells {told['rows']} of {told['total']} rows")
