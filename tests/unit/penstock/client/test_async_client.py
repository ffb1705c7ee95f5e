"""The client against a front end and a consumer: batches from the start to the end, and over broken connections."""

import gzip
import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from penstock.client import (
    AnswerLost,
    InvalidBatch,
    InvalidFile,
    NotFound,
    Patience,
    ServerUnreachable,
    Status,
    TimedOut,
    Unavailable,
)
from tests.support.programs import free_port
from tests.unit.penstock.client.conftest import Endpoint, Site, lose_answer, users, with_bucket, with_downloads


async def test_batch_is_submitted_waited_for_and_read(site: Site) -> None:
    async with site.client() as client:
        batch = await client.submit(users("Ann", "Bad Bo", "Cy"), title="Friday", metadata={"team": "growth"})
        seen: list[Status] = []
        status = await batch.wait(progress=seen.append)
        outcomes = [outcome async for outcome in batch.results()]
        failed = [outcome.detail async for outcome in batch.results(status="failed")]
        failures = await batch.failures()
    assert (status.id, status.is_final, status.succeeded, status.failed) == (batch.id, True, 2, 1)
    assert (status.title, status.metadata["team"], status.all_succeeded) == ("Friday", "growth", False)
    assert seen[-1] == status
    assert [(one.id, one.status, one.succeeded) for one in outcomes] == [
        ("0", 201, True),
        ("1", 409, False),
        ("2", 201, True),
    ]
    assert (outcomes[0].result, failed) == ({"name": "Ann"}, ["Bad Bo is taken."])
    [group] = failures.groups
    assert (group.status, group.title, group.count, group.samples[0].id) == (409, "Rejected", 1, "1")


@pytest.mark.parametrize("losses", [1, 3])
async def test_batch_whose_answer_is_lost_is_sent_again_and_runs_once(site: Site, losses: int) -> None:
    left = losses

    async def lose(request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        nonlocal left
        left -= request.method == "POST"
        return await (lose_answer if request.method == "POST" and left >= 0 else _pass)(request, endpoint)

    site.fault = lose
    async with site.client() as client:
        batch = await client.submit({**one} for one in users("Ann", "Bo"))
        assert (await batch.wait()).succeeded == 2
        assert [status.id async for status in client.batches()] == [batch.id]
    assert [method for method, _ in site.requests].count("POST") == losses + 1


async def test_results_continue_after_broken_connections(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.client.async_batch._PAGE_OUTCOMES", 3)
    asked = 0

    async def break_every_second(request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return await (lose_answer if asked % 2 else _pass)(request, endpoint)

    async with site.client() as client:
        batch = await client.submit(users(*(f"user {number}" for number in range(10))))
        await batch.wait()
        site.fault = break_every_second
        assert [outcome.id async for outcome in batch.results()] == [str(number) for number in range(10)]
    assert asked == 8


async def test_download_starts_again_behind_what_the_file_had_before(site: Site, tmp_path: Path) -> None:
    path, asked = tmp_path / "all.ndjson", 0

    async def break_in_the_middle(request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        if asked > 2:
            return await endpoint(request)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half of it")
        assert request.transport is not None
        request.transport.close()
        return response

    path.write_text("before\n")
    async with site.client() as client:
        batch = await client.submit(users("Ann"))
        await batch.wait()
        site.fault = break_in_the_middle
        with path.open("ab") as file:
            await batch.save_results(file)
    before, outcome = path.read_text().splitlines()
    assert (before, json.loads(outcome)["status"], asked) == ("before", 201, 3)


async def test_events_continue_behind_the_last_outcome(site: Site) -> None:
    """The first stream breaks in the middle: the next one starts behind the last outcome that arrived."""

    async def break_first(request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        if request.path.endswith("/events") and "Last-Event-ID" not in request.headers:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await response.write(
                b'id: 0.0\nevent: outcome\ndata: {"id": "0", "status": 201, "result": null}\n\nid: 0.1\n'
            )
            assert request.transport is not None
            request.transport.close()
            return response
        return await endpoint(request)

    async with site.client() as client:
        batch = await client.submit(users("Ann", "Bad Bo", "Cy"))
        await batch.wait()
        site.fault = break_first
        events = [event async for event in batch.events(outcomes=True)]
    assert [event.data["id"] for event in events if event.type == "outcome"] == ["0", "1", "2"]
    assert (events[-1].type, events[-1].data["status"]) == ("end", "completed")


async def test_wait_needs_no_stream_of_events(site: Site) -> None:
    async def without_streams(request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        return web.Response(status=404) if request.path.endswith("/events") else await endpoint(request)

    site.fault = without_streams
    async with site.client() as client:
        batch = await client.submit(users("Ann"))
        assert (await batch.wait()).all_succeeded


async def test_wait_for_a_limited_time(site: Site) -> None:
    async with site.client() as client:
        batch = await client.submit([{"method": "POST", "path": "/hang"}])
        with pytest.raises(TimedOut, match=r"is not final after 0.05 s\. It still runs"):
            await batch.wait(timeout=0.05)
        await batch.cancel()


async def test_batch_is_changed_cancelled_and_retried(site: Site) -> None:
    async with site.client() as client:
        held = await client.submit(users("Ann"), not_before=_in_an_hour())
        assert (await held.pause()).status == "paused"
        changed = await held.update(priority="high", concurrency=2, max_failures=5)
        assert (changed.priority, changed.concurrency, changed.max_failures) == ("high", 2, 5)
        assert (await held.update(concurrency=None)).concurrency is None
        assert (await held.resume()).status == "queued"
        await held.cancel()
        assert (await held.status()).status in {"cancelling", "cancelled"}
        failing = await client.submit(users("Bad Bo"))
        await failing.wait()
        assert await failing.retry(status=[409], title="Rejected") == 1
        assert (await failing.wait()).failed == 1
        assert [one.id async for one in client.batches(status="failed")] == [failing.id]


async def test_retry_names_what_it_chooses_and_has_a_key(site: Site) -> None:
    bodies: list[Any] = []

    async def remember(request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        assert request.headers["Idempotency-Key"]
        bodies.append(await request.json() if request.can_read_body else None)
        return web.json_response({"batchId": "1", "retried": 3}, status=202)

    site.fault = remember
    async with site.client() as client:
        batch = client.batch("1")
        assert await batch.retry() == 3
        await batch.retry(status={503, 429}, ids=(name for name in ("7",)), title="Busy")
    assert bodies == [None, {"status": [429, 503], "ids": ["7"], "title": "Busy"}]


async def test_small_batch_is_answered_immediately_if_asked(site: Site) -> None:
    async with site.client() as client:
        batch = await client.submit(users("Ann", "Bad Bo"), wait=5)
        status = await batch.wait()
        assert (batch.id, status.status, status.succeeded, status.failed) == ("", "completed", 1, 1)
        assert [one.status async for one in batch.results(status="failed")] == [409]
        with pytest.raises(NotFound, match="answered immediately"):
            await batch.retry()


async def test_batch_is_validated_and_nothing_runs(site: Site) -> None:
    async with site.client() as client:
        found = await client.validate(users("Ann", "Bo"))
        assert (found.total, found.by_handler) == (2, {"POST /users": 2})
        with pytest.raises(InvalidBatch):
            await client.validate([{"method": "POST", "path": "/user"}])
        people = [{"number": 1, "name": "Ann", "born": "1990-05-05"}, {"number": 2, "name": "Bo", "born": "yesterday"}]
        rows = await client.validate(people, method="PUT", path="/people/{number}", invalid_rows="fail")
        assert (found.invalid_rows, rows.total, rows.invalid_rows) == (None, 2, 1)
        assert [status async for status in client.batches()] == []


async def test_id_that_no_batch_can_have_is_a_mistake_of_the_call(site: Site) -> None:
    async with site.client() as client:
        for wrong in ("a/b", "../keys", "a?b", "", "x" * 41):
            with pytest.raises(ValueError, match="is no id of a batch"):
                client.batch(wrong)


async def test_errors_of_a_batch_are_typed(site: Site) -> None:
    async with site.client() as client:
        with pytest.raises(InvalidBatch) as invalid:
            await client.submit(
                [*users("Ann"), {"method": "POST", "path": "/user"}, {"method": "PUT", "path": "/users/7"}]
            )
        [no_route, no_body] = invalid.value.errors
        assert (no_route.pointer, no_route.line, no_body.pointer) == ("/operations/1/path", 2, "/operations/2/body")
        assert invalid.value.error_count == 2
        told = str(invalid.value).splitlines()  # what a traceback shows
        assert told[0].endswith("The request is invalid: The request has 2 errors; nothing was run.")
        assert told[1].startswith("  line 2, /operations/1/path: There is no operation POST /user.")
        with pytest.raises(InvalidBatch, match=r"\n  and 7 more$"):
            await client.submit([{"method": "POST", "path": "/user"}] * 10)
        with pytest.raises(NotFound, match="404"):
            await client.batch("01M853H03Q7Z1ZXRY68PYH3E2H").status()


async def test_server_that_is_not_there_is_reported_immediately() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with Site(url).client() as client:
        with pytest.raises(ServerUnreachable, match=rf"Nothing answers at {url}"):
            await client.submit(users("Ann"))


@pytest.mark.parametrize("value", [float("nan"), "\ud800", object()])
async def test_value_that_json_does_not_have_is_named_with_its_operation(site: Site, value: Any) -> None:
    async with site.client() as client:
        with pytest.raises(InvalidFile, match=r"Operation 2 cannot be written as JSON"):
            await client.submit([*users("Ann"), {"method": "POST", "path": "/users", "body": value}])
    assert site.requests == []


async def test_rows_of_a_file_are_submitted_and_those_that_failed_come_back(site: Site, tmp_path: Path) -> None:
    file, rejected, results = tmp_path / "people.csv", tmp_path / "rejected.csv", tmp_path / "results.csv"
    file.write_bytes("nr;name;born;note\n1;Zoë;1990-05-05;x\n2;Bo;soon;y\n".encode("cp1252"))
    columns = {"nr": "number", "note": None}
    async with site.client() as client:
        batch = await client.submit(
            file, method="put", path="/people/{number}", charset="cp1252", columns=columns, invalid_rows="fail"
        )
        assert (await batch.wait()).succeeded == 1
        await batch.save_rejected(rejected)
        await batch.save_results(results, kind="csv", status="succeeded")
        rows = [{"number": 3, "name": "Cy", "born": date(1990, 5, 5)}]
        assert (await (await client.submit(rows, method="PUT", path="/people/{number}")).wait()).all_succeeded
        with pytest.raises(ValueError, match="Rows need a method and a path"):
            await client.submit(file, method="PUT")
    assert rejected.read_text("utf-8-sig").splitlines()[1].startswith("2;Bo;soon;422;")
    assert results.read_text("utf-8-sig").splitlines()[1] == "2,200,,"


@pytest.mark.parametrize("kind", ["CSV", "json", ""])
async def test_format_that_is_not_offered_writes_nothing(site: Site, tmp_path: Path, kind: Any) -> None:
    async with site.client() as client:
        batch = client.batch("01M853H03Q7Z1ZXRY68PYH3E2H")
        for save in (batch.save_results, batch.save_rejected):
            with pytest.raises(ValueError, match=rf"kind is '{kind}'\. Use 'ndjson' or 'csv'\."):
                await save(tmp_path / "out", kind=kind)
    assert (site.requests, files_in(tmp_path)) == ([], [])


def files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_outcomes_are_exported_and_downloaded(site: Site, tmp_path: Path) -> None:
    site.fault = with_downloads(site, breaks=1)
    async with site.client() as client:
        batch = await client.submit(users("Ann", "Bad Bo"))
        await batch.wait()
        export = await batch.export(kind="csv", status="failed")
        [path] = await batch.save_export(tmp_path / "new", compression="gzip")

    assert (export.rows, export.total, [part.rows for part in export.parts]) == (1, 1, [1])
    lines = gzip.decompress(path.read_bytes()).splitlines()
    assert (path.name, [json.loads(line)["status"] for line in lines]) == ("part-00001.ndjson.gz", [201, 409])


async def test_export_that_never_arrives_leaves_no_file(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.client.async_batch._POLL_SECONDS", 0.0)
    site.fault = with_downloads(site, breaks=9)
    async with site.client() as client:
        batch = await client.submit(users("Ann"))
        await batch.wait()
        with pytest.raises(AnswerLost, match=r"part-00001.ndjson did not arrive completely"):
            await batch.save_export(tmp_path)
    assert files_in(tmp_path) == []


async def test_file_may_go_to_the_bucket_first(site: Site, tmp_path: Path) -> None:
    file, site.fault = tmp_path / "people.csv", with_bucket(site)
    file.write_text("number,name,born\n1,Zoë,1990-05-05\n")
    async with site.client(api_key="the-key") as client:
        batch = await client.submit(file, method="PUT", path="/people/{number}", upload=True)
        assert (await batch.wait()).all_succeeded
        with pytest.raises(TypeError, match="Only files can be uploaded"):
            await client.submit(users("Ann"), upload=True)
        with pytest.raises(InvalidFile, match=r"only \.csv and \.ndjson files can be uploaded"):
            await client.submit("users.json", upload=True)
    assert list(site.bucket.contents.values()) == [file.read_bytes()]


@pytest.mark.parametrize("status", [500, 503])
async def test_file_is_sent_again_if_the_bucket_has_a_temporary_error(site: Site, tmp_path: Path, status: int) -> None:
    file, bucket, refusals = tmp_path / "people.csv", with_bucket(site), [status, status]
    file.write_text("number,name,born\n1,Zoë,1990-05-05\n")

    async def busy(request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        if request.path == "/bucket" and refusals:
            await request.read()
            return web.Response(status=refusals.pop(), text="SlowDown")
        return await bucket(request, endpoint)

    site.fault, told = busy, list[str]()
    async with site.client(tell=told.append) as client:
        await client.upload(file)
    assert list(site.bucket.contents.values()) == [file.read_bytes()]
    assert told == [f"The bucket answered {status}: SlowDown. Trying again."]


async def test_post_whose_answer_is_lost_is_sent_again_only_if_the_caller_says_so(site: Site) -> None:
    async with site.client() as client:
        batch = await client.submit(users("Ann"), not_before=_in_an_hour())
        site.fault, path, before = lose_answer, f"batch/{batch.id}/cancel", len(site.requests)
        with pytest.raises(AnswerLost):
            await client.ask("POST", path)
        assert len(site.requests) == before + 1
        losses = 2

        async def lose_two(request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
            nonlocal losses
            losses -= 1
            return await (lose_answer if losses >= 0 else _pass)(request, endpoint)

        site.fault = lose_two
        await client.ask("POST", path, is_idempotent=True)


@pytest.mark.parametrize("key", ["", "a\nb", "é", "x" * 256])
async def test_key_that_no_header_can_carry(site: Site, key: str) -> None:
    async with site.client() as client:
        with pytest.raises(ValueError, match="printable ASCII"):
            await client.submit(users("Ann"), idempotency_key=key)
    assert site.requests == []


async def test_key_may_have_quotes(site: Site) -> None:
    async with site.client() as client:
        first, second = [await client.submit(users("Ann"), idempotency_key='a "\\" b') for _ in range(2)]
    assert first.id == second.id


async def test_operations_may_arrive_one_by_one(site: Site) -> None:
    async def arriving() -> AsyncIterator[Mapping[str, Any]]:
        for operation in users("Ann", "Bo"):
            yield operation

    async with site.client() as client:
        assert (await (await client.submit(arriving())).wait()).succeeded == 2


async def _pass(request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
    return await endpoint(request)


def _in_an_hour() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


@pytest.mark.parametrize(("answer_seconds", "asked"), [(30, 1), (8, 2)])
async def test_time_that_the_server_takes_to_answer_with_an_error_counts_as_patience(
    site: Site, monkeypatch: pytest.MonkeyPatch, answer_seconds: float, asked: int
) -> None:
    now = 1_000.0

    async def fail_late(_: web.Request, __: Endpoint) -> web.StreamResponse:
        nonlocal now
        now += answer_seconds
        return web.json_response({}, status=503, headers={"Retry-After": "0"})

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now

    site.fault = fail_late
    monkeypatch.setattr("penstock.client.transport.time", Clock)
    async with site.client(patience=Patience(seconds=15, backoff_seconds=0, longest_backoff_seconds=0)) as client:
        with pytest.raises(Unavailable):
            await client.ask("GET", "batches")
    assert len(site.requests) == asked
