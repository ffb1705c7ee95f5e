"""A large uploaded file: the front end answers, and a consumer validates, plans and sends it."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from penstock.consumer.consumer import Consumer
from penstock.consumer.planning.duplicates import Duplicates
from penstock.context import Context
from penstock.errors import NoAccess, PenstockError, RejectedCall, Unavailable
from penstock.open_limit import OpenBatch
from penstock.operations import Operations
from penstock.queue import Message
from penstock.quota import Account
from penstock.service.intake import planned
from penstock.testing import FakeClock, MemoryParts
from penstock.testing.http import Answer
from tests.support.builders import build_settings
from tests.support.service import NDJSON, Serve, Service, assert_problem
from tests.unit.service.console.conftest import text_of
from tests.unit.service.test_uploads import CSV, uploaded

LINES = {"Content-Type": NDJSON}
MOST_TURNS = 300

operations: Operations[Any] = Operations()


@operations.post("/numbers")
async def double(number: int, context: Context) -> int:
    return 2 * number


class Plant:
    """A front end and a consumer on the same parts."""

    def __init__(self, service: Service, clock: FakeClock, **settings: Any) -> None:
        self.service = service
        self.clock = clock
        self.consumer = Consumer(service.parts.backend, operations, build_settings(**settings), clock)

    async def submit(self, content: bytes, query: str = "", headers: dict[str, str] = LINES) -> Answer:
        named = await uploaded(self.service, content)
        return await self.service.ask("POST", f"/batch?{query}{named}", headers=headers)

    async def work(self) -> None:
        """Let the consumer work until the queue is empty."""
        for _ in range(MOST_TURNS):
            if not self.service.parts.chunks.messages:
                return
            if not await self.service.parts.chunks.depth():
                self.clock.advance(61)
            await self.consumer.take_turn()
        raise AssertionError("there is still work")

    async def status(self, batch_id: str) -> Any:
        return (await self.service.get(f"/batch/{batch_id}")).body

    async def results(self, batch_id: str) -> list[Any]:
        return (await self.service.get(f"/batch/{batch_id}/results", Accept=NDJSON)).lines


@pytest.fixture
def plant(serve: Serve, parts: MemoryParts, clock: FakeClock) -> Callable[..., Any]:
    async def build(**settings: Any) -> Plant:
        wanted = {"background_upload_bytes": 0, "chunk_operations": 2, **settings}
        return Plant(await serve(operations, parts=parts, clock=clock, **wanted), clock, **wanted)

    return build


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("penstock.chunk", "penstock.service.batches.results"):
        monkeypatch.setattr(f"{place}.GROUP_CHUNKS", 2)


def lines(*asked: Any) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in asked)


def numbers(values: Sequence[Any], **members: Any) -> bytes:
    return lines(*({"method": "POST", "path": "/numbers", "body": value, **members} for value in values))


async def test_a_file_is_answered_before_it_is_read_and_then_run(plant: Callable[..., Any]) -> None:
    built = await plant()

    answer = await built.submit(numbers(range(11)))

    assert (answer.status, answer.body["batchId"]) == (202, answer.headers["Location"].split("/")[2])
    batch_id = answer.body["batchId"]
    before = await built.status(batch_id)
    assert (before["status"], before["total"], before["progress"]) == ("validating", 0, 0.0)
    assert before["validation"]["bytesRead"] == 0 < before["validation"]["bytes"]
    await built.work()
    after = await built.status(batch_id)
    assert (after["status"], after["total"], after["succeeded"]) == ("completed", 11, 11)
    assert after["validation"]["operationsRead"] == after["validation"]["operationsSent"] == 11
    assert [one["result"] for one in await built.results(batch_id)] == [2 * number for number in range(11)]


async def test_each_row_of_a_csv_file_is_an_operation(plant: Callable[..., Any]) -> None:
    built = await plant()
    content = b'\xef\xbb\xbfnumber;note\n1;"two\nlines"\n\n2;x\n3;\n4;"a;b"\n5;y\n6;z\n'

    answer = await built.submit(content, 'method=POST&path=/rows/{number}&columns={"note":null}', CSV)
    await built.work()

    status = await built.status(answer.body["batchId"])
    assert (status["status"], status["total"], status["succeeded"]) == ("completed", 6, 6), status
    results = await built.results(answer.body["batchId"])
    assert [(one["id"], one["result"]) for one in results] == [
        ("2", 1), ("5", 2), ("6", 3), ("7", 4), ("8", 5), ("9", 6),
    ]  # fmt: skip


@pytest.mark.parametrize("levels", [191, 198, 200])
async def test_a_row_that_is_too_deep_for_a_message_makes_the_file_invalid(
    plant: Callable[..., Any], levels: int
) -> None:
    built = await plant()
    content = b'{"a":1}\n{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}\n"

    answer = await built.submit(content, "method=POST&path=/numbers&invalidRows=fail")
    await built.work()

    status = await built.status(answer.body["batchId"])
    assert status["status"] == "failed"
    assert [(one["pointer"], one["line"]) for one in status["errors"]] == [("/operations/1/body", 2)]
    assert not built.service.parts.dead_letters.messages


@operations.post("/rows/{number}")
async def take_row(number: int) -> int:
    return number


@operations.post("/objects")
async def take_object(body: dict[str, Any]) -> Any:
    return body


async def test_errors_are_listed_by_line_and_nothing_runs(plant: Callable[..., Any]) -> None:
    built = await plant()
    content = numbers([1, 2, 3, 4]) + numbers(["five"]) + b"\nno json\n" + numbers([6]) + numbers([7], extra=1)

    batch_id = (await built.submit(content)).body["batchId"]
    await built.work()

    status = await built.status(batch_id)
    assert (status["status"], status["total"], status["completed"]) == ("failed", 0, 0)
    assert status["errorCount"] == 3
    assert [(error["line"], error["pointer"]) for error in status["errors"]] == [
        (5, "/operations/4/body"),
        (7, "/operations/5"),
        (9, "/operations/7/extra"),
    ]
    assert status["reason"] == "The file has 3 errors; nothing was run."
    assert await built.results(batch_id) == []
    assert not built.service.parts.dead_letters.messages


@pytest.mark.parametrize("member", [{"dependsOn": ["0"]}, {"group": "g"}])
async def test_operations_that_belong_together_are_not_run_apart(plant: Callable[..., Any], member: Any) -> None:
    built = await plant()

    batch_id = (await built.submit(numbers([1]) + numbers([2], **member))).body["batchId"]
    await built.work()

    status = await built.status(batch_id)
    assert (status["status"], status["total"]) == ("failed", 0)
    assert [error["pointer"] for error in status["errors"]] == [f"/operations/1/{next(iter(member))}"]


@pytest.mark.parametrize(
    ("ids", "clash"),
    [
        (["a", "b", "c", "d", "e", "f", "a"], (6, "Operation 0 has the same id 'a'. Ids must be unique")),
        ([None, None, None, None, None, None, "1"], (6, "Operation 1 has the same id '1'. Ids must be unique")),
        ([None, "5", None, None, None, None, None], (5, "Operation 1 has the same id '5'. Ids must be unique")),
    ],
)
async def test_an_id_that_is_there_twice_is_found_in_any_group(
    plant: Callable[..., Any], ids: list[str | None], clash: tuple[int, str]
) -> None:
    built = await plant(chunk_operations=1)
    content = b"".join(numbers([1], **({} if own is None else {"id": own})) for own in ids)

    batch_id = (await built.submit(content)).body["batchId"]
    await built.work()

    [error] = (await built.status(batch_id))["errors"]
    index, words = clash
    assert (error["line"], error["pointer"]) == (index + 1, f"/operations/{index}/id")
    assert error["detail"].startswith(words)


async def test_an_id_is_found_again_though_the_group_of_the_first_has_keys_only(plant: Callable[..., Any]) -> None:
    built = await plant(chunk_operations=1)
    content = b"".join(numbers([n], key=f"key {n}") for n in range(4)) + numbers([4], id="1")

    batch_id = (await built.submit(content)).body["batchId"]
    await built.work()

    [error] = (await built.status(batch_id))["errors"]
    assert error["pointer"] == "/operations/4/id"
    assert error["detail"].startswith("Operation 1 has the same id '1'.")


async def test_one_id_for_all_operations_is_compared_in_little_memory(
    plant: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.consumer.planning.duplicates.MOST_FLAWS", 10)
    built, sizes = await plant(chunk_operations=20), []
    read = Duplicates._read

    async def noted(self: Duplicates, file: Any, parts: range) -> Any:
        digests = await read(self, file, parts)
        sizes.append(0 if digests is None else len(digests))
        return digests

    monkeypatch.setattr(Duplicates, "_read", noted)
    batch_id = (await built.submit(numbers(range(200), id="same"))).body["batchId"]
    await built.work()

    status = await built.status(batch_id)
    assert (status["status"], len(status["errors"])) == ("failed", 10)
    assert status["reason"] == "The file has at least 10 errors; nothing was run."
    assert sizes == [2, 2, 2, 2, 2]  # of each group


async def test_digests_that_are_deleted_are_written_again(
    plant: Callable[..., Any], parts: MemoryParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = await plant(chunk_operations=1)
    find, bucket = Duplicates.find, parts.backend.require_bucket()

    async def without_files(self: Duplicates, plans: Any) -> Any:
        for plan in plans:
            await bucket.delete(plan.digests)
        return await find(self, plans)

    monkeypatch.setattr(Duplicates, "find", without_files)
    content = b"".join(numbers([n], id=f"id {n % 4}", key=f"key {n}") for n in range(5))
    batch_id = (await built.submit(content)).body["batchId"]
    await built.work()

    [error] = (await built.status(batch_id))["errors"]
    assert (error["line"], error["pointer"]) == (5, "/operations/4/id")


async def test_the_lease_is_extended_while_the_digests_of_many_groups_are_read(
    plant: Callable[..., Any], parts: MemoryParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise another consumer takes the batch over, starts again, and loses it in the same way."""
    built = await plant(chunk_operations=1)
    batch_id = (await built.submit(b"".join(numbers([n], id=f"id {n}") for n in range(80)))).body["batchId"]
    read = Duplicates._read

    async def slow(self: Duplicates, file: Any, some: range) -> Any:
        built.clock.advance(3)
        batch = await parts.store.read_batch(batch_id)
        assert batch is not None
        assert batch.planning is not None
        assert batch.planning.lease_until > built.clock.now()
        return await read(self, file, some)

    monkeypatch.setattr(Duplicates, "_read", slow)
    await built.work()

    assert (await built.status(batch_id))["succeeded"] == 80


async def test_a_key_that_is_there_twice_is_found_in_a_csv_file(plant: Callable[..., Any]) -> None:
    built = await plant(chunk_operations=1)
    content = b"number,key\n1,a\n2,b\n3,c\n4,a\n"

    batch_id = (await built.submit(content, "method=POST&path=/objects&key=key", CSV)).body["batchId"]
    await built.work()

    [error] = (await built.status(batch_id))["errors"]
    assert (error["line"], error["pointer"]) == (5, "/operations/3/key")


async def test_own_ids_and_keys_that_are_unique_are_kept(plant: Callable[..., Any]) -> None:
    built = await plant(chunk_operations=1)
    content = b"".join(numbers([n], id=f"id {n}", key=f"key {n}") for n in range(7))

    batch_id = (await built.submit(content)).body["batchId"]
    await built.work()

    assert [one["id"] for one in await built.results(batch_id)] == [f"id {n}" for n in range(7)]


async def test_a_file_that_is_replaced_fails_its_batch(plant: Callable[..., Any]) -> None:
    built = await plant()
    batch_id = (await built.submit(numbers(range(5)))).body["batchId"]

    await uploaded(built.service, numbers(range(6)))
    await built.work()

    status = await built.status(batch_id)
    assert (status["status"], status["total"]) == ("failed", 0)
    assert status["reason"] == "The uploaded file was replaced or deleted while it was read. Upload it again."


async def test_a_batch_can_be_cancelled_while_it_is_validated(plant: Callable[..., Any]) -> None:
    built = await plant()
    batch_id = (await built.submit(numbers(range(5)))).body["batchId"]

    answer = await built.service.ask("POST", f"/batch/{batch_id}/cancel")
    again = await built.service.ask("POST", f"/batch/{batch_id}/cancel")
    await built.work()

    assert (answer.status, answer.body["status"], again.status) == (202, "cancelled", 202)
    status = await built.status(batch_id)
    assert (status["status"], status["total"], status["reason"]) == ("cancelled", 0, "Cancelled on request.")


async def test_a_batch_whose_file_is_not_validated_in_time_expires(plant: Callable[..., Any]) -> None:
    built = await plant()
    batch_id = (await built.submit(numbers(range(5)), "deadlineSeconds=60")).body["batchId"]
    built.clock.advance(61)

    await built.consumer._sweeper.sweep()

    assert (await built.status(batch_id))["status"] == "expired"


async def test_a_sweep_asks_for_a_plan_if_the_message_is_lost(plant: Callable[..., Any]) -> None:
    built = await plant()
    batch_id = (await built.submit(numbers(range(5)))).body["batchId"]
    [delivery] = await built.service.parts.chunks.receive(1, 0)
    await built.service.parts.chunks.delete(delivery)
    built.clock.advance(61)

    await built.consumer._sweeper.sweep()
    await built.work()

    assert (await built.status(batch_id))["status"] == "completed"


async def test_a_file_that_waits_for_its_caller_s_quota_goes_on_later(plant: Callable[..., Any]) -> None:
    built = await plant(tenant_limit="6/600")
    first = (await built.submit(numbers(range(5)))).body["batchId"]
    await built.work()
    second = (await built.submit(numbers(range(6)))).body["batchId"]
    await built.work()
    waiting = (await built.status(second))["status"]

    for _ in range(12):
        built.clock.advance(61)
        await built.consumer._sweeper.sweep()
        await built.work()

    assert ((await built.status(first))["status"], waiting) == ("completed", "validating")
    assert (await built.status(second))["status"] == "completed"


async def test_a_file_that_waits_says_for_what_and_is_charged_nothing(
    plant: Callable[..., Any], parts: MemoryParts
) -> None:
    built = await plant(tenant_limit="9/600", tenant_max_open=6)
    account, other = Account("default"), OpenBatch("other", int(built.clock.now()) + 600)
    await parts.store.add_open(account, other, 4, most=6, expires_at=5e9)
    batch_id = (await built.submit(numbers(range(5)))).body["batchId"]

    await built.work()

    status = await built.status(batch_id)
    assert status["reason"] == (
        "The file has 5 operations, and 4 of earlier batches have not finished. The batch waits until they are allowed."
    )
    assert (status["status"], (await parts.store.read_usage(account)).open) == ("validating", {})


async def test_what_was_charged_is_given_back_after_a_cancel(plant: Callable[..., Any], parts: MemoryParts) -> None:
    built = await plant(tenant_limit="9/600", tenant_max_open=9)
    account, accept = Account("default"), parts.store.accept_planned

    async def die(_batch: Any, _at: float) -> bool:
        raise RuntimeError("the planner dies")

    parts.store.accept_planned = die  # type: ignore[method-assign,assignment]
    batch_id = (await built.submit(numbers(range(5)))).body["batchId"]
    await built.consumer.take_turn()
    charged = (await parts.store.read_usage(account)).open, (await parts.store.read_open(account)).total
    parts.store.accept_planned = accept  # type: ignore[method-assign]
    await built.service.ask("POST", f"/batch/{batch_id}/cancel")
    await built.work()

    assert (len(charged[0]), charged[1]) == (1, 5)
    assert (await parts.store.read_usage(account)).open == {}
    assert (await parts.store.read_open(account)).total == 0
    assert (await built.status(batch_id))["status"] == "cancelled"


async def test_a_planner_that_comes_late_charges_nothing(plant: Callable[..., Any], parts: MemoryParts) -> None:
    """It was paused before the charge, and meanwhile another one has accepted the batch."""
    built = await plant(tenant_limit="9/600", tenant_max_open=9)
    await built.submit(numbers(range(5)))
    late = Consumer(parts.backend, operations, build_settings(), built.clock)
    read_usage = parts.store.read_usage

    async def wait(account: Account) -> Any:
        parts.store.read_usage = read_usage  # type: ignore[method-assign]
        built.clock.advance(120)
        await built.work()
        return await read_usage(account)

    parts.store.read_usage = wait  # type: ignore[method-assign]
    await late.take_turn()

    usage, is_open = await read_usage(Account("default")), await parts.store.read_open(Account("default"))
    assert usage.open == {}
    assert usage.tat <= (built.clock.now() + 5 * 600 / 9) * 1e9
    assert is_open.total <= 5


async def test_a_check_says_what_a_consumer_would_reject(plant: Callable[..., Any]) -> None:
    built = await plant()
    content = numbers([1], id="a") + numbers([2], dependsOn=["a"])

    problem = assert_problem(await built.submit(content, "validateOnly=true"), 422)

    assert "has no dependencies" in problem["errors"][0]["detail"]


async def test_a_file_with_more_operations_than_a_quota_fails(plant: Callable[..., Any]) -> None:
    built = await plant(tenant_limit="4/600")
    batch_id = (await built.submit(numbers(range(5)))).body["batchId"]

    await built.work()

    status = await built.status(batch_id)
    assert (status["status"], status["reason"]) == (
        "failed",
        "The file has 5 operations, and the quota is 4 operations in 600 s.",
    )


async def test_the_same_key_gets_the_same_batch_and_another_file_is_another_request(plant: Callable[..., Any]) -> None:
    built = await plant()
    headers = {**LINES, "Idempotency-Key": '"k"'}

    first = await built.submit(numbers(range(5)), headers=headers)
    again = await built.submit(numbers(range(5)), headers=headers)
    other = await built.submit(numbers(range(6)), headers=headers)

    assert (again.status, again.body["batchId"]) == (202, first.body["batchId"])
    assert (again.body["status"], again.headers["Idempotent-Replayed"]) == ("validating", "true")
    assert_problem(other, 422)


@pytest.mark.parametrize(
    ("call", "errors"),
    [
        ("create_batch", [Unavailable("no answer"), *[NoAccess("new permissions")] * 4]),
        ("read_batch", [NoAccess("not this one")] * 5),
        ("read_batch", [RejectedCall("not like this")] * 5),
    ],
    ids=["write without an answer", "no permission to read", "read rejected"],
)
async def test_the_key_of_a_file_that_may_be_accepted_stays_claimed(
    plant: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, call: str, errors: list[PenstockError]
) -> None:
    monkeypatch.setattr(planned, "ACCEPT_REPEAT_SECONDS", 0)
    built = await plant()
    store, headers = built.service.parts.store, {**LINES, "Idempotency-Key": '"k"'}
    make, failures = getattr(store, call), iter(errors)

    async def take_effect_and_fail(given: Any) -> None:
        await make(given)
        raise next(failures)

    with monkeypatch.context() as patch:
        patch.setattr(store, call, take_effect_and_fail)
        assert_problem(await built.submit(numbers([1]), headers=headers), 504)

    assert_problem(await built.submit(numbers([1]), headers=headers), 409)
    assert len(store._batches) == 1


async def test_the_key_of_a_file_that_certainly_is_not_accepted_is_free(
    plant: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = await plant()
    store, headers = built.service.parts.store, {**LINES, "Idempotency-Key": '"k"'}

    async def reject(_: Any) -> None:
        raise NoAccess("not this one")

    with monkeypatch.context() as patch:
        patch.setattr(store, "create_batch", reject)
        assert_problem(await built.submit(numbers([1]), headers=headers), 503)

    assert (await built.submit(numbers([1]), headers=headers)).status == 202


async def test_small_files_and_checks_are_read_by_the_front_end(plant: Callable[..., Any]) -> None:
    built = await plant(background_upload_bytes=200)

    small = await built.submit(numbers([1]))
    check = await built.submit(numbers(range(50)), "validateOnly=true")

    assert (small.status, check.status, check.body["total"]) == (200, 200, 50)


async def test_a_file_has_limits(plant: Callable[..., Any]) -> None:
    built = await plant(max_upload_operations=4)
    batch_id = (await built.submit(numbers(range(5)))).body["batchId"]
    await built.work()
    empty = (await built.submit(b"\n\n\n")).body["batchId"]
    await built.work()

    assert (await built.status(batch_id))["errors"][0]["detail"] == "The batch has more than 4 operations."
    assert (await built.status(empty))["errors"][0]["pointer"] == "/operations"


async def test_a_file_has_no_more_groups_than_fit_into_the_item_of_its_batch(
    plant: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.consumer.planning.validation.MOST_GROUPS", 3)
    built = await plant(chunk_operations=1)
    fits = (await built.submit(numbers(range(6)))).body["batchId"]
    await built.work()
    too_many = (await built.submit(numbers(range(7)))).body["batchId"]
    await built.work()

    assert (await built.status(fits))["succeeded"] == 6
    [error] = (await built.status(too_many))["errors"]
    assert error["detail"] == (
        "The batch needs more than 6 chunks. Submit it as several files, or raise PENSTOCK_CHUNK_OPERATIONS."
    )


async def test_an_outage_while_a_file_is_sent_does_not_delay_its_chunks(
    plant: Callable[..., Any], parts: MemoryParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = await plant()
    batch_id = (await built.submit(numbers(range(40)))).body["batchId"]
    send, delays = parts.chunks.send, list[float]()

    async def send_slowly(messages: Sequence[Message]) -> None:
        await send(messages)
        delays.extend(message.delay_seconds for message in messages)
        built.clock.advance(60)

    monkeypatch.setattr(parts.chunks, "send", send_slowly)
    await built.consumer.take_turn()

    assert (await built.status(batch_id))["status"] == "queued"
    assert len(delays) == 20
    assert max(delays) <= 1


async def test_the_request_itself_is_checked_at_once(plant: Callable[..., Any]) -> None:
    built = await plant(max_upload_bytes=1_024)

    assert_problem(await built.submit(numbers([1]), "deadlineSeconds=x"), 422)
    assert_problem(await built.submit(numbers([1]), "priority=urgent"), 422)
    assert_problem(await built.submit(numbers(range(100))), 413)


async def test_a_batch_that_is_validated_cannot_be_changed_or_retried(plant: Callable[..., Any]) -> None:
    built = await plant()
    batch_id = (await built.submit(numbers(range(5)))).body["batchId"]
    patch = {"Content-Type": "application/merge-patch+json"}

    changed = await built.service.ask("PATCH", f"/batch/{batch_id}", json={"paused": True}, headers=patch)
    retried = await built.service.ask("POST", f"/batch/{batch_id}/retry")

    assert_problem(changed, 409)
    assert_problem(retried, 409)
    listed = (await built.service.get("/batches?status=validating")).body["batches"]
    assert [one["batchId"] for one in listed] == [batch_id]


async def test_a_consumer_goes_on_where_another_has_stopped(plant: Callable[..., Any], parts: MemoryParts) -> None:
    built = await plant(chunk_operations=1)
    batch_id = (await built.submit(numbers(range(9)))).body["batchId"]
    write_plan, written = parts.store.write_plan, []

    async def stop_after_two(batch: Any, plan: Any) -> Any:
        written.append(plan.number)
        if len(written) == 2:
            built.consumer.stop()
        return await write_plan(batch, plan)

    parts.store.write_plan = stop_after_two  # type: ignore[method-assign]
    await built.consumer.take_turn()
    assert (await built.status(batch_id))["status"] == "validating"

    built.consumer = Consumer(parts.backend, operations, build_settings(chunk_operations=3), built.clock)
    await built.work()

    assert (await built.status(batch_id))["succeeded"] == 9
    assert written == [0, 1, 2]  # the other consumer cuts larger chunks
    batch = await parts.store.read_batch(batch_id)
    assert batch is not None
    assert batch.group_totals == (2, 2, 5)


@pytest.mark.parametrize("charset", ["utf-16"])
async def test_a_charset_that_nobody_can_go_on_in_is_read_by_the_front_end(
    plant: Callable[..., Any], charset: str
) -> None:
    built = await plant()
    content = "number\n1\n2\n".encode(charset)

    answer = await built.submit(content, f"method=POST&path=/rows/{{number}}&charset={charset}", CSV)

    assert (answer.status, answer.body["summary"]["succeeded"]) == (200, 2)


async def test_page_shows_how_far_the_file_is_and_then_its_errors(plant: Callable[..., Any]) -> None:
    built = await plant()
    batch_id = (await built.submit(numbers([1, "two"]))).body["batchId"]

    async def shown() -> str:
        return text_of(await built.service.get(f"/console/batch/{batch_id}", Accept="text/html"))

    assert "validating 0 operations of the file are read (0 % of it). Nothing has run yet." in await shown()
    await built.work()
    built.clock.advance(2)
    page = await shown()
    assert "The file has 1 error; nothing was run." in page
    assert "Line Where What is wrong 2 " in page
    assert "Input should be a valid integer" in page
    retried = await built.service.ask("POST", f"/batch/{batch_id}/retry")
    assert "Correct it and submit it." in assert_problem(retried, 409)["detail"]


async def test_operations_that_have_finished_are_counted_out_for_the_next_file(plant: Callable[..., Any]) -> None:
    built = await plant(tenant_max_open=6)
    first = (await built.submit(numbers(range(5)))).body["batchId"]
    await built.work()
    second = (await built.submit(numbers(range(6)))).body["batchId"]
    await built.work()

    assert [(await built.status(one))["status"] for one in (first, second)] == ["completed", "completed"]
