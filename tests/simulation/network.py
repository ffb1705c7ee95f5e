"""The network between a process and AWS: calls and answers take time, and may be lost.

The clients here replace aiobotocore's, so that the real adapters run unchanged on them, and they raise botocore's
exceptions. A caller learns the answer some time after its call takes effect. In between anything may happen: the
caller may die, be paused or stop waiting.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from contextvars import Context, ContextVar
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

from botocore.exceptions import EndpointConnectionError

from tests.simulation import sqs
from tests.simulation.dynamodb import Table, refusal
from tests.simulation.process import Process
from tests.simulation.s3 import Files

Answer = dict[str, Any]
Reply = Callable[[Answer], None]
IsGone = Callable[[], bool]
Effect = Callable[[Reply, IsGone], None]

# The time at which the attempt of this context last read its chunk's record. It cannot know anything newer.
LOOKED_AT: ContextVar[float | None] = ContextVar("LOOKED_AT", default=None)


class Fault(Enum):
    NONE = auto()
    REFUSED = auto()  # AWS throttles or fails, and returns an error; the call has no effect
    REQUEST_LOST = auto()  # the call has no effect
    ANSWER_LOST = auto()  # the call takes effect
    LATE = auto()  # the call takes effect after the caller has given up
    REPEATED = auto()  # the SDK repeats the call after a lost answer, so it takes effect twice


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to a call. `there` is the travel time of the call, `back` that of its answer."""

    there: float
    back: float
    fault: Fault = Fault.NONE
    late: float = 0.0
    lands_anyway: bool = False  # it takes effect even if its caller has died
    number: int = -1  # identifies the call


class Fates(Protocol):
    """Decides what happens to calls. `before` and `after` are called around the effect and may kill the caller."""

    def fate(self, process: Process, action: str) -> Fate: ...

    def before(self, process: Process, fate: Fate) -> None: ...

    def after(self, process: Process, fate: Fate) -> None: ...

    is_out: bool  # True during an outage of everything

    def calm_down(self) -> None:
        """Let every call succeed from now on."""


class Air(Protocol):
    """The network that the connections of all processes share."""

    context: Context
    is_over: bool
    landed_at: float  # when the last of the calls so far takes effect

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    @property
    def fates(self) -> Fates: ...

    def note(self, who: str, what: str, *details: Any) -> None: ...

    def on_receive(self, process: str, messages: list[Answer]) -> None: ...


class Wire:
    """The connection of one process to AWS."""

    def __init__(self, air: Air, process: Process) -> None:
        self._air = air
        self._process = process
        self.looks: defaultdict[tuple[str, str], list[float]] = defaultdict(
            list
        )  # when each record was read, by its key

    async def ask(self, action: str, request: Any, effect: Callable[[Any], Answer]) -> Answer:
        return await self.ask_slowly(action, request, lambda reply, _: reply(effect(request)))

    async def ask_slowly(self, action: str, request: Any, effect: Effect) -> Answer:
        """Make a call whose effect replies later, such as a long poll."""
        if self._air.is_over:
            raise asyncio.CancelledError
        call = _Call(self._air, self._process, action, request, effect)
        answer = await call.answer
        if action == "UpdateItem" and _is_record(request["Key"]):
            LOOKED_AT.set(call.took_effect_at)
        if action == "BatchGetItem":
            unread = _keys(answer["UnprocessedKeys"])
            read = [key for key in _keys(request["RequestItems"]) if _is_record(key) and key not in unread]
            for key in read:
                self.looks[_words(key)].append(call.took_effect_at)
        return answer

    def first_look(self, key: Answer, since: float) -> float | None:
        """Return when a record was first read after a time. A caller whose read took long may know nothing newer."""
        return min((at for at in self.looks[_words(key)] if at >= since), default=None)


def _keys(tables: Answer) -> list[Answer]:
    return [key for wanted in tables.values() for key in wanted["Keys"]]


def _is_record(key: Answer) -> bool:
    where: str = key["sk"]["S"]
    return where.startswith("chunk#")


def _words(key: Answer) -> tuple[str, str]:
    return key["pk"]["S"], key["sk"]["S"]


class _Call:
    def __init__(self, air: Air, process: Process, action: str, request: Any, effect: Effect) -> None:
        self._air, self._process = air, process
        self._action, self._request, self._effect = action, request, effect
        self._fate = air.fates.fate(process, action)
        self.answer: asyncio.Future[Answer] = air.loop.create_future()
        self.took_effect_at = 0.0
        late = self._fate.late if self._fate.fault is Fault.LATE else 0.0
        air.landed_at = max(air.landed_at, air.loop.time() + self._fate.there + late)
        self._later(self._fate.there, self._arrive)

    def is_gone(self) -> bool:
        """Return True if nobody waits for the answer any more."""
        return not self._process.is_alive or self.answer.done()

    def _arrive(self) -> None:
        """Let the call arrive at AWS. If its process is gone by now, the fate decides whether the call arrives."""
        if self._air.is_over or (self.is_gone() and not self._fate.lands_anyway):
            return
        fault = self._fate.fault
        if fault is Fault.NONE:
            self._take_effect(self._reply)
        elif fault is Fault.REFUSED or fault is Fault.REQUEST_LOST:
            self._fail(self._trouble(fault))
        elif fault is Fault.LATE:
            self._fail(self._trouble(fault))
            self._later(self._fate.late, lambda: self._take_effect(_drop))
        elif fault is Fault.ANSWER_LOST:
            self._take_effect(lambda _: self._fail(self._trouble(fault)))
        else:
            self._take_effect(_drop)
            self._take_effect(self._reply)

    def _take_effect(self, reply: Reply) -> None:
        if self._air.is_over:
            return
        self._air.fates.before(self._process, self._fate)
        if not self._process.is_alive and not self._fate.lands_anyway:
            return
        if self._action != "ReceiveMessage":  # `_reply` notes the messages
            self._air.note(self._process.name, self._action, self._request, self._fate.fault)
        self.took_effect_at = self._air.loop.time()
        try:
            self._effect(reply, self.is_gone)
        except Exception as error:  # noqa: BLE001 - the caller gets every error, also bugs of the simulation
            self._air.note(self._process.name, "  gets the error", error)
            self._fail(error)
        self._air.fates.after(self._process, self._fate)

    def _reply(self, answer: Answer) -> None:
        if answer.get("Messages"):
            received = [f"{message['ReceiptHandle']} {message['Body'][:60]}" for message in answer["Messages"]]
            self._air.note(self._process.name, "  receives", ", ".join(received))
            self._air.on_receive(self._process.name, answer["Messages"])
        self._later(self._fate.back, lambda: self._settle(answer))

    def _settle(self, answer: Answer) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def _fail(self, error: Exception) -> None:
        def settle() -> None:
            if not self.answer.done():
                self.answer.set_exception(error)

        self._later(self._fate.back, settle)

    def _trouble(self, fault: Fault) -> Exception:
        self._air.note(self._process.name, self._action, self._request, fault)
        if fault is Fault.REFUSED:
            return refusal("InternalServerError", self._action, "simulated", status=500)
        return EndpointConnectionError(endpoint_url="simulated")

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        self._air.loop.call_later(seconds, what, context=self._air.context)


def _drop(_answer: Answer) -> None:
    """Lose the answer."""


class SqsClient:
    """Replaces aiobotocore's SQS client, as far as the adapter calls it."""

    def __init__(self, wire: Wire, queues: dict[str, sqs.Queue]) -> None:
        self._wire = wire
        self._queues = queues

    async def send_message_batch(self, **request: Any) -> Answer:
        return await self._wire.ask("SendMessageBatch", request, self._queue(request).send_batch)

    async def receive_message(self, **request: Any) -> Answer:
        queue = self._queue(request)
        return await self._wire.ask_slowly(
            "ReceiveMessage", request, lambda reply, is_gone: queue.receive(request, reply, is_gone)
        )

    async def delete_message_batch(self, **request: Any) -> Answer:
        return await self._wire.ask("DeleteMessageBatch", request, self._queue(request).delete_batch)

    async def change_message_visibility_batch(self, **request: Any) -> Answer:
        queue = self._queue(request)
        return await self._wire.ask("ChangeMessageVisibilityBatch", request, queue.change_visibility_batch)

    async def get_queue_attributes(self, **request: Any) -> Answer:
        queue = self._queue(request)
        return await self._wire.ask(
            "GetQueueAttributes", request, lambda _: {"Attributes": {"ApproximateNumberOfMessages": str(queue.count())}}
        )

    def _queue(self, request: dict[str, Any]) -> sqs.Queue:
        return self._queues[request["QueueUrl"]]


class DynamoDbClient:
    """Replaces aiobotocore's DynamoDB client, as far as the adapter calls it."""

    def __init__(self, wire: Wire, table: Table) -> None:
        self._wire = wire
        self._table = table

    async def get_item(self, **request: Any) -> Answer:
        return await self._wire.ask("GetItem", request, self._table.get_item)

    async def put_item(self, **request: Any) -> Answer:
        return await self._wire.ask("PutItem", request, self._table.put_item)

    async def update_item(self, **request: Any) -> Answer:
        return await self._wire.ask("UpdateItem", request, self._table.update_item)

    async def delete_item(self, **request: Any) -> Answer:
        return await self._wire.ask("DeleteItem", request, self._table.delete_item)

    async def query(self, **request: Any) -> Answer:
        return await self._wire.ask("Query", request, self._table.query)

    async def batch_get_item(self, **request: Any) -> Answer:
        return await self._wire.ask("BatchGetItem", request, self._table.batch_get_item)


class S3Client:
    """Replaces aiobotocore's S3 client, as far as the adapter calls it."""

    def __init__(self, wire: Wire, files: Files) -> None:
        self._wire = wire
        self._files = files

    async def generate_presigned_post(self, bucket: str, key: str, **conditions: Any) -> Answer:
        """Return a form that nobody can use: `Files.put` writes what a client would upload."""
        return {"url": f"s3://{bucket}", "fields": {"key": key, **conditions}}

    async def generate_presigned_url(self, action: str, **request: Any) -> str:
        """Return a URL that nobody can use. It makes no call."""
        return f"s3://{request['Params']['Bucket']}/{request['Params']['Key']}?{action}"

    async def head_bucket(self, **request: Any) -> Answer:
        return await self._wire.ask("HeadBucket", request, self._files.head_bucket)

    async def head_object(self, **request: Any) -> Answer:
        return await self._wire.ask("HeadObject", request, self._files.head_object)

    async def get_object(self, **request: Any) -> Answer:
        return await self._wire.ask("GetObject", request, self._files.get_object)

    async def put_object(self, **request: Any) -> Answer:
        return await self._wire.ask("PutObject", request, self._files.put_object)

    async def delete_object(self, **request: Any) -> Answer:
        return await self._wire.ask("DeleteObject", request, self._files.delete_object)

    async def create_multipart_upload(self, **request: Any) -> Answer:
        return await self._wire.ask("CreateMultipartUpload", request, self._files.create_multipart_upload)

    async def upload_part(self, **request: Any) -> Answer:
        return await self._wire.ask("UploadPart", request, self._files.upload_part)

    async def complete_multipart_upload(self, **request: Any) -> Answer:
        return await self._wire.ask("CompleteMultipartUpload", request, self._files.complete_multipart_upload)

    async def abort_multipart_upload(self, **request: Any) -> Answer:
        return await self._wire.ask("AbortMultipartUpload", request, self._files.abort_multipart_upload)
