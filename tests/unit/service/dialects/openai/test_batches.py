"""Batches: create, look at, list and cancel, with the contents of their files, as OpenAI's clients do."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from openai import AsyncOpenAI
from pydantic_core import to_json
from pytest_aiohttp import AiohttpClient

from penstock.batch import BatchState
from penstock.sending import ChunkSender
from penstock.service.batches import streaming
from penstock.service.batches.results import Reading
from penstock.service.dialects.openai import batches, input_file, output_list, outputs
from penstock.service.dialects.openai.batch_entry import KIND
from penstock.service.dialects.openai.input_file import InputFile, operations_key
from penstock.service.keys import MEMORY
from penstock.testing.http import Answer
from penstock.webhooks.event import EventType, body_of_batch
from tests.support.builders import NOW
from tests.support.faults import Outage
from tests.support.generators import are_closed, kept_generators
from tests.support.plant import Plant, build_plant
from tests.support.rig import take_turn
from tests.unit.service.dialects.openai.conftest import EMBEDDINGS, assert_error, line, operations, uploaded

DAY = 86_400
REPEATED = {"x-stainless-retry-count": "1"}
# What openai.types.Batch has. Each of these is in every answer.
MEMBERS = {
    *("id", "object", "endpoint", "model", "errors", "input_file_id", "completion_window", "status"),
    *("output_file_id", "error_file_id", "created_at", "in_progress_at", "expires_at", "finalizing_at"),
    *(
        "completed_at",
        "failed_at",
        "expired_at",
        "cancelling_at",
        "cancelled_at",
        "request_counts",
        "metadata",
        "usage",
    ),
}


@pytest.fixture
async def plant(aiohttp_client: AiohttpClient) -> Plant:
    return await build_plant(aiohttp_client, operations, chunk_operations=2)


async def create(plant: Plant, file_id: str, headers: Mapping[str, str] | None = None, **changes: Any) -> Answer:
    body = {"input_file_id": file_id, "endpoint": EMBEDDINGS, "completion_window": "24h", **changes}
    return await plant.service.ask("POST", "/v1/batches", json=body, headers=headers)


async def created(plant: Plant, *lines: Any, **changes: Any) -> str:
    """Make a batch of these lines, and return its id."""
    answer = await create(plant, await uploaded(plant.service, *lines), **changes)
    assert answer.status == 200, answer.content
    batch_id: str = answer.body["id"]
    return batch_id


async def read(plant: Plant, batch_id: str) -> Any:
    answer = await plant.service.get(f"/v1/batches/{batch_id}")
    assert answer.status == 200, answer.content
    assert answer.body.keys() == MEMBERS
    return answer.body


async def content(plant: Plant, file_id: str) -> list[Any]:
    answer = await plant.service.get(f"/v1/files/{file_id}/content", Accept="application/binary")
    assert answer.status == 200, answer.content
    return [json.loads(one) for one in answer.content.splitlines()]


async def test_batch_runs_and_its_output_is_a_file(plant: Plant) -> None:
    file_id = await uploaded(plant.service, line("a", "1"), line("b", "22"), line("c", "333"))
    answer = await create(plant, file_id, metadata={"team": "x"})
    begun = answer.body
    assert (answer.status, begun["status"]) == (200, "in_progress")
    assert begun["request_counts"] == {"total": 3, "completed": 0, "failed": 0}
    assert (begun["output_file_id"], begun["error_file_id"], begun["errors"]) == (None, None, None)
    await plant.work_off()
    batch = await read(plant, begun["id"])
    assert batch == begun | {
        "status": "completed",
        "output_file_id": f"file-{begun['id'].removeprefix('batch_')}-output",
        "finalizing_at": int(NOW),
        "completed_at": int(NOW),
        "request_counts": {"total": 3, "completed": 3, "failed": 0},
    }
    assert (batch["model"], batch["metadata"], batch["endpoint"]) == ("m", {"team": "x"}, EMBEDDINGS)
    assert (batch["created_at"], batch["in_progress_at"], batch["expires_at"]) == (*[int(NOW)] * 2, int(NOW) + DAY)
    lines = await content(plant, batch["output_file_id"])
    assert [one["custom_id"] for one in lines] == ["a", "b", "c"]
    name = begun["id"].removeprefix("batch_")
    assert lines[1] == {
        "id": f"batch_req_{name}_1",
        "custom_id": "b",
        "response": {
            "status_code": 200,
            "request_id": f"req_{name}_1",
            "body": {"object": "list", "model": "m", "data": [2]},
        },
        "error": None,
    }


async def test_output_is_described_as_a_file_until_it_is_deleted(plant: Plant) -> None:
    batch_id = await created(plant, line("a"), line("b", "refused"))
    await plant.work_off()
    batch = await read(plant, batch_id)
    file_id = batch["output_file_id"]
    described = (await plant.service.get(f"/v1/files/{file_id}")).body
    size = len((await plant.service.get(f"/v1/files/{file_id}/content")).content)
    assert described == {
        "id": file_id,
        "object": "file",
        "bytes": size,
        "created_at": int(NOW),
        "expires_at": int(NOW) + 8 * DAY,
        "filename": f"{batch_id}_output.jsonl",
        "purpose": "batch_output",
        "status": "processed",
        "status_details": None,
    }
    assert (await plant.service.ask("DELETE", f"/v1/files/{file_id}")).body["deleted"] is True
    for path in ("", "/content"):
        assert_error(await plant.service.get(f"/v1/files/{file_id}{path}"), 404, "id")
    assert (await plant.service.get(f"/v1/files/{batch['error_file_id']}")).status == 200


async def test_files_are_there_while_the_batch_runs(plant: Plant) -> None:
    batch_id = await created(plant, *[line(one) for one in "abc"])
    await take_turn(plant.consumer(concurrency=1))
    batch = await read(plant, batch_id)
    assert batch["status"] == "in_progress"
    assert len(await content(plant, batch["output_file_id"])) == batch["request_counts"]["completed"] > 0


@pytest.mark.parametrize("query", ["limit=2", "limit=1", "limit=1000", "order=asc&limit=2"])
async def test_output_files_are_listed_in_the_order_of_their_batches(plant: Plant, query: str) -> None:
    expected = []
    for lines in ([line("a"), line("b", "refused")], [line("a")], [line("a"), line("a")], [line("a", "refused")]):
        plant.clock.advance(1)
        batch_id = await created(plant, *lines)
        await plant.work_off()
        batch = await read(plant, batch_id)
        expected.append([one for one in (batch["output_file_id"], batch["error_file_id"]) if one])
    running = await created(plant, line("a"))
    assert running not in str(expected)
    deleted = expected[1].pop()
    assert (await plant.service.ask("DELETE", f"/v1/files/{deleted}")).status == 200
    in_order = expected if "asc" in query else expected[::-1]
    found, after, has_more = [], "", True
    while has_more:
        page = (await plant.service.get(f"/v1/files?purpose=batch_output&{query}{after}")).body
        found += page["data"]
        has_more, after = page["has_more"], f"&after={page['last_id']}"
    assert [one["id"] for one in found] == [file_id for ids in in_order for file_id in ids]
    for one in found:
        assert (await plant.service.get(f"/v1/files/{one['id']}")).body == one


async def test_page_of_output_files_ends_after_much_work(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_list, "MOST_RENDERED", 2)
    await created(plant, line("a"), line("b"), line("c"), line("d", "refused"))
    await plant.work_off()
    page = (await plant.service.get("/v1/files?purpose=batch_output")).body
    assert (len(page["data"]), page["has_more"]) == (1, True)
    await plant.service.get(f"/v1/files?purpose=batch_output&after={page['last_id']}")
    kept = (await plant.service.get("/v1/files?purpose=batch_output")).body
    assert (len(kept["data"]), kept["has_more"]) == (2, False)  # now both sizes are kept
    assert_error(await plant.service.get("/v1/files?purpose=batch_output&after=file-x"), 400, "after")


async def test_batches_without_files_cost_few_calls_and_end_a_page(
    aiohttp_client: AiohttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    plant = await build_plant(
        aiohttp_client, operations, watch=lambda call, moment: calls.append(call) if moment == "before" else None
    )
    for _ in range(25):
        batch_id = await created(plant, line("a"))
        await plant.work_off()
        await plant.service.ask("DELETE", f"/v1/files/{(await read(plant, batch_id))['output_file_id']}")
    calls.clear()
    assert (await plant.service.get("/v1/files?purpose=batch_output")).body["data"] == []
    assert len(calls) <= 10
    monkeypatch.setattr(output_list, "MOST_STEPS", 1)
    calls.clear()
    assert (await plant.service.get("/v1/files?purpose=batch_output")).body["has_more"] is False
    assert len(calls) <= 5


async def test_memory_of_a_file_whose_bytes_are_counted_is_taken(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_id = await created(plant, line("a"))
    await plant.work_off()
    file_id = (await read(plant, batch_id))["output_file_id"]
    used: list[int] = []

    async def blocks(request: web.Request, _output: outputs.Output) -> AsyncIterator[tuple[bytes, int]]:
        for size in (1_000, 5_000_000):
            yield b"x", size
            used.append(request.app[MEMORY].used_bytes)

    monkeypatch.setattr(outputs, "_blocks", blocks)
    assert (await plant.service.get(f"/v1/files/{file_id}")).body["bytes"] == 2
    assert used[0] >= 1_000
    assert used[1] >= 5_000_000


async def test_size_of_a_final_file_is_counted_once_until_the_batch_is_retried(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[str] = []
    render = outputs._blocks

    def watched(request: Any, output: outputs.Output) -> Any:
        rendered.append(output.id)
        return render(request, output)

    monkeypatch.setattr(outputs, "_blocks", watched)
    batch_id = await created(plant, line("a"), line("b", "refused"))
    await plant.work_off()
    file_id = (await read(plant, batch_id))["error_file_id"]
    first = (await plant.service.get(f"/v1/files/{file_id}")).body
    assert (await plant.service.get(f"/v1/files/{file_id}")).body == first
    assert rendered == [file_id]
    plant.clock.advance(1)
    assert (await plant.service.ask("POST", f"/batch/{batch_id}/retry")).status == 202
    await plant.work_off()
    again = (await plant.service.get(f"/v1/files/{file_id}")).body
    assert (again["bytes"], rendered) == (first["bytes"], [file_id, file_id])


async def test_client_that_leaves_a_file_ends_its_reading(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    async def leave(_request: web.Request, _content_type: str, blocks: AsyncIterator[Any]) -> web.Response:
        await anext(blocks)
        return web.Response()

    batch_id = await created(plant, *(line(str(number)) for number in range(9)))
    await plant.work_off()
    file_id = (await read(plant, batch_id))["output_file_id"]
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 1)
    monkeypatch.setattr(outputs, "stream", leave)
    windows = kept_generators(monkeypatch, Reading, "windows")
    await plant.service.get(f"/v1/files/{file_id}/content")
    assert are_closed(windows) == [True]


async def test_batch_whose_requests_all_fail_is_completed(plant: Plant) -> None:
    batch_id = await created(plant, line("a", "refused"), line("b", "refused"))
    await plant.work_off()
    batch = await read(plant, batch_id)
    assert (batch["status"], batch["output_file_id"]) == ("completed", None)
    assert batch["request_counts"] == {"total": 2, "completed": 0, "failed": 2}
    first, _ = await content(plant, batch["error_file_id"])
    assert (first["custom_id"], first["error"], first["response"]["status_code"]) == ("a", None, 400)
    assert first["response"]["body"]["error"]["message"] == "This input is not allowed."
    assert (await plant.batch(batch_id)).state is BatchState.COMPLETED


@pytest.mark.parametrize(
    ("lines", "endpoint", "codes"),
    [
        ([line("a"), line("b"), line("a")], EMBEDDINGS, [("duplicate_custom_id", 3)]),
        ([line("a"), b"{"], EMBEDDINGS, [("invalid_json_line", 2)]),
        ([line("a", body={"model": 7})], EMBEDDINGS, [("invalid_value", 1), ("invalid_value", 1)]),
        ([], EMBEDDINGS, [("empty_file", None)]),
        ([line("a"), line("b", url="/v1/moderations")], EMBEDDINGS, [("url_mismatch", 2)]),
        ([line("a"), line("b")], "/v1/moderations", [("url_mismatch", 1), ("url_mismatch", 2)]),
    ],
)
async def test_invalid_input_makes_a_batch_that_has_failed(
    plant: Plant, lines: list[Any], endpoint: str, codes: list[tuple[str, int | None]]
) -> None:
    batch_id = await created(plant, *lines, endpoint=endpoint)
    batch = await read(plant, batch_id)
    assert (batch["status"], batch["failed_at"]) == ("failed", int(NOW))
    assert [(one["code"], one["line"]) for one in batch["errors"]["data"]] == codes
    assert batch["errors"]["object"] == "list"
    assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert not plant.messages
    assert [one["id"] for one in (await plant.service.get("/v1/batches")).body["data"]] == [batch_id]
    assert_error(await plant.service.ask("POST", f"/v1/batches/{batch_id}/cancel"), 409)


# --- Large files


@pytest.fixture
async def planting(aiohttp_client: AiohttpClient) -> Plant:
    """Return a plant whose consumers read every file."""
    return await build_plant(aiohttp_client, operations, chunk_operations=2, background_upload_bytes=0)


async def test_large_file_is_read_by_a_consumer_after_the_answer(planting: Plant) -> None:
    file_id = await uploaded(planting.service, line("a"), b"", line("b"), line("c"))
    begun = (await create(planting, file_id, metadata={"team": "x"})).body
    assert (begun["status"], begun["in_progress_at"], begun["finalizing_at"]) == ("validating", None, None)
    assert begun["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert [one["status"] for one in (await planting.service.get("/v1/batches")).body["data"]] == ["validating"]
    assert (await create(planting, file_id, REPEATED, metadata={"team": "x"})).body == begun
    await planting.work_off()
    batch = await read(planting, begun["id"])
    assert (batch["status"], batch["request_counts"]["completed"], batch["metadata"]) == ("completed", 3, {"team": "x"})
    assert [one["custom_id"] for one in await content(planting, batch["output_file_id"])] == ["a", "b", "c"]


async def test_batch_that_a_consumer_reads_is_completed_even_if_all_fail(planting: Plant) -> None:
    batch_id = await created(planting, line("a", "refused"))
    await planting.work_off()
    batch = await read(planting, batch_id)
    assert (batch["status"], batch["request_counts"]["failed"]) == ("completed", 1)


async def test_errors_that_only_the_consumer_finds_are_told_by_line(planting: Plant) -> None:
    file_id = await uploaded(planting.service, line("a"), line("b", "x" * 2_000))
    batch_id = (await create(planting, file_id)).body["id"]
    await planting.work_off(planting.consumer(message_bytes=2_048))
    batch = await read(planting, batch_id)
    assert (batch["status"], batch["failed_at"], batch["finalizing_at"]) == ("failed", int(NOW), None)
    [error] = batch["errors"]["data"]
    assert (error["code"], error["line"], error["param"]) == ("invalid_value", 2, None)
    assert (await planting.service.get("/v1/batches")).body["data"] == [batch]


async def test_batch_that_can_never_be_charged_says_why_it_failed(planting: Plant) -> None:
    batch_id = await created(planting, line("a"))
    await planting.parts.store.end_planning(batch_id, BatchState.FAILED, NOW, "It is too large for the quota.")
    batch = await read(planting, batch_id)
    assert [(one["code"], one["message"]) for one in batch["errors"]["data"]] == [
        ("batch_not_possible", "It is too large for the quota.")
    ]


async def test_batch_whose_file_was_replaced_says_so(planting: Plant) -> None:
    file_id = await uploaded(planting.service, line("a"))
    batch_id = (await create(planting, file_id)).body["id"]
    assert planting.parts.bucket is not None
    await planting.parts.bucket.delete(operations_key("default", file_id))
    await planting.work_off()
    [error] = (await read(planting, batch_id))["errors"]["data"]
    assert (error["code"], error["line"]) == ("batch_not_possible", None)


@pytest.mark.parametrize("lines", [[line("a")], [line("a"), line("a")]])
async def test_batch_that_the_engine_does_not_have_is_not_shown(
    aiohttp_client: AiohttpClient, lines: list[Any]
) -> None:
    outage = Outage("store.create_batch")
    plant = await build_plant(aiohttp_client, operations, watch=outage, background_upload_bytes=0)
    assert (await create(plant, await uploaded(plant.service, *lines))).status >= 500
    assert (await plant.service.get("/v1/batches")).body["data"] == []


async def test_batch_that_is_validating_can_be_cancelled(planting: Plant) -> None:
    batch_id = await created(planting, line("a"))
    cancelled = (await planting.service.ask("POST", f"/v1/batches/{batch_id}/cancel")).body
    assert (cancelled["status"], cancelled["cancelled_at"]) == ("cancelled", int(NOW))
    assert (cancelled["output_file_id"], cancelled["error_file_id"]) == (None, None)
    await planting.work_off()
    assert (await read(planting, batch_id))["status"] == "cancelled"


async def test_file_that_is_deleted_while_a_consumer_reads_it_makes_a_batch(planting: Plant) -> None:
    file_id = await uploaded(planting.service, line("a"))
    batch_id = (await create(planting, file_id)).body["id"]
    assert (await planting.service.ask("DELETE", f"/v1/files/{file_id}")).body["deleted"] is True
    assert_error(await planting.service.get(f"/v1/files/{file_id}/content"), 404, "id")
    await planting.work_off()
    assert (await read(planting, batch_id))["status"] == "completed"


async def test_quota_rejects_a_large_file_before_a_consumer_reads_it(aiohttp_client: AiohttpClient) -> None:
    plant = await build_plant(aiohttp_client, operations, tenant_limit="2/3600", background_upload_bytes=0)
    large, small = [await uploaded(plant.service, *[line(one) for one in ids]) for ids in ("abc", "ab")]
    assert_error(await create(plant, large), 413)
    key = {"Idempotency-Key": "mine"}
    first = (await create(plant, small, key)).body
    await plant.work_off()
    assert (await read(plant, first["id"]))["status"] == "completed"
    plant.clock.advance(2)  # this front end reads the usage again
    assert_error(await create(plant, small), 429)
    assert (await create(plant, small, key)).body["id"] == first["id"]


async def test_many_lines_make_a_file_large(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_file, "MOST_LINES_HERE", 2)
    assert (await read(plant, await created(plant, line("a"), line("b"))))["status"] == "in_progress"
    assert (await read(plant, await created(plant, line("a"), line("b"), line("c"))))["status"] == "validating"


# --- Invalid input


@pytest.mark.parametrize(
    ("call", "reason"),
    [("store.write_errors", "The uploaded file was replaced"), ("store.end_planning", "The file has 1 error;")],
)
async def test_invalid_input_never_runs_although_its_front_end_died(
    aiohttp_client: AiohttpClient, call: str, reason: str
) -> None:
    outage = Outage(call)
    plant = await build_plant(aiohttp_client, operations, watch=outage)
    batch_id = await created(plant, line("a"), endpoint="/v1/moderations")
    assert (await read(plant, batch_id))["status"] == "failed"
    outage.times = 0
    await ChunkSender(plant.parts.backend, plant.settings, plant.clock).ask_to_plan(await plant.batch(batch_id))
    await plant.work_off()
    batch = await plant.batch(batch_id)
    assert (batch.state, batch.total) == (BatchState.FAILED, 0)
    assert batch.reason is not None
    assert batch.reason.startswith(reason)


async def test_batch_that_failed_at_once_is_one_for_the_rest_of_penstock(plant: Plant) -> None:
    key = {"Idempotency-Key": "mine"}
    file_id = await uploaded(plant.service, line("a"), line("a"))
    first = (await create(plant, file_id, key, metadata={"team": "x"})).body
    assert (await create(plant, file_id, key, metadata={"team": "x"})).body == first
    assert_error(await create(plant, await uploaded(plant.service, line("b"), line("b")), key), 422)
    [listed] = (await plant.service.get("/batches?metadata.team=x")).body["batches"]
    assert (listed["batchId"], listed["status"]) == (first["id"], "failed")
    status = (await plant.service.get(f"/batch/{first['id']}")).body
    assert (status["errorCount"], status["errors"][0]["line"]) == (1, 2)


@pytest.mark.parametrize(("character", "least"), [("a", 100), ("😀", 30), ("\x01", 15)])
def test_errors_of_a_batch_are_few_and_small(character: str, least: int) -> None:
    urls = {f"/v1/{number}": range(number, 400, 20) for number in range(1, 21)}
    errors = InputFile("file-a", "a", "a", 1, 0, 1, urls=urls).errors_for("/" + 2_000 * character)
    assert least <= len(errors) <= 100
    assert len(to_json([one.encode() for one in errors])) <= 70_000


async def test_operation_that_is_too_large_for_a_message_makes_a_batch_that_has_failed(
    aiohttp_client: AiohttpClient,
) -> None:
    plant = await build_plant(aiohttp_client, operations, message_bytes=4_096)
    batch = await read(plant, await created(plant, line("a"), line("b", "x" * 5_000)))
    assert batch["status"] == "failed"
    [error] = batch["errors"]["data"]
    assert error["line"] == 2
    assert "bytes" in error["message"]


async def test_cancelled_batch_says_so_of_what_did_not_run(plant: Plant) -> None:
    batch_id = await created(plant, line("a"), line("b"))
    answer = await plant.service.ask("POST", f"/v1/batches/{batch_id}/cancel")
    assert (answer.status, answer.body["status"], answer.body["cancelling_at"]) == (200, "cancelling", int(NOW))
    assert (await plant.service.ask("POST", f"/v1/batches/{batch_id}/cancel")).status == 200
    await plant.work_off()
    batch = await read(plant, batch_id)
    assert (batch["status"], batch["cancelled_at"], batch["output_file_id"]) == ("cancelled", int(NOW), None)
    lines = await content(plant, batch["error_file_id"])
    assert [(one["custom_id"], one["response"], one["error"]["code"]) for one in lines] == [
        ("a", None, "batch_cancelled"),
        ("b", None, "batch_cancelled"),
    ]


async def test_expired_batch_says_so_of_what_did_not_run(plant: Plant) -> None:
    batch_id = await created(plant, line("a"))
    plant.clock.advance(DAY + 1)
    await plant.sweep()
    plant.clock.advance(plant.settings.settle_seconds + 1)
    await plant.work_off()
    await plant.sweep()
    batch = await read(plant, batch_id)
    assert (batch["status"], batch["request_counts"]["failed"]) == ("expired", 0)
    assert batch["expired_at"] >= int(NOW) + DAY
    [entry] = await content(plant, batch["error_file_id"])
    assert (entry["response"], entry["error"]["code"]) == (None, "batch_expired")


async def test_deadline_of_the_server_counts_if_it_is_shorter(aiohttp_client: AiohttpClient) -> None:
    plant = await build_plant(aiohttp_client, operations, deadline_seconds=60)
    assert (await read(plant, await created(plant, line("a"))))["expires_at"] == int(NOW) + 60


async def test_completed_batch_cannot_be_cancelled(plant: Plant) -> None:
    batch_id = await created(plant, line("a"))
    await plant.work_off()
    answer = await plant.service.ask("POST", f"/v1/batches/{batch_id}/cancel")
    assert_error(answer, 409)
    assert answer.headers["x-should-retry"] == "false"


async def test_batch_whose_end_is_not_written_yet_is_as_it_will_be(plant: Plant) -> None:
    batch_id = await created(plant, line("a"), line("b", "refused"))
    await plant.work_off()
    batch = await read(plant, batch_id)
    await plant.forget_end(batch_id)
    assert batch["status"] == "completed"
    assert await read(plant, batch_id) == batch
    assert (await plant.service.get("/v1/batches")).body["data"] == [batch]
    assert_error(await plant.service.ask("POST", f"/v1/batches/{batch_id}/cancel"), 409)


async def test_one_file_makes_several_batches(plant: Plant) -> None:
    file_id = await uploaded(plant.service, line("a"))
    first, second = [(await create(plant, file_id)).body["id"] for _ in range(2)]
    assert first != second
    await plant.work_off()
    for batch_id in (first, second):
        assert (await read(plant, batch_id))["status"] == "completed"


@pytest.mark.parametrize("limit", [40, 100])
async def test_library_reads_all_pages_of_many_batches(plant: Plant, limit: int) -> None:
    first = await created(plant, line("a"), line("a"))
    [entry] = await plant.parts.store.list_entries(KIND, "default", None, 1, now=NOW)
    ids = [first, *(f"batch_{number:026}" for number in range(249, 0, -1))]
    made = await plant.batch(first)
    for batch_id in ids[1:]:
        await plant.parts.store.write_entry(replace(entry, id=batch_id))
        await plant.parts.store.create_batch(replace(made, id=batch_id))
    url = str(plant.service.client.make_url("/v1"))
    async with AsyncOpenAI(base_url=url, api_key="none") as library:
        assert [batch.id async for batch in library.batches.list(limit=limit)] == ids
        page = await library.batches.list(limit=limit, after=ids[-2])
        assert ([batch.id for batch in page.data], page.has_more) == (ids[-1:], False)


async def test_batches_are_listed_newest_first_page_by_page(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for number in range(5):
        plant.clock.advance(1)
        made.append(await created(plant, line("a"), endpoint="/v1/other" if number == 2 else EMBEDDINGS))
    ids = made[::-1]
    first = (await plant.service.get("/v1/batches?limit=2")).body
    assert ([one["id"] for one in first["data"]], first["has_more"]) == (ids[:2], True)
    assert (first["first_id"], first["last_id"]) == (ids[0], ids[1])
    rest = (await plant.service.get(f"/v1/batches?after={ids[1]}")).body
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (ids[2:], False)
    assert [one["status"] for one in rest["data"]] == ["failed", "in_progress", "in_progress"]
    monkeypatch.setattr(batches, "MOST_COUNTERS", 1)
    page = (await plant.service.get("/v1/batches")).body
    assert (len(page["data"]), page["has_more"]) == (1, True)
    assert_error(await plant.service.get("/v1/batches?limit=101"), 400, "limit")
    assert_error(await plant.service.get("/v1/batches?status=x"), 400, "status")
    assert_error(await plant.service.get("/v1/batches?after=x"), 400, "after")


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"completion_window": "1h"}, "completion_window", "invalid_value"),
        ({"completion_window": 24}, "completion_window", "invalid_value"),
        ({"endpoint": "v1/embeddings"}, "endpoint", "invalid_value"),
        ({"endpoint": 7}, "endpoint", "invalid_type"),
        ({"input_file_id": "file-x"}, "input_file_id", "invalid_value"),
        ({"input_file_id": ""}, "input_file_id", "empty_string"),
        ({"input_file_id": None}, "input_file_id", "invalid_type"),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
        ({"metadata": [1.5]}, "metadata", "invalid_type"),
        ({"metadata": {"k" * 65: ""}}, f"metadata.{'k' * 65}", "string_above_max_length"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "string_above_max_length"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata", "object_above_max_properties"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 1}},
            "output_expires_after.seconds",
            "integer_below_min_value",
        ),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 10**9}},
            "output_expires_after.seconds",
            "integer_above_max_value",
        ),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": True}},
            "output_expires_after.seconds",
            "invalid_type",
        ),
        ({"output_expires_after": {"seconds": 3_600}}, "output_expires_after.anchor", "missing_required_parameter"),
        ({"color": "red"}, "color", "unknown_parameter"),
    ],
)
async def test_wrong_parameter_is_rejected(plant: Plant, changes: dict[str, Any], param: str, code: str) -> None:
    answer = await create(plant, await uploaded(plant.service, line("a")), **changes)
    message = assert_error(answer, 400, param)
    assert answer.body["error"]["code"] == code
    assert not {"should", "pydantic", "literal"} & set(message.lower().split())
    assert (await plant.service.get("/v1/batches")).body["data"] == []


@pytest.mark.parametrize("batch_id", ["batch_x", "x", "batch_" + "0" * 26])
async def test_unknown_batch_is_not_found(plant: Plant, batch_id: str) -> None:
    assert_error(await plant.service.get(f"/v1/batches/{batch_id}"), 404, "batch_id")
    assert_error(await plant.service.ask("POST", f"/v1/batches/{batch_id}/cancel"), 404, "batch_id")
    assert_error(await plant.service.get(f"/v1/files/file-{'0' * 26}-output/content"), 404, "id")


async def test_output_expires_when_its_client_says_so(plant: Plant) -> None:
    batch_id = await created(plant, line("a"), output_expires_after={"anchor": "created_at", "seconds": 3_600})
    await plant.work_off()
    file_id = (await read(plant, batch_id))["output_file_id"]
    assert (await plant.service.get(f"/v1/files/{file_id}")).body["expires_at"] == int(NOW) + 3_600
    plant.clock.advance(3_601)
    assert_error(await plant.service.get(f"/v1/files/{file_id}"), 404, "id")


# --- Repeated requests


async def test_repeated_request_gets_the_batch_that_stands(plant: Plant) -> None:
    file_id = await uploaded(plant.service, line("a"))
    first = (await create(plant, file_id, metadata={"a": "b"})).body
    repeated = (await create(plant, file_id, REPEATED, metadata={"a": "b"})).body
    other = (await create(plant, file_id, REPEATED, metadata={"a": "c"})).body
    assert repeated == first
    assert other["id"] != first["id"]
    plant.clock.advance(601)
    assert (await create(plant, file_id, REPEATED, metadata={"a": "b"})).body["id"] != first["id"]


async def test_repeated_request_gets_the_batch_that_has_failed(plant: Plant) -> None:
    file_id = await uploaded(plant.service, b"{")
    assert (await create(plant, file_id)).body == (await create(plant, file_id, REPEATED)).body


async def test_repeated_request_makes_a_batch_if_the_first_one_did_not_arrive(plant: Plant) -> None:
    answer = await create(plant, await uploaded(plant.service, line("a")), REPEATED)
    assert (answer.status, answer.body["status"]) == (200, "in_progress")


@pytest.mark.parametrize("call", ["chunks.send", "store.accept_new"])
async def test_of_a_request_that_broke_off_and_its_repetition_only_one_runs(
    aiohttp_client: AiohttpClient, call: str
) -> None:
    """The front end dies at some call. The repeated request comes to another one, and the first must not go on."""
    outage = Outage(call)
    plant = await build_plant(aiohttp_client, operations, watch=outage)
    file_id = await uploaded(plant.service, line("a"))
    answer = await create(plant, file_id)
    assert answer.status >= 500
    assert answer.headers["x-should-retry"] == "true"
    outage.times = 0
    repeated = (await create(plant, file_id, REPEATED)).body
    await plant.work_off()
    assert (await read(plant, repeated["id"]))["status"] == "completed"
    assert [one["id"] for one in (await plant.service.get("/v1/batches")).body["data"]] == [repeated["id"]]


async def hang(plant: Plant, file_id: str) -> tuple[str, str]:
    """Make a batch, and the entry of another one that is still being accepted 601 s later. Return their ids."""
    first = (await create(plant, file_id)).body["id"]
    [entry] = await plant.parts.store.list_entries(KIND, "default", None, 1, now=NOW)
    hanging = f"{first[:-2]}ZZ"  # the newest
    plant.clock.advance(601)  # so that only the hanging one counts
    late = plant.clock.now()
    await plant.parts.store.write_entry(replace(entry, id=hanging, content={**entry.content, "created_at": late}))
    return first, hanging


async def test_request_that_is_still_being_accepted_is_prevented_by_its_repetition(plant: Plant) -> None:
    file_id = await uploaded(plant.service, line("a"))
    first, hanging = await hang(plant, file_id)
    repeated = (await create(plant, file_id, REPEATED)).body["id"]
    assert repeated not in {first, hanging}
    assert (await plant.batch(hanging)).state is BatchState.ABANDONED
    assert_error(await plant.service.get(f"/v1/batches/{hanging}"), 404, "batch_id")


async def test_repeated_request_waits_for_the_one_that_goes_on(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    file_id = await uploaded(plant.service, line("a"))
    first, hanging = await hang(plant, file_id)

    async def accept_it(_seconds: float) -> None:
        await plant.parts.store.create_batch(replace(await plant.batch(first), id=hanging))

    monkeypatch.setattr(plant.clock, "sleep", accept_it)
    assert (await create(plant, file_id, REPEATED)).body["id"] == hanging


async def test_key_makes_one_batch_as_for_other_requests(plant: Plant) -> None:
    file_id, key = await uploaded(plant.service, line("a")), {"Idempotency-Key": "mine"}
    first = (await create(plant, file_id, key)).body
    assert (await create(plant, file_id, key)).body == first
    assert [one["id"] for one in (await plant.service.get("/v1/batches")).body["data"]] == [first["id"]]
    assert_error(await create(plant, await uploaded(plant.service, line("b")), key), 422)
    assert_error(await create(plant, await uploaded(plant.service, line("a")), key), 422)  # another file, same content
    expiry = {"anchor": "created_at", "seconds": 3_600}
    assert_error(await create(plant, file_id, key, output_expires_after=expiry), 422)
    assert [one["id"] for one in (await plant.service.get("/v1/batches")).body["data"]] == [first["id"]]


async def test_batch_that_exceeds_the_quota_is_rejected_and_not_listed(aiohttp_client: AiohttpClient) -> None:
    plant = await build_plant(aiohttp_client, operations, tenant_limit="2/60")
    large, small = [await uploaded(plant.service, *[line(one) for one in ids]) for ids in ("abc", "ab")]
    assert_error(await create(plant, large), 413)
    assert (await create(plant, small)).status == 200
    answer = await create(plant, small)
    assert_error(answer, 429)
    assert answer.body["error"]["code"] == "rate_limit_exceeded"
    assert int(answer.headers["Retry-After"]) > 0
    assert len((await plant.service.get("/v1/batches")).body["data"]) == 1


# --- What the rest of Penstock knows


async def test_batch_is_a_batch_for_the_rest_of_penstock(plant: Plant) -> None:
    batch_id = await created(plant, line("a"), line("b", "refused"), metadata={"team": "x"})
    await plant.work_off()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 1, "failed": 1})
    [listed] = (await plant.service.get("/batches?metadata.team=x")).body["batches"]
    assert listed["batchId"] == batch_id
    assert await plant.statuses(batch_id) == {"a": 200, "b": 400}


async def test_event_of_a_batch_whose_requests_all_failed_says_that_it_is_completed(
    aiohttp_client: AiohttpClient,
) -> None:
    plant = await build_plant(
        aiohttp_client,
        operations,
        webhook_secret="a secret of at least 32 characters",
        webhook_allow="receiver.example",
    )
    endpoint = {"url": "https://receiver.example/hook"}
    assert (await plant.service.ask("POST", "/v1/webhook_endpoints", json=endpoint)).status == 201
    failed = await plant.batch(await created(plant, line("a"), line("a")))
    assert [event.type for event in failed.events] == [EventType.FAILED]
    assert len(plant.messages) == 1  # it tells a consumer that there is an event
    batch_id = await created(plant, line("a", "refused"))
    await plant.work_off()
    batch = await plant.batch(batch_id)
    [event] = batch.events
    assert event.type is EventType.COMPLETED
    assert json.loads(body_of_batch(event, batch, {}))["data"]["id"] == batch_id
