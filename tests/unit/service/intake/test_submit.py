"""Large batches: everything is on the queue when the answer is sent, and no batch is accepted in part."""

import asyncio
import itertools
import json
import weakref
from collections.abc import MutableMapping, Sequence
from typing import Any

import pytest

from penstock import Operations, sending
from penstock.abandoning import was_accepted
from penstock.batch import BatchState
from penstock.chunk import Chunk
from penstock.errors import NoAccess, RejectedCall, Unavailable
from penstock.message import decode_chunk
from penstock.queue import MESSAGES_IN_CALL, Message, SentAhead
from penstock.service.intake import acceptance
from penstock.service.intake.draft import Draft
from penstock.service.intake.submit import BATCH_IDS
from penstock.service.table_outage import WRITE_FIRST_SECONDS
from penstock.testing import FakeClock, MemoryParts, memory_parts
from penstock.testing.http import Answer
from tests.support.builders import BATCH_ID, NOW
from tests.support.faults import Moment, Outage
from tests.support.garbage import without_collections
from tests.support.service import Serve, ask_for, assert_problem, pointers

runs: list[str] = []
operations = Operations()


@operations.post("/run/{name}", status=201)
async def run(name: str, body: Any = None) -> None:
    runs.append(name)


IN_A_CALL, IN_TWO_CALLS = 3, 11  # operations, one in each message
in_one_or_two_calls = pytest.mark.parametrize(
    ("count", "accepting"), [(IN_A_CALL, "store.accept_new"), (IN_TWO_CALLS, "store.accept_batch")]
)
BY_ONE = {"sync_max_operations": 0, "chunk_operations": 1}


@pytest.fixture(autouse=True)
def _nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    runs.clear()
    monkeypatch.setattr(acceptance, "ACCEPT_REPEAT_SECONDS", 0)


def many(count: int) -> list[dict[str, Any]]:
    return ask_for(*(f"/run/{number}" for number in range(count)))


def chunks_on(parts: MemoryParts) -> list[Chunk]:
    return [decode_chunk(message.body) for message in parts.chunks.messages]


def are_ahead(parts: MemoryParts) -> list[bool]:
    """Return for each message on the queue whether it was sent before its batch was written."""
    return [message.sent_ahead is not None for message in parts.chunks.messages]


def states(parts: MemoryParts) -> list[BatchState]:
    return [batch.state for batch in parts.store._batches.values()]


async def test_large_batch_is_answered_with_where_to_look(serve: Serve) -> None:
    service = await serve(operations, sync_max_operations=3)
    answer = await service.post(many(4))
    assert answer.status == 202
    batch_id = answer.body["batchId"]
    assert answer.body == {
        "batchId": batch_id,
        "statusUrl": f"/batch/{batch_id}/status",
        "resultsUrl": f"/batch/{batch_id}/results",
    }
    assert answer.headers["Location"] == answer.body["statusUrl"]
    assert int(answer.headers["Retry-After"]) > 0
    status = await service.get(answer.body["statusUrl"])
    assert (status.status, status.body["status"], status.body["total"]) == (200, "queued", 4)
    assert runs == []


@pytest.mark.parametrize(
    ("limit", "count", "status"),
    [
        (3, 3, 200),  # up to the limit, it runs immediately
        (3, 4, 202),
        (0, 1, 202),  # 0: no batch runs immediately
    ],
)
async def test_size_decides_what_is_answered_at_once(serve: Serve, limit: int, count: int, status: int) -> None:
    service = await serve(operations, sync_max_operations=limit)
    answer = await service.post(many(count))
    assert answer.status == status
    assert len(runs) == (count if status == 200 else 0)
    assert len(service.parts.chunks.messages) == (0 if status == 200 else 1)


async def test_every_operation_is_on_the_queue_once_and_as_it_came(serve: Serve) -> None:
    service = await serve(operations, sync_max_operations=0, chunk_operations=3)
    asked = many(7)
    asked[2] |= {"id": "ä\u0000\uffff", "body": {"deep": [1, 2.5, None, "\ud7ff\U0001f600"]}}
    answer = await service.post(asked)
    chunks = chunks_on(service.parts)
    assert [chunk.id for chunk in chunks] == ["0", "1", "2"]
    assert {(chunk.batch_id, chunk.attempt, chunk.not_before) for chunk in chunks} == {
        (answer.body["batchId"], 1, None)
    }
    sent = [operation for chunk in chunks for operation in chunk.operations]
    assert [operation.index for operation in sent] == list(range(7))
    assert [operation.id for operation in sent] == ["0", "1", "ä\u0000\uffff", "3", "4", "5", "6"]
    assert [(operation.method, operation.path, operation.body) for operation in sent] == [
        (one["method"], one["path"], one.get("body")) for one in asked
    ]


async def test_chunks_fit_the_queue_s_messages(serve: Serve) -> None:
    service = await serve(operations, sync_max_operations=0, message_bytes=4096)
    asked = [{**one, "body": "x" * 1000} for one in many(20)]
    assert (await service.post(asked)).status == 202
    assert all(len(message.body.encode()) <= 4096 for message in service.parts.chunks.messages)
    assert [operation.index for chunk in chunks_on(service.parts) for operation in chunk.operations] == list(range(20))


async def test_batch_knows_its_groups_and_its_times(serve: Serve) -> None:
    clock = FakeClock(NOW)
    settings: dict[str, Any] = {"sync_max_operations": 0, "accept_seconds": 30, "retention_seconds": 3600}
    service = await serve(operations, clock=clock, chunk_operations=2, **settings)
    answer = await service.post(many(2 * 64 + 2 * 64 + 1))
    batch = await service.parts.store.read_batch(answer.body["batchId"])
    assert batch is not None
    assert (batch.total, batch.chunk_count, batch.group_totals) == (257, 129, (128, 128, 1))
    assert (batch.state, batch.accepted_at, batch.created_at) == (BatchState.QUEUED, NOW, NOW)
    assert (batch.accept_by, batch.deadline_at, batch.expires_at) == (NOW + 30, NOW + 86_400, NOW + 90_000)


@pytest.mark.parametrize(
    ("settings", "headers", "tenant", "group"),
    [
        ({}, {"X-Tenant": "acme"}, "default", None),  # the header is not configured
        ({"tenant_header": "X-Tenant"}, {"X-Tenant": "acme"}, "acme", "acme"),
    ],
)
async def test_messages_name_the_tenant_where_there_can_be_several(
    serve: Serve, settings: dict[str, str], headers: dict[str, str], tenant: str, group: str | None
) -> None:
    service = await serve(operations, sync_max_operations=0, **settings)
    answer = await service.post(many(1), headers)
    batch = await service.parts.store.read_batch(answer.body["batchId"])
    assert batch is not None
    assert batch.tenant == tenant
    assert [message.tenant for message in service.parts.chunks.messages] == [group]


@pytest.mark.parametrize("tenant", ["two words", "é", "x" * 129, ""])
async def test_tenant_that_the_queue_cannot_take_is_refused_in_time(serve: Serve, tenant: str) -> None:
    service = await serve(operations, sync_max_operations=0, tenant_header="X-Tenant")
    problem = assert_problem(await service.post(many(1), {"X-Tenant": tenant}), 400)
    assert "X-Tenant" in problem["detail"]
    assert states(service.parts) == []


async def test_the_same_request_twice_is_two_batches(serve: Serve) -> None:
    service = await serve(operations, sync_max_operations=0)
    first, second = await service.post(many(1)), await service.post(many(1))
    assert first.body["batchId"] != second.body["batchId"]
    assert {chunk.batch_id for chunk in chunks_on(service.parts)} == {first.body["batchId"], second.body["batchId"]}


async def test_batch_is_accepted_only_after_every_chunk_is_sent(serve: Serve) -> None:
    calls: list[str] = []

    def watch(call: str, moment: Moment) -> None:
        if moment == "after":
            calls.append(call)

    service = await serve(operations, sync_max_operations=0, chunk_operations=1, watch=watch)
    assert (await service.post(many(30))).status == 202
    sends = ["chunks.send"] * 3
    assert calls == [
        "store.read_handler_seconds",
        "store.create_batch",
        "store.list_batch",
        *sends,
        "store.accept_batch",
    ]


async def test_batch_that_goes_in_one_call_is_written_when_it_is_sent(serve: Serve) -> None:
    calls: list[tuple[str, Moment]] = []
    service = await serve(operations, **BY_ONE, accept_seconds=30, watch=lambda *call: calls.append(call))
    assert (await service.post([{**one, "id": f"no. {index}"} for index, one in enumerate(many(10))])).status == 202
    assert {call for call, _ in calls} == {
        "store.read_handler_seconds",
        "chunks.send",
        "store.list_batch",
        "store.write_ids",
        "store.accept_new",
    }
    assert [call for call in calls if "after" in call][-1] == calls[-1] == ("store.accept_new", "after")
    [batch] = service.parts.store._batches.values()
    ahead = SentAhead(batch.accept_by, batch.expires_at)
    assert [message.sent_ahead for message in service.parts.chunks.messages] == [ahead] * 10


@pytest.mark.parametrize(
    ("count", "is_ahead"),
    [
        (10, True),  # SQS takes ten messages in a call
        (11, False),
    ],
)
async def test_messages_say_if_they_are_sent_ahead_of_their_batch(serve: Serve, count: int, is_ahead: bool) -> None:
    service = await serve(operations, **BY_ONE)
    assert (await service.post(many(count))).status == 202
    assert {message.sent_ahead is not None for message in service.parts.chunks.messages} == {is_ahead}


async def test_messages_that_are_too_large_for_one_call_follow_their_batch(serve: Serve) -> None:
    service = await serve(operations, sync_max_operations=0, message_bytes=4096)
    assert (await service.post([{**one, "body": "x" * 2500} for one in many(2)])).status == 202
    assert [message.sent_ahead for message in service.parts.chunks.messages] == [None, None]


@pytest.mark.parametrize("error", [Unavailable("throttled"), NoAccess("expired")])
@pytest.mark.parametrize("call", ["store.list_batch", "store.write_ids", "store.accept_new"])
async def test_nothing_is_sent_ahead_for_some_seconds_after_the_table_was_unavailable(
    serve: Serve, call: str, error: Exception
) -> None:
    """Each request would leave messages on the queue that belong to no batch."""
    clock, failing = FakeClock(), {call}

    def strike(call: str, _moment: Moment) -> None:
        if call in failing:
            raise error

    service = await serve(operations, **BY_ONE, clock=clock, watch=strike)
    asked = [{**one, "id": f"no. {index}"} for index, one in enumerate(many(3))]
    assert (await service.post(asked)).status >= 500
    assert are_ahead(service.parts) == [True] * 3
    failing.add("store.create_batch")
    for _ in range(3):  # each of them is another reason to wait
        clock.advance(WRITE_FIRST_SECONDS - 0.1)
        assert (await service.post(asked)).status >= 500
        assert len(are_ahead(service.parts)) == 3
    failing.clear()
    assert (await service.post(asked)).status == 202
    assert are_ahead(service.parts)[3:] == [False] * 3
    clock.advance(WRITE_FIRST_SECONDS)
    assert (await service.post(asked)).status == 202
    assert are_ahead(service.parts)[6:] == [True] * 3


@pytest.mark.parametrize(
    ("struck", "error"),
    [
        ("chunks.send", Unavailable("The queue does not answer.")),
        ("store.accept_new", RejectedCall("The item is too large.")),  # that is about one batch
    ],
)
async def test_batches_are_sent_ahead_after_another_failure(
    serve: Serve, logs: list[MutableMapping[str, Any]], struck: str, error: Exception
) -> None:
    left = [error]

    def strike(call: str, _moment: Moment) -> None:
        if call == struck and left:
            raise left.pop()

    service = await serve(operations, **BY_ONE, watch=strike)
    assert (await service.post(many(1))).status >= 500
    before = len(are_ahead(service.parts))
    assert (await service.post(many(1))).status == 202
    assert are_ahead(service.parts)[before:] == [True]
    logs.clear()


async def test_all_ids_are_written_before_a_batch_that_is_sent_ahead(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "IDS_IN_CALL", 10)
    calls: list[tuple[str, Moment]] = []
    service = await serve(operations, sync_max_operations=0, watch=lambda *call: calls.append(call))
    asked = [{**one, "id": f"no. {index}"} for index, one in enumerate(many(11))]
    assert (await service.post(asked)).status == 202
    assert calls.count(("store.write_ids", "after")) == 2
    assert calls[-2:] == [("store.accept_new", "before"), ("store.accept_new", "after")]


async def test_ids_are_written_while_the_batch_is_created(serve: Serve) -> None:
    calls: list[tuple[str, Moment]] = []
    service = await serve(operations, **BY_ONE, watch=lambda *call: calls.append(call))
    asked = many(IN_TWO_CALLS)
    assert (await service.post([{**one, "id": f"no. {index}"} for index, one in enumerate(asked)])).status == 202
    assert calls.index(("store.create_batch", "before")) < calls.index(("store.write_ids", "after"))
    assert calls.index(("store.write_ids", "before")) < calls.index(("store.create_batch", "after"))
    assert calls.index(("store.write_ids", "after")) < calls.index(("store.accept_batch", "before"))


@pytest.mark.parametrize("count", [IN_A_CALL, IN_TWO_CALLS])
async def test_ids_are_written_before_a_failure_to_send_the_batch_is_answered(serve: Serve, count: int) -> None:
    """Otherwise a call would still be in flight for a request that has its answer."""
    parts, calls = memory_parts(), list[str]()
    write = parts.store.write_ids

    async def write_slowly(*piece: Any) -> None:
        await asyncio.sleep(0.01)
        await write(*piece)
        calls.append("written")

    async def fail_soon(_messages: Sequence[Message]) -> None:
        await asyncio.sleep(0.001)
        raise Unavailable("AWS does not answer.")

    parts.store.write_ids = write_slowly  # type: ignore[assignment]
    parts.chunks.send = fail_soon  # type: ignore[assignment]
    service = await serve(operations, parts=parts, **BY_ONE)
    assert_problem(await service.post([{**one, "id": f"no. {index}"} for index, one in enumerate(many(count))]), 503)
    assert calls == ["written"]
    assert set(states(parts)) <= {BatchState.ACCEPTING}


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    ("count", "call"),
    [
        (IN_A_CALL, "chunks.send"),
        (IN_A_CALL, "store.list_batch"),
        (IN_TWO_CALLS, "store.create_batch"),
        (IN_TWO_CALLS, "chunks.send"),
    ],
)
async def test_nothing_is_accepted_when_a_step_fails(serve: Serve, count: int, call: str, moment: Moment) -> None:
    service = await serve(operations, **BY_ONE, watch=Outage(call, moment))
    answer = await service.post(many(count))
    assert_problem(answer, 503)
    assert int(answer.headers["Retry-After"]) > 0
    assert set(states(service.parts)) <= {BatchState.ACCEPTING}


@pytest.mark.parametrize(("count", "left"), [(IN_A_CALL, []), (IN_TWO_CALLS, [BatchState.ACCEPTING])])
async def test_nothing_is_accepted_when_only_some_chunks_could_be_sent(
    serve: Serve, count: int, left: list[BatchState]
) -> None:
    parts = memory_parts()
    send = parts.chunks.send

    async def send_some(messages: Sequence[Message]) -> None:
        await send(messages[:2])
        Outage("chunks.send")("chunks.send", "before")

    parts.chunks.send = send_some  # type: ignore[method-assign]
    service = await serve(operations, parts=parts, **BY_ONE)
    assert_problem(await service.post(many(count)), 503)
    assert len(parts.chunks.messages) in {2, 3}  # the second call has one message
    assert states(parts) == left


async def test_unaccepted_batch_does_not_exist_for_anybody(serve: Serve) -> None:
    service = await serve(operations, **BY_ONE, watch=Outage("chunks.send"))
    await service.post(many(IN_TWO_CALLS))
    [batch_id] = service.parts.store._batches
    assert_problem(await service.get(f"/batch/{batch_id}/status"), 404)
    assert_problem(await service.get(f"/batch/{batch_id}/results"), 404)


@pytest.mark.parametrize("moment", ["before", "after"])
@in_one_or_two_calls
async def test_accepting_is_repeated_and_accepts_once(serve: Serve, count: int, accepting: str, moment: Moment) -> None:
    clock = FakeClock(NOW)
    outage = Outage(accepting, moment, times=4)
    service = await serve(operations, clock=clock, **BY_ONE, watch=outage)
    assert (await service.post(many(count))).status == 202
    assert outage.times == 0
    assert states(service.parts) == [BatchState.QUEUED]


@pytest.mark.parametrize("moment", ["before", "after"])
@in_one_or_two_calls
async def test_when_acceptance_stays_unknown_the_client_is_told_where_to_ask(
    serve: Serve, count: int, accepting: str, moment: Moment
) -> None:
    service = await serve(operations, **BY_ONE, watch=Outage(accepting, moment))
    answer = await service.post(many(count))
    problem = assert_problem(answer, 504)
    assert problem["statusUrl"] == f"/batch/{problem['batchId']}/status"
    assert "Retry-After" not in answer.headers  # a repeated request could create a second batch
    assert (await service.get(problem["statusUrl"])).status == (404 if moment == "before" else 200)


@in_one_or_two_calls
async def test_rejection_after_a_lost_answer_leaves_the_acceptance_unknown(
    serve: Serve, count: int, accepting: str
) -> None:
    """The first call has taken effect. So the batch runs, and the client must not be told that it does not."""
    calls: list[Moment] = []

    def fail(call: str, moment: Moment) -> None:
        if call != accepting:
            return
        calls.append(moment)
        if calls == ["before", "after"]:
            raise Unavailable("AWS does not answer.")
        if len(calls) > 2:
            raise RejectedCall("AWS rejected an invalid call.")

    service = await serve(operations, **BY_ONE, watch=fail)
    assert_problem(await service.post(many(count)), 504)
    assert states(service.parts) == [BatchState.QUEUED]


@pytest.mark.parametrize("count", [IN_A_CALL, IN_TWO_CALLS])
async def test_batch_of_which_aws_rejects_a_message_is_abandoned_immediately(
    serve: Serve, logs: list[MutableMapping[str, Any]], count: int
) -> None:
    def reject(call: str, moment: Moment) -> None:
        if call == "chunks.send":
            raise RejectedCall("AWS rejected an invalid call.")

    service = await serve(operations, **BY_ONE, watch=reject)
    assert (await service.post(many(count))).status == 500
    assert states(service.parts) == [BatchState.ABANDONED]
    logs.clear()


async def test_after_a_failed_send_no_other_starts_and_the_running_ones_end_before_the_answer(serve: Serve) -> None:
    parts = memory_parts()
    send = parts.chunks.send
    calls: list[int] = []

    async def fail_first(messages: Sequence[Message]) -> None:
        calls.append(len(messages))
        is_first = len(calls) == 1
        await asyncio.sleep(0.01 if is_first else 0.03)
        if is_first:
            raise Unavailable("AWS does not answer.")
        await send(messages)

    parts.chunks.send = fail_first  # type: ignore[method-assign]
    service = await serve(operations, parts=parts, sync_max_operations=0, chunk_operations=1)
    assert_problem(await service.post(many(300)), 503)
    assert len(calls) == acceptance.CALLS_AT_ONCE
    assert len(parts.chunks.messages) == sum(calls[1:])


async def test_batch_that_was_abandoned_before_it_is_written_is_not_accepted(serve: Serve) -> None:
    """As by a consumer whose clock is fast, or by a request that has taken over its key."""
    parts = memory_parts()
    send = parts.chunks.send

    async def send_and_abandon(messages: Sequence[Message]) -> None:
        await send(messages)
        [chunk] = chunks_on(parts)
        assert not await was_accepted(parts.store, chunk.batch_id, NOW, NOW + 60)

    parts.chunks.send = send_and_abandon  # type: ignore[method-assign]
    service = await serve(operations, parts=parts, sync_max_operations=0)
    answer = await service.post(many(1))
    assert_problem(answer, 503)
    assert int(answer.headers["Retry-After"]) > 0
    assert states(parts) == [BatchState.ABANDONED]


@pytest.mark.parametrize(("count", "left"), [(IN_A_CALL, []), (IN_TWO_CALLS, [BatchState.ACCEPTING])])
async def test_batch_whose_acceptance_lease_ran_out_is_not_accepted(
    serve: Serve, count: int, left: list[BatchState]
) -> None:
    clock = FakeClock(NOW)

    def sending_takes_long(call: str, moment: Moment) -> None:
        if (call, moment) == ("chunks.send", "after"):
            clock.advance(31)

    service = await serve(operations, clock=clock, **BY_ONE, accept_seconds=30, watch=sending_takes_long)
    answer = await service.post(many(count))
    assert_problem(answer, 503)
    assert int(answer.headers["Retry-After"]) > 0
    assert states(service.parts) == left


@pytest.mark.parametrize("sync_max_operations", [0, 5])
async def test_operations_too_large_for_a_message_are_all_named(serve: Serve, sync_max_operations: int) -> None:
    """A small batch may be handed over after some of its operations have run, so it is rejected before any of them."""
    service = await serve(operations, sync_max_operations=sync_max_operations, message_bytes=4096)
    asked = many(5)
    asked[1]["body"] = asked[4]["body"] = "x" * 4096
    problem = assert_problem(await service.post(asked), 413)
    assert pointers(problem) == ["/operations/1", "/operations/4"]
    assert problem["maxOperationBytes"] < 4096
    assert (states(service.parts), service.parts.chunks.messages) == ([], [])


async def test_the_largest_operation_that_is_taken_travels(serve: Serve) -> None:
    """The limit in the problem is exact: an operation of this size is accepted, and one byte more is rejected."""
    service = await serve(operations, sync_max_operations=0, message_bytes=4096)

    async def post_sized(size: int) -> Answer:
        return await service.post([{"method": "POST", "path": "/run/a", "id": "a", "body": "x" * size}])

    limit = (await post_sized(4096)).body["maxOperationBytes"]
    around = len(json.dumps([0, "a", "POST", "/run/a", ""], separators=(",", ":"))) + 1
    assert (await post_sized(limit - around + 1)).status == 413
    assert (await post_sized(limit - around)).status == 202
    assert len(service.parts.chunks.messages[0].body) <= 4096


async def test_what_is_answered_at_once_touches_neither_queue_nor_table(serve: Serve) -> None:
    def refuse(call: str, moment: Moment) -> None:
        raise AssertionError(call)

    service = await serve(operations, watch=refuse)
    assert (await service.post(many(2))).status == 200


@pytest.mark.parametrize(("method", "path"), [("POST", "/batch"), ("GET", f"/batch/{BATCH_ID}/status")])
@pytest.mark.parametrize("tenants", [[], ["a", "b"], ["a", "a"], [""]])
async def test_tenant_is_named_exactly_once(serve: Serve, method: str, path: str, tenants: list[str]) -> None:
    """A gateway that does not replace the header but adds one must not let the client choose its tenant."""
    service = await serve(operations, tenant_header="X-Tenant")
    headers = [("X-Tenant", tenant) for tenant in tenants]
    problem = assert_problem(await service.ask(method, path, headers=headers, json={"operations": many(1)}), 400)
    assert "X-Tenant" in problem["detail"]


def test_batch_ids_of_one_millisecond_are_not_consecutive() -> None:
    ids = [int.from_bytes(BATCH_IDS.generate().bytes) for _ in range(1_000)]
    assert min(abs(second - first) for first, second in itertools.pairwise(ids)) > 1_000


@pytest.mark.parametrize("call", ["chunks.send", "store.list_batch", "store.create_batch", "store.accept_new"])
@pytest.mark.parametrize("count", [3, MESSAGES_IN_CALL + 1])
async def test_batch_that_is_not_accepted_is_freed_without_a_collection(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, call: str, count: int
) -> None:
    """Otherwise the memory of a front end would grow with each batch that is sent while AWS is not available."""
    monkeypatch.setattr(acceptance, "ACCEPT_REPEAT_SECONDS", 0)
    drafts: list[weakref.ref[Draft]] = []
    enter = Draft.__enter__

    def noted(draft: Draft) -> Draft:
        drafts.append(weakref.ref(draft))
        return enter(draft)

    monkeypatch.setattr(Draft, "__enter__", noted)
    service = await serve(operations, **BY_ONE, watch=Outage(call))
    with without_collections():
        await service.post(many(count))
        assert [draft() for draft in drafts] == [None]
