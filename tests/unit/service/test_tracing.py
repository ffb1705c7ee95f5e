"""Request, chunks and operations form one trace across the queue, with a real front end and real consumers."""

from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id
from pytest_aiohttp import AiohttpClient

from penstock import Context, Operations, Retry
from penstock.api_key import make_key
from penstock.queue import Message
from tests.support.plant import Plant, Toys, build_plant
from tests.support.service import ask_for
from tests.support.spans import NONE, Recording, record_spans
from tests.support.waiting import UNIT_SECONDS

CLIENT_TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT_SPAN = "b7ad6b7169203331"
TRACEPARENT = f"00-{CLIENT_TRACE}-{CLIENT_SPAN}-01"

SERVER = "POST /batch"
SEND = "send chunks-normal"
PROCESS = "process penstock-chunks-normal"
LETTERS = "send dead-letters"


@pytest.fixture
def toys() -> Toys:
    return Toys()


@pytest.fixture
def recording() -> Recording:
    return record_spans()


async def build(aiohttp_client: AiohttpClient, toys: Toys, recording: Recording, **settings: Any) -> Plant:
    return await build_plant(aiohttp_client, toys.operations(), spans=recording.spans, **settings)


@pytest.fixture
async def plant(aiohttp_client: AiohttpClient, toys: Toys, recording: Recording) -> Plant:
    return await build(aiohttp_client, toys, recording, chunk_operations=2)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def span_id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def traces_of(messages: list[Message]) -> list[str]:
    """Return the trace ids of the messages."""
    return [message.trace.traceparent.split("-")[1] for message in messages if message.trace]


async def test_a_batch_is_one_trace_from_the_request_to_its_operations(plant: Plant, recording: Recording) -> None:
    await plant.submit("/succeed/a", "/succeed/b", "/succeed/c")
    await plant.work_off_one_by_one()
    operation = ["POST /succeed/{name}"]
    assert recording.trees() == [[SERVER, [SEND, [PROCESS, operation, operation], [PROCESS, operation]]]]
    kinds = {span.name: span.kind for span in recording.ended}
    assert kinds == {
        SERVER: SpanKind.SERVER,
        SEND: SpanKind.PRODUCER,
        PROCESS: SpanKind.CONSUMER,
        "POST /succeed/{name}": SpanKind.INTERNAL,
    }
    assert len({span.context.trace_id for span in recording.ended if span.context}) == 1


async def test_spans_say_what_they_are_about(plant: Plant, recording: Recording) -> None:
    batch_id = await plant.submit("/succeed/a")
    [message] = plant.parts.chunks.messages
    await plant.work_off()
    assert attributes(recording.one(SERVER)) == {
        "http.request.method": "POST",
        "http.route": "/batch",
        "url.path": "/batch",
        "http.response.status_code": 202,
        "penstock.batch.id": batch_id,
    }
    assert attributes(recording.one(SEND)) == {
        "messaging.system": "aws_sqs",
        "messaging.destination.name": "chunks-normal",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.batch.message_count": 1,
    }
    processed = recording.one(PROCESS)
    assert attributes(processed) == {
        "messaging.system": "aws_sqs",
        "messaging.destination.name": "penstock-chunks-normal",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.message.id": "normal1",
        "penstock.batch.id": batch_id,
        "penstock.chunk.id": "0",
        "penstock.attempt": 1,
        "penstock.receive_count": 1,
    }
    assert [link.context for link in processed.links] == [processed.parent]
    assert attributes(recording.one("POST /succeed/{name}")) == {
        "penstock.batch.id": batch_id,
        "penstock.operation.id": "0",
        "penstock.attempt": 1,
        "penstock.outcome": "succeeded",
        "penstock.status": 201,
    }
    sent = recording.one(SEND).context
    assert sent is not None
    assert message.trace is not None
    assert (
        message.trace.traceparent
        == f"00-{format_trace_id(sent.trace_id)}-{format_span_id(sent.span_id)}-{sent.trace_flags:02x}"
    )


async def test_what_is_tried_again_stays_in_the_trace(aiohttp_client: AiohttpClient, recording: Recording) -> None:
    operations = Operations()

    @operations.post("/second-time-right")
    async def second_time_right(context: Context) -> None:
        if context.attempt == 1:
            raise Retry

    plant = await build_plant(aiohttp_client, operations, spans=recording.spans)
    await plant.submit("/second-time-right")
    await plant.work_off()
    operation = ["POST /second-time-right"]
    assert recording.trees() == [[SERVER, [SEND, [PROCESS, operation, [SEND, [PROCESS, operation]]]]]]
    first, second = recording.named(operation[0])
    assert (attributes(first)["penstock.outcome"], attributes(first)["penstock.attempt"]) == ("try again", 1)
    assert (attributes(second)["penstock.outcome"], attributes(second)["penstock.attempt"]) == ("succeeded", 2)
    assert [attributes(span)["penstock.chunk.id"] for span in recording.named(PROCESS)] == ["0", "0.0.1.0"]


async def test_small_batch_runs_in_its_request_and_what_is_handed_over_follows_from_it(
    aiohttp_client: AiohttpClient, toys: Toys, recording: Recording
) -> None:
    plant = await build(aiohttp_client, toys, recording, sync_seconds=0.1 * UNIT_SECONDS)
    answer = await plant.service.post(ask_for("/succeed/a", "/hang/b"))
    assert answer.status == 202
    toys.gate.set()
    await plant.work_off()
    hang = ["POST /hang/{name}"]
    assert recording.trees() == [[SERVER, ["POST /succeed/{name}"], hang, [SEND, [PROCESS, hang]]]]
    cut, whole = recording.named(hang[0])
    assert "penstock.outcome" not in attributes(cut)
    assert attributes(whole)["penstock.outcome"] == "succeeded"


async def test_small_batch_that_is_answered_sends_nothing(plant: Plant, recording: Recording) -> None:
    assert (await plant.service.post(ask_for("/succeed/a", "/reject/b"))).status == 200
    assert recording.trees() == [[SERVER, ["POST /succeed/{name}"], ["POST /reject/{name}"]]]


async def test_what_breaks_is_an_error_and_what_a_handler_refuses_is_none(plant: Plant, recording: Recording) -> None:
    await plant.submit("/break/a", "/reject/b")
    await plant.work_off()
    broken, rejected = recording.one("POST /break/{name}"), recording.one("POST /reject/{name}")
    assert (broken.status.status_code, attributes(broken)["error.type"]) == (StatusCode.ERROR, "Broke")
    assert (rejected.status.status_code, attributes(rejected)["error.type"]) == (StatusCode.UNSET, "Rejected")
    assert [attributes(span)["penstock.outcome"] for span in (broken, rejected)] == ["failed", "failed"]
    assert "It is broken." not in broken.to_json()  # the text of an error may contain personal data


async def test_dead_letters_stay_in_the_trace_also_when_they_are_put_back(
    plant: Plant, toys: Toys, recording: Recording
) -> None:
    await plant.submit("/break/a")
    await plant.work_off()
    toys.is_mended = True
    assert (await plant.ask("POST", "/dead-letters/redrive", json={})).status == 202
    await plant.work_off()
    broken = ["POST /break/{name}"]
    batch, redrive = recording.trees()
    assert batch == [SERVER, [SEND, [PROCESS, broken, [LETTERS, [PROCESS, broken]]]]]
    assert redrive == ["POST /dead-letters/redrive", [SEND]]
    [letters], (_, put_back) = recording.named(LETTERS), recording.named(SEND)
    assert [link.context.span_id for link in put_back.links] == [span_id(letters)]


async def test_message_that_is_set_aside_keeps_its_trace(plant: Plant, recording: Recording) -> None:
    await plant.submit("/succeed/a")
    [message] = plant.parts.chunks.messages
    assert message.trace is not None
    await plant.parts.chunks.send([Message("no chunk of ours", trace=message.trace)])
    await plant.work_off()
    [aside] = plant.parts.dead_letters.messages
    assert aside.trace == message.trace


async def test_clients_trace_is_continued(plant: Plant, recording: Recording) -> None:
    headers = {"traceparent": TRACEPARENT, "tracestate": "rojo=1, congo=t61rcWkgMzE"}
    await plant.submit("/succeed/a", headers=headers)
    assert traces_of(plant.parts.chunks.messages) == [CLIENT_TRACE]
    assert {message.trace.tracestate for message in plant.parts.chunks.messages if message.trace} == {
        "rojo=1,congo=t61rcWkgMzE"
    }
    parent = recording.one(SERVER).parent
    assert parent is not None
    assert format_span_id(parent.span_id) == CLIENT_SPAN


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        f"00-{CLIENT_TRACE.upper()}-{CLIENT_SPAN}-01",
        f"00-{'0' * 32}-{CLIENT_SPAN}-01",
        f"00-{CLIENT_TRACE}-{'0' * 16}-01",
        f"ff-{CLIENT_TRACE}-{CLIENT_SPAN}-01",
        f"00-{CLIENT_TRACE}-{CLIENT_SPAN}-01-and-more",
        f"00-{CLIENT_TRACE[:-1]}-{CLIENT_SPAN}-01",
        f"00-{CLIENT_TRACE}-{CLIENT_SPAN}",
        f"{TRACEPARENT}{'x' * 600}",
    ],
)
async def test_context_that_is_not_w3c_begins_a_trace_of_our_own(
    plant: Plant, recording: Recording, header: str
) -> None:
    await plant.submit("/succeed/a", headers={"traceparent": header})
    assert recording.one(SERVER).parent is None
    assert CLIENT_TRACE not in traces_of(plant.parts.chunks.messages)


async def test_of_several_contexts_none_is_believed(plant: Plant, recording: Recording) -> None:
    other = TRACEPARENT.replace("b7", "c8")
    body = {"operations": ask_for("/succeed/a")}
    await plant.ask("POST", "/batch", json=body, headers=[("traceparent", TRACEPARENT), ("traceparent", other)])
    assert recording.one(SERVER).parent is None


async def test_later_version_of_the_context_is_understood(plant: Plant, recording: Recording) -> None:
    await plant.submit("/succeed/a", headers={"traceparent": f"cc-{CLIENT_TRACE}-{CLIENT_SPAN}-01-what-comes"})
    assert traces_of(plant.parts.chunks.messages) == [CLIENT_TRACE]


@pytest.mark.parametrize("told_by", ["sampler", "client"])
async def test_what_is_not_sampled_leaves_no_span_and_no_attribute(
    aiohttp_client: AiohttpClient, toys: Toys, told_by: str
) -> None:
    recording = record_spans(NONE) if told_by == "sampler" else record_spans()
    plant = await build(aiohttp_client, toys, recording)
    headers = {"traceparent": f"00-{CLIENT_TRACE}-{CLIENT_SPAN}-00"} if told_by == "client" else None
    await plant.submit("/second-time-right/a", "/break/b", headers=headers)
    assert [message.trace for message in plant.parts.chunks.messages] == [None]
    await plant.work_off()
    assert [message.trace for message in plant.parts.dead_letters.messages] == [None]
    assert recording.ended == []


async def test_delivery_without_a_context_begins_no_trace(
    aiohttp_client: AiohttpClient, toys: Toys, recording: Recording
) -> None:
    """It was not sampled. If consumers decided again, most batches would have incomplete traces."""
    silent = record_spans(NONE)
    front = await build(aiohttp_client, toys, silent)
    await front.submit("/succeed/a", "/second-time-right/b")
    plant = await build_plant(
        aiohttp_client, front.operations, parts=front.parts, clock=front.clock, spans=recording.spans
    )
    await plant.work_off()
    assert toys.times == {"0": 1, "1": 2}
    assert recording.ended == []


async def test_damaged_context_of_a_message_is_as_none(plant: Plant, recording: Recording) -> None:
    await plant.submit("/succeed/a")
    [kept] = plant.parts.chunks._kept.values()
    assert kept.message.trace is not None
    kept.message = Message(kept.message.body, trace=type(kept.message.trace)("nonsense"))
    await plant.work_off()
    assert recording.named(PROCESS) == []


async def test_handlers_own_spans_are_below_their_operation(
    aiohttp_client: AiohttpClient, recording: Recording
) -> None:
    operations = Operations()
    tracer = recording.provider.get_tracer("shop")

    @operations.post("/users/{name}")
    async def create_user(name: str, context: Context) -> None:
        with tracer.start_as_current_span(f"insert {name}"):
            pass

    plant = await build_plant(aiohttp_client, operations, spans=recording.spans)
    await plant.service.post(ask_for("/users/a", "/users/b"))
    await plant.submit("/users/c")
    await plant.work_off()

    def operation(name: str) -> list[Any]:
        return ["POST /users/{name}", [f"insert {name}"]]

    small, large = recording.trees()
    assert sorted(small[1:]) == [operation("a"), operation("b")]
    assert large == [SERVER, [SEND, [PROCESS, operation("c")]]]


async def test_requests_of_balancers_are_not_traced(plant: Plant, recording: Recording) -> None:
    for path in ("/health/live", "/health/ready"):
        assert (await plant.ask("GET", path)).status == 200
    assert recording.ended == []


async def test_requests_are_named_by_their_route(plant: Plant, recording: Recording) -> None:
    """A span is not named by its path: a path has an id, so every batch would have its own name."""
    batch_id = await plant.submit("/succeed/a")
    await plant.status(batch_id)
    await plant.ask("GET", "/nothing/here")
    status = recording.one("GET /batch/{batch_id}/status")
    assert attributes(status)["penstock.batch.id"] == batch_id
    assert attributes(recording.one("GET"))["http.response.status_code"] == 404


async def test_no_key_in_a_url_is_traced(aiohttp_client: AiohttpClient, toys: Toys, recording: Recording) -> None:
    keys = make_key("test").text, "o" * 48
    plant = await build(aiohttp_client, toys, recording, operator_key=keys[1])
    parent = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    for key in keys:
        for headers in ({}, {**parent, "tracestate": f"vendor={key}"}):
            assert (await plant.ask("GET", f"/batch/{key}/status", headers=headers)).status == 404
            assert key not in recording.ended[-1].to_json()
    await plant.ask("GET", "/batch/x/status", headers={**parent, "tracestate": "vendor=value"})
    assert "vendor" in recording.ended[-1].to_json()


async def test_handlers_of_every_kind_are_traced(aiohttp_client: AiohttpClient, recording: Recording) -> None:
    operations = Operations()
    tracer = recording.provider.get_tracer("shop")

    @operations.post("/threads")
    def in_thread() -> None:
        with tracer.start_as_current_span("in thread"):
            pass

    @operations.post("/lots", bulk=True)
    async def together(contexts: list[Context]) -> list[int]:
        with tracer.start_as_current_span("together"):
            return [1 for _ in contexts]

    plant = await build_plant(aiohttp_client, operations, spans=recording.spans)
    await plant.submit("/threads", "/lots", "/lots")
    await plant.work_off()
    [[_, [_, [_, *performed]]]] = recording.trees()
    assert sorted(performed) == [["POST /lots", ["together"]], ["POST /threads", ["in thread"]]]
