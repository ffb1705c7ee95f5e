"""POST /batch as NDJSON: one operation per line. The whole batch is validated before anything is sent."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from penstock import Operations, sending, zstd
from penstock.batch import BatchState, FailureLimit
from penstock.chunk import Operation
from penstock.message import decode_chunk
from penstock.queue import Message
from penstock.reading.flaws import MOST_FLAWS
from penstock.service import content, spool
from penstock.service.intake import acceptance
from penstock.testing import FakeClock, MemoryParts
from penstock.testing.http import Answer
from tests.support.builders import NOW
from tests.support.faults import Moment, Outage
from tests.support.service import NDJSON, Serve, Service, assert_problem

runs: list[str] = []
operations = Operations()


@operations.post("/run/{name}", status=201)
async def run(name: str, body: Any = None) -> None:
    runs.append(name)


@operations.put("/numbers")
async def put_number(number: int) -> int:
    return number


@pytest.fixture(autouse=True)
def _nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    runs.clear()
    monkeypatch.setattr(acceptance, "ACCEPT_REPEAT_SECONDS", 0)


@pytest.fixture(autouse=True)
def spools(monkeypatch: pytest.MonkeyPatch) -> list[spool.Spool]:
    """Return all spools that were created. They write to the disk immediately."""
    made: list[spool.Spool] = []
    build = spool.Spool.__init__

    def note(self: spool.Spool) -> None:
        build(self)
        made.append(self)

    monkeypatch.setattr(spool, "IN_MEMORY_BYTES", 1)
    monkeypatch.setattr(spool.Spool, "__init__", note)
    return made


def many(count: int) -> list[dict[str, Any]]:
    return [{"method": "POST", "path": f"/run/{number}", "body": {"number": number}} for number in range(count)]


def lines(asked: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in asked)


async def post(service: Service, sent: Any, query: str = "", **headers: str) -> Answer:
    return await service.ask("POST", f"/batch{query}", data=sent, headers={"Content-Type": NDJSON, **headers})


def sent_operations(parts: MemoryParts) -> list[Operation]:
    return [operation for message in parts.chunks.messages for operation in decode_chunk(message.body).operations]


def assert_nothing_left(service: Service, spools: list[spool.Spool]) -> None:
    assert service.parts.chunks.messages == []
    assert service.parts.store._batches == {}
    assert service.parts.store._keys == {}
    assert spools
    assert all(one._file.closed for one in spools)
    assert runs == []


def errors_of(answer: Answer, status: int = 422) -> list[tuple[int, str]]:
    return [(error["line"], error["pointer"]) for error in assert_problem(answer, status)["errors"]]


async def test_small_stream_is_answered_at_once_as_json_is(serve: Serve) -> None:
    service = await serve(operations, sync_max_operations=3)
    answer = await post(service, lines(many(3)))
    assert (answer.status, answer.body["summary"]) == (200, {"total": 3, "succeeded": 3, "failed": 0})
    assert runs == ["0", "1", "2"]
    runs.clear()
    assert (await post(service, lines(many(3)), Prefer="respond-async")).status == 202
    assert (await post(service, lines(many(4)))).status == 202
    assert runs == []


async def test_few_operations_of_many_bytes_are_not_kept_to_be_answered_at_once(serve: Serve) -> None:
    service = await serve(operations, max_body_bytes=10_000)
    asked = [{**one, "body": "x" * 6_000} for one in many(2)]
    assert (await post(service, lines(asked[:1]))).status == 200
    assert (await post(service, lines(asked))).status == 202
    assert [operation.body for operation in sent_operations(service.parts)] == ["x" * 6_000] * 2


PACK: dict[str | None, Callable[[bytes], bytes]] = {None: bytes, "gzip": gzip.compress, "zstd": zstd.compress}


@pytest.mark.parametrize("encoding", PACK)
async def test_every_operation_is_on_the_queue_once_and_as_it_came(serve: Serve, encoding: str | None) -> None:
    service = await serve(operations, sync_max_operations=10, chunk_operations=7)
    asked = many(1_000)
    asked[3] |= {"id": "ä\u0000\uffff\n", "body": {"deep": [1, 2.5, None, "\ud7ff\U0001f600\n"]}}
    headers = {} if encoding is None else {"Content-Encoding": encoding}
    answer = await post(service, PACK[encoding](lines(asked)), **headers)
    assert answer.status == 202
    messages = [decode_chunk(message.body) for message in service.parts.chunks.messages]
    assert sorted(int(chunk.id) for chunk in messages) == list(range(143))
    assert {chunk.batch_id for chunk in messages} == {answer.body["batchId"]}
    sent = sorted(sent_operations(service.parts), key=lambda operation: operation.index)
    assert [(one.index, one.id, one.method, one.path, one.body) for one in sent] == [
        (index, one.get("id", str(index)), one["method"], one["path"], one["body"]) for index, one in enumerate(asked)
    ]
    batch = await service.parts.store.read_batch(answer.body["batchId"])
    assert batch is not None
    assert (batch.state, batch.total, batch.chunk_count) == (BatchState.QUEUED, 1_000, 143)
    assert batch.group_totals == (448, 448, 104)


async def test_own_ids_are_kept_by_group(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "IDS_IN_CALL", 10)
    service = await serve(operations, chunk_operations=1)
    asked = [{**one, "id": f"id-{number}"} if number % 3 else one for number, one in enumerate(many(150))]
    answer = await post(service, lines(asked))
    batch_id = answer.body["batchId"]
    kept = [name for group in range(3) for name in await service.parts.store.read_ids(batch_id, group)]
    assert kept == [f"id-{number}" if number % 3 else str(number) for number in range(150)]


@pytest.mark.parametrize(
    "sent",
    [
        b'{"method":"POST","path":"/run/a"}',  # no line break at the end
        b'{"method":"POST","path":"/run/a"}\r\n',
        b'\n\n \t\n{"method":"POST","path":"/run/a"}\n\n\n',  # blank lines are ignored
        b'  {"method" :\t"POST", "path": "/run/a"}  \n',
    ],
)
async def test_lines_may_be_written_in_other_ways(serve: Serve, sent: bytes) -> None:
    service = await serve(operations)
    assert (await post(service, sent)).body["summary"]["total"] == 1
    assert runs == ["a"]


async def test_every_error_is_told_with_its_line(serve: Serve, spools: list[spool.Spool]) -> None:
    service = await serve(operations)
    good = json.dumps(many(1)[0]).encode()
    sent = [
        good,
        b"",
        b"{",
        b'["\xff"]',
        b'{"method":"POST","path":"/nowhere"}',
        b'{"method":"PUT","path":"/numbers","body":"x","id":"0","more":1}',
        b" ",
        b'{"method":"PUT","path":"/numbers","body":"x"}',
        good + good,
        b'{"method":"POST","path":"/run/a","id":"3"}',
    ]
    answer = await post(service, b"\n".join(sent))
    assert errors_of(answer) == [
        (3, "/operations/1"),
        (4, "/operations/2"),
        (5, "/operations/3/path"),
        (6, "/operations/4/id"),  # the same as the index of operation 0
        (6, "/operations/4/more"),
        (8, "/operations/5/body"),
        (9, "/operations/6"),
        (10, "/operations/7/id"),
    ]
    assert answer.body["errorCount"] == 8
    assert_nothing_left(service, spools)


async def test_very_many_errors_are_counted_and_the_first_are_told(serve: Serve, spools: list[spool.Spool]) -> None:
    service = await serve(operations)
    count = MOST_FLAWS + 500
    answer = await post(service, lines([*many(10), *[{"method": "POST", "path": "/", "id": "a"}] * count]))
    problem = assert_problem(answer, 422)
    assert problem["errorCount"] == count + count - 1
    assert len(problem["errors"]) == MOST_FLAWS
    assert [error["pointer"] for error in problem["errors"][:4]] == [
        "/operations/10/path",
        "/operations/11/id",
        "/operations/11/path",
        "/operations/12/id",
    ]
    assert_nothing_left(service, spools)


@pytest.mark.parametrize("sent", [b"", b"\n \n", b" "])
async def test_empty_stream_is_refused(serve: Serve, spools: list[spool.Spool], sent: bytes) -> None:
    service = await serve(operations)
    problem = assert_problem(await post(service, sent), 422)
    assert [error["pointer"] for error in problem["errors"]] == ["/operations"]
    assert_nothing_left(service, spools)


async def test_what_json_has_beside_the_operations_comes_in_the_query(serve: Serve) -> None:
    service = await serve(operations, clock=FakeClock(NOW), sync_max_operations=0)
    answer = await post(service, lines(many(200)), "?deadlineSeconds=60.5&maxFailures=7&maxFailedPercent=2")
    batch = await service.parts.store.read_batch(answer.body["batchId"])
    assert batch is not None
    assert (batch.deadline_at, batch.failure_limit) == (NOW + 60.5, FailureLimit(4))


@pytest.mark.parametrize(
    ("query", "pointers"),
    [
        ("?maxFailures=x", ["/maxFailures"]),
        ("?maxFailures=-1&deadlineSeconds=0", ["/deadlineSeconds", "/maxFailures"]),
        ("?maxFailedPercent=nan", ["/maxFailedPercent"]),
        ("?deadlineSeconds=inf", ["/deadlineSeconds"]),
        ("?maxFailure=3", ["/maxFailure"]),
        ("?maxFailures=1_0", ["/maxFailures"]),
        ("?maxFailures=%201", ["/maxFailures"]),
        ("?maxFailures=%2B1", ["/maxFailures"]),
        ("?maxFailedPercent=1_0.5", ["/maxFailedPercent"]),
        ("?priority=low&priority=high", ["/priority"]),
        ("?maxFailures=1&maxFailures=1", ["/maxFailures"]),
        ("?atomic=true", ["/atomic"]),  # this application has no transaction
    ],
)
async def test_wrong_options_are_told_with_all_else(
    serve: Serve, spools: list[spool.Spool], query: str, pointers: list[str]
) -> None:
    service = await serve(operations)
    problem = assert_problem(await post(service, b"{\n", query), 422)
    assert [error["pointer"] for error in problem["errors"]] == [*pointers, "/operations/0"]
    assert_nothing_left(service, spools)


@pytest.mark.parametrize("mark_at", [{0}, {0, 1, 2}, {2}])
async def test_byte_order_marks_are_skipped(serve: Serve, mark_at: set[int]) -> None:
    service = await serve(operations, sync_max_operations=3)
    marks = [b"\xef\xbb\xbf" if number in mark_at else b"" for number in range(3)]  # files may be concatenated
    sent = (
        marks[0]
        + b"\n"
        + b"".join(mark + line for mark, line in zip(marks, lines(many(3)).splitlines(True), strict=True))
    )
    assert (await post(service, sent)).body["summary"] == {"total": 3, "succeeded": 3, "failed": 0}


async def test_number_that_is_too_large_is_told_with_its_line(serve: Serve, spools: list[spool.Spool]) -> None:
    service = await serve(operations)
    sent = lines(many(1)) + b'{"method":"POST","path":"/run/1","body":[1e400]}\n'
    assert errors_of(await post(service, sent)) == [(2, "/operations/1/body/0")]
    assert_nothing_left(service, spools)


@pytest.mark.parametrize(
    ("sent", "settings", "limit"),
    [
        (lines(many(6)), {"max_stream_operations": 5}, ("maxOperations", 5)),
        (b"\n" * 11, {"max_stream_operations": 5}, ("maxLines", 10)),
        (lines(many(100)), {"max_stream_bytes": 2_000}, ("maxStreamBytes", 2_000)),
        (b" " * 24_577, {"message_bytes": 4_096}, ("maxLineBytes", 24_576)),
        (b'{"a":"' + b"x" * 1_000_000, {"message_bytes": 4_096}, ("maxLineBytes", 24_576)),
    ],
)
async def test_limit_that_is_passed_is_named(
    serve: Serve, spools: list[spool.Spool], sent: bytes, settings: dict[str, int], limit: tuple[str, int]
) -> None:
    service = await serve(operations, sync_max_operations=2, **settings)
    problem = assert_problem(await post(service, sent), 413)
    assert limit in problem.items()
    assert_nothing_left(service, spools)


async def test_operations_too_large_for_a_message_are_all_named(serve: Serve, spools: list[spool.Spool]) -> None:
    service = await serve(operations, sync_max_operations=0, message_bytes=4096)
    asked = many(5)
    asked[1]["body"] = asked[4]["body"] = "x" * 4096
    answer = await post(service, b"\n" + lines(asked))
    assert errors_of(answer, 413) == [(3, "/operations/1"), (6, "/operations/4")]
    assert answer.body["maxOperationBytes"] < 4096
    assert_nothing_left(service, spools)


async def test_line_that_is_long_only_because_of_its_escapes_is_taken(serve: Serve) -> None:
    service = await serve(operations, sync_max_operations=0, message_bytes=4096)
    sent = b'{"method":"POST","path":"/run/a","body":"' + b"\\u0041" * 3_000 + b'"}'
    assert (await post(service, sent)).status == 202
    assert [operation.body for operation in sent_operations(service.parts)] == ["A" * 3_000]


async def test_nothing_is_sent_before_the_last_line_is_valid(serve: Serve, spools: list[spool.Spool]) -> None:
    service = await serve(operations)
    problem = assert_problem(await post(service, lines(many(5_000)) + b"{"), 422)
    assert problem["errorCount"] == 1
    assert_nothing_left(service, spools)


async def test_client_that_stalls_is_given_up(
    serve: Serve, spools: list[spool.Spool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "PAUSE_SECONDS", 0.1)
    service = await serve(operations)

    async def stalling() -> AsyncIterator[bytes]:
        yield lines(many(2_000))
        await asyncio.sleep(60)

    assert_problem(await post(service, stalling()), 408)
    assert_nothing_left(service, spools)


async def test_others_are_answered_while_a_stream_is_read(serve: Serve) -> None:
    service = await serve(operations)
    answered: list[int] = []

    async def ask_meanwhile() -> None:
        while True:
            answered.append((await service.get("/health/live")).status)

    asking = asyncio.create_task(ask_meanwhile())
    answer = await post(service, lines(many(50_000)))
    asking.cancel()
    assert answer.status == 202
    assert len(answered) > 5


async def test_the_same_key_and_stream_are_one_batch(serve: Serve) -> None:
    service = await serve(operations, sync_max_operations=2)
    key = {"Idempotency-Key": '"one"'}
    first = await post(service, lines(many(500)), **key)
    packed = await post(service, gzip.compress(lines(many(500))), **key, **{"Content-Encoding": "gzip"})
    assert (first.status, packed.status) == (202, 202)
    assert packed.body["batchId"] == first.body["batchId"]
    assert packed.headers["Idempotent-Replayed"] == "true"
    for other in (post(service, lines(many(499)), **key), post(service, lines(many(500)), "?maxFailures=1", **key)):
        assert_problem(await other, 422)
    assert len(service.parts.store._batches) == 1


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": '"one"'}], ids=["", "key"])
async def test_acceptance_lease_is_extended_while_a_batch_is_sent(serve: Serve, key: dict[str, str]) -> None:
    clock = FakeClock(NOW)

    def take_time(call: str, moment: Moment) -> None:
        if (call, moment) == ("chunks.send", "after"):
            clock.advance(5)

    service = await serve(
        operations, clock=clock, watch=take_time, accept_seconds=60, sync_seconds=1, chunk_operations=1
    )
    answer = await post(service, lines(many(1_000)), **key)
    assert answer.status == 202
    batch = await service.parts.store.read_batch(answer.body["batchId"])
    assert batch is not None
    assert batch.accepted_at == NOW + 500
    assert batch.accepted_at <= batch.accept_by <= batch.accepted_at + 60


async def test_batch_whose_key_was_taken_over_is_not_accepted(serve: Serve) -> None:
    clock = FakeClock(NOW)
    service: Service

    def lose_the_key(call: str, moment: Moment) -> None:
        if (call, moment) == ("chunks.send", "after"):
            clock.advance(25)
            service.parts.store._keys.clear()

    service = await serve(operations, clock=clock, watch=lose_the_key, chunk_operations=1)
    answer = await post(service, lines(many(200)), **{"Idempotency-Key": '"one"'})
    assert_problem(answer, 503)
    assert [batch.state for batch in service.parts.store._batches.values()] == [BatchState.ACCEPTING]


async def test_after_a_failed_send_no_more_are_begun(serve: Serve, spools: list[spool.Spool]) -> None:
    sends: list[str] = []

    def fail(call: str, moment: Moment) -> None:
        if (call, moment) == ("chunks.send", "before"):
            sends.append(call)
            Outage("chunks.send")(call, moment)

    service = await serve(operations, watch=fail, chunk_operations=1)
    assert_problem(await post(service, lines(many(1_000))), 503)
    assert len(sends) <= acceptance.CALLS_AT_ONCE
    assert all(one._file.closed for one in spools)


async def test_full_disk_is_told_as_a_time_to_wait(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: spool.Spool, line: bytes) -> None:
        raise OSError(28, "No space left on device")

    service = await serve(operations)
    monkeypatch.setattr("tempfile.SpooledTemporaryFile.write", refuse)
    assert "No space left" in assert_problem(await post(service, lines(many(5_000))), 503)["detail"]
    assert service.parts.store._batches == {}


async def test_no_more_is_sent_in_a_call_than_it_carries(serve: Serve) -> None:
    parts_calls: list[list[Message]] = []
    service = await serve(operations, message_bytes=4096, chunk_operations=3)
    send = service.parts.chunks.send

    async def note(messages: Sequence[Message]) -> None:
        parts_calls.append(list(messages))
        await send(messages)

    service.parts.chunks.send = note  # type: ignore[method-assign]
    assert (await post(service, lines(many(1_000)))).status == 202
    assert all(sum(len(one.body) for one in call) <= 4096 and len(call) <= 10 for call in parts_calls)
    assert max(len(call) for call in parts_calls) == 10
