"""The simulated world: one loop, one AWS, its processes, the record of what happened, and the checked promises."""

import asyncio
import contextlib
import io
import math
import random
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, NoReturn
from unittest.mock import patch

import structlog
import ulid

from penstock.aws import items
from penstock.aws.s3 import S3Bucket
from penstock.aws.sqs import SqsQueue
from penstock.aws.store import DynamoDbStore
from penstock.backend import Backend
from penstock.bills import Bills
from penstock.errors import PenstockError, RejectedCall
from penstock.priority import Priority
from penstock.service import idempotency, uploads
from penstock.service.batches import retry
from penstock.service.intake import planned, reading, submit
from penstock.settings import Settings
from penstock.store import Traces
from penstock.telemetry import Event as LogEvent
from tests.simulation.dynamodb import Table
from tests.simulation.loop import GATE, Deadlock, VirtualLoop
from tests.simulation.network import LOOKED_AT, DynamoDbClient, Fates, S3Client, SqsClient, Wire
from tests.simulation.process import EPOCH, Process
from tests.simulation.promises import Promises, chunk_of
from tests.simulation.s3 import Files
from tests.simulation.sqs import Kept, Queue
from tests.simulation.trace import Event, to_line
from tests.simulation.truth import TRUTH, Truth
from tests.simulation.webhooks import Receiver

DEAD_LETTERS = "dead-letters"
BUCKET = "files"  # a run has it if its settings name it
SHOWN_EVENTS = 150
OUR_FAULTS = {LogEvent.CHUNK_BROKE, LogEvent.REQUEST_BROKE}


class PromiseBroken(AssertionError):
    """A promise was broken in a run. `replay` is the command that repeats the run."""

    def __init__(self, broken: list[str], replay: str, happened: str) -> None:
        self.broken = broken
        self.replay = replay
        words = "\n".join(f"  {one}" for one in broken)
        super().__init__(f"{words}\n\nAgain: {replay}\n\n{happened}")


class _LookingStore(DynamoDbStore):
    """Notes for each caller when its record was read, although one call reads the records of several."""

    def __init__(self, client: Any, table: str, bills: Bills, wire: Wire) -> None:
        super().__init__(client, table, bills)
        self._wire = wire

    async def read_traces(self, batch_id: str, chunk_id: str) -> Traces:
        asked_at = asyncio.get_running_loop().time()
        traces = await super().read_traces(batch_id, chunk_id)
        LOOKED_AT.set(self._wire.first_look(items.chunk_key(batch_id, chunk_id), since=asked_at))
        return traces


class World:
    """A world for one run. `run` plays a scenario to its end or to the first broken promise. Then the world is over."""

    def __init__(self, seed: int, fates: Fates, visibility_seconds: float) -> None:
        self.chance = random.Random(seed)
        self.loop = VirtualLoop()
        self.fates = fates
        self.is_over = False
        self.landed_at = 0.0
        self.replay = ""  # the command that repeats the run
        self.processes: list[Process] = []
        self.events: list[Event] = []
        self.seen: Counter[str] = Counter()  # Penstock's log events, by name
        self.expects_rejections = False  # AWS rejects calls for good, so chunks may fail unexpectedly
        self.truth = Truth(self.loop.time, self.chance)
        self.promises = Promises(self.loop.time, self.truth, on_broken=self.loop.stop)
        self.truth.on_start = self.promises.on_start
        self.truth.on_commit = self.promises.links.on_commit
        self.truth.on_poison = self.promises.on_poison
        self.files = Files(BUCKET)
        self.table = Table(self.chance, watch=self.promises.on_write)
        self.promises.table = self.table
        self.promises.large_results.files = self.files
        self.receiver = Receiver(self.chance)
        self.promises.webhooks.receiver, self.promises.webhooks.table = self.receiver, self.table
        self.on_receive = self.promises.on_receive
        self.context = copy_context()
        self.context.run(TRUTH.set, self.truth)
        self.dead_letters = self._queue(DEAD_LETTERS, visibility_seconds)
        self.dead_letters.on_send = lambda body, _visible_at: self.promises.on_dead_letter(body)
        self.queues = {
            priority: self._queue(priority, visibility_seconds, backstop=self.dead_letters) for priority in Priority
        }
        for queue in self.queues.values():
            queue.on_send, queue.on_lapse = self.promises.on_message, self.promises.on_lapse
            queue.on_given_back = self.promises.on_given_back
        self.loop.set_exception_handler(self._on_loop_trouble)

    @property
    def chunks(self) -> Queue:
        """Return the queue for batches of normal priority."""
        return self.queues[Priority.NORMAL]

    @property
    def messages(self) -> list[Kept]:
        """Return the messages on all queues of chunks."""
        return [kept for queue in self.queues.values() for kept in queue.messages]

    @property
    def lapses(self) -> list[str]:
        return [body for queue in self.queues.values() for body in queue.lapses]

    def process(self, name: str) -> Process:
        process = Process(name, self.loop)
        process.on_death.append(lambda: self.note(name, "dies"))
        process.on_death.append(lambda: self.promises.on_death(name))
        self.processes.append(process)
        return process

    def backend(self, process: Process, settings: Settings) -> Backend:
        """Return the real adapters on the connection of this process."""
        wire = Wire(self, process)
        queues = [*self.queues.values(), self.dead_letters]
        sqs: Any = SqsClient(wire, {queue.name: queue for queue in queues})
        dynamodb: Any = DynamoDbClient(wire, self.table)
        s3: Any = S3Client(wire, self.files)

        def open_queue(name: str) -> SqsQueue:
            return SqsQueue(sqs, name, polls=sqs, call_bytes=settings.message_bytes, bills=bills)

        bills = Bills()
        return Backend(
            queues={priority: open_queue(queue.name) for priority, queue in self.queues.items()},
            dead_letters=open_queue(DEAD_LETTERS),
            store=_LookingStore(dynamodb, settings.table, bills, wire),
            bills=bills,
            bucket=None if settings.bucket is None else S3Bucket(s3, settings.bucket),
        )

    def note(self, who: str, what: str, *details: Any) -> None:
        self.events.append((self.loop.time(), who, what, details))

    def lose(self, kept: Kept) -> None:
        """Lose a message of a queue of chunks, as by a purge. A consumer that holds it continues."""
        self.note("world", f"loses message {kept.id}")
        chunk = chunk_of(kept.body)
        if chunk is not None:
            self.truth.lost.add((chunk.batch_id, chunk.id))
        next(queue for queue in self.queues.values() if kept in queue.messages).lose(kept)

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        """Run a scenario. Raises PromiseBroken with everything that is known."""
        with (
            _determined(self.chance, lambda: EPOCH + self.loop.time()),
            self._listening(),
            contextlib.closing(self.loop),
        ):
            main = self.context.run(lambda: self.loop.create_task(scenario, name="scenario"))
            try:
                self.loop.run_until_complete(main)
            except Deadlock:
                self.promises.check(False, 4, "nothing is left to wait for, and the run is not over")
            except RuntimeError:
                if not self.promises.broken:
                    raise
            finally:  # also if the scenario fails: otherwise Python complains later of what it has left
                waiting = self._who_waits()
                self._bury(main)
        if self.promises.broken:
            self._report(waiting)

    def _report(self, waiting: str) -> NoReturn:
        happened = f"The last events:\n{self.trace(SHOWN_EVENTS)}\n\nWho waits:\n{waiting}"
        raise PromiseBroken(self.promises.broken, self.replay, happened)

    def trace(self, last: int | None = None) -> str:
        return "\n".join(to_line(event) for event in self.events[-last if last else 0 :])

    def _queue(self, name: str, visibility_seconds: float, backstop: Queue | None = None) -> Queue:
        return Queue(name, self.loop, self.context, self.chance, visibility_seconds, backstop=backstop)

    def _who_waits(self) -> str:
        """Return every task of the living processes, with the place where it waits."""
        lines = []
        for task in self.loop.tasks:
            if task.done() or not task.get_name().partition(":")[2]:
                continue
            text = io.StringIO()
            task.print_stack(limit=1, file=text)
            lines.append(text.getvalue().strip())
        return "\n".join(lines[-20:])

    def _bury(self, main: asyncio.Task[None]) -> None:
        """Let all remaining tasks unwind. They cannot change anything any more."""
        self.is_over = self.truth.is_over = True
        for process in self.processes:
            process.bury()

        async def unwind() -> None:
            for _ in range(100):
                left = [task for task in self.loop.tasks if not task.done() and task is not asyncio.current_task()]
                if not left:
                    break
                for task in left:
                    task.cancel()
                await asyncio.sleep(0)
            await self.loop.shutdown_asyncgens()

        unwinding = self.loop.create_task(unwind())
        while not unwinding.done():
            self.loop.call_later(1, self.loop.stop)  # an earlier stop of the loop may still be scheduled
            self.loop.run_forever()
        for task in self.loop.tasks:
            if task.done() and not task.cancelled():
                task.exception()  # retrieved, so that asyncio does not complain later

    def _on_loop_trouble(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not self.is_over:
            self.promises.check(False, 0, f"asyncio complains: {context}")

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Record the events of Penstock's log inside the block."""
        before = structlog.get_config()
        structlog.configure(processors=[self._take_log], cache_logger_on_first_use=False)
        try:
            yield
        finally:
            structlog.configure(**before)

    def _take_log(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> NoReturn:
        process = GATE.get()
        who = process.name if isinstance(process, Process) else "world"
        if not self.is_over:
            name = event.pop("event")
            self.seen[name] += 1
            about = dict(sorted(structlog.contextvars.get_contextvars().items()))  # otherwise in the order of a set
            self.note(who, f"[{name}]", {**about, **event})
            if name == LogEvent.OPERATION_SUSPECTED:
                self.promises.on_suspected(about["batch_id"], about["chunk_id"], event["operation_id"])
            error = event.get("exc_info")
            is_rejected = isinstance(error, RejectedCall) and not self.expects_rejections
            is_passing = isinstance(error, PenstockError) and not is_rejected
            ours = name in OUR_FAULTS and error is not None and not is_passing
            self.promises.check(not ours, 0, f"{who} says {name}: {error!r}")
        raise structlog.DropEvent


@contextmanager
def _determined(chance: random.Random, now: Callable[[], float]) -> Iterator[None]:
    """Make randomness, names and turns depend on the seed alone, also where Penstock asks the machine.

    A front end reads operations for two milliseconds of real time before other requests have a turn. Here it reads all.
    """

    def token_hex(nbytes: int | None = None) -> str:
        return chance.randbytes(nbytes or 8).hex()

    def ids_of(source: random.Random) -> ulid.ULIDGenerator:
        return ulid.ULIDGenerator(clock=lambda: int(now() * 1000), randomness=lambda _: source.randbytes(10))

    apart = random.Random()
    apart.setstate(chance.getstate())
    ids, other_ids = ids_of(chance), ids_of(apart)
    state = random.getstate()
    random.seed(chance.getrandbits(64))
    with (
        patch.object(secrets, "token_hex", token_hex),
        patch.object(submit, "BATCH_IDS", ids),
        patch.object(planned, "BATCH_IDS", other_ids),
        patch.object(uploads, "_UPLOAD_IDS", other_ids),
        patch.object(retry, "ULID", other_ids.generate),
        patch.object(idempotency, "ULID", other_ids.generate),
        patch.object(reading, "STEP_SECONDS", math.inf),
    ):
        try:
            yield
        finally:
            random.setstate(state)
