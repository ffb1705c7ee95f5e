"""Records outside of the world what really happened: which handler ran when and where, and what it returned.

The toy operations are the application. They behave as their paths say, and record everything here first.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import structlog
from pydantic import BaseModel

from penstock import Context, Limit, Operations, Reject, Retry, Throttled
from penstock.forwarding.answer import Answer
from penstock.priority import Priority
from penstock.running.left_behind import NOTICE_SECONDS
from tests.simulation.loop import GATE
from tests.simulation.network import LOOKED_AT
from tests.simulation.process import Process
from tests.simulation.upstream import Crowd, Upstream

FINAL = {"completed", "failed", "cancelled", "expired"}
TIMEOUT_SECONDS = 8.0
MAX_ATTEMPTS = 3
DRAWN_POISON = {"/kill", "/block"}
POISON = DRAWN_POISON | {"/kill-once"}
TRY_AGAIN = {"/flaky", "/later", "/bulk"}
TOLD = "/told"  # before the paths of operations that refer to the results of others
TURNED_AWAY = 429
MANY_ATTEMPTS = 1_000_000
LIMITED = {"/limited", "/limited-often"}
MOST_TOGETHER = 10
DECLARED = Limit(rate=40.0)
NEVER_SUCCEED = {"/reject", "/break", "/hang", "/never-end", "/exit", "/cancel-itself"} | POISON


class Plan(BaseModel):
    """How an operation behaves: how long it takes, how often it fails first, and which delay it asks for.

    `filling` is how many characters it adds to its result. `told` is the number in its path.
    """

    seconds: float = 0.05
    times: int = 0
    after: float | None = None
    filling: int = 0
    told: int | None = None


@dataclass
class Run:
    """One run of a handler. `looked_at` is when its attempt last read the record; it cannot know anything newer."""

    number: int
    process: str
    batch_id: str
    operation_id: str
    key: str
    chunk_id: str | None  # None if the batch runs synchronously
    attempt: int
    started_at: float
    looked_at: float | None
    failed_at: float | None = None  # when the handler raised an error, unless it is poison or stops its task
    is_final: bool = False  # the handler has decided the outcome, so the operation must not run again
    has_succeeded: bool = False
    is_committed: bool = False  # with the transaction of its group
    told: int | None = None  # the number in its path: that of the run whose result its path refers to


@dataclass(frozen=True, slots=True)
class Toy:
    """One operation of a submission: its handler, how it behaves, and the operations that it depends on.

    Its path may refer to the result of one of these, or to a `member` that this result does not have.
    """

    path: str
    plan: Plan
    after: tuple[int, ...] = ()
    refers_to: int | None = None
    member: str = "run"
    group: str | None = None

    @property
    def can_succeed(self) -> bool:
        return self.path not in NEVER_SUCCEED and self.member == "run"

    @property
    def can_fail(self) -> bool:
        """Return True if the operation can fail by itself, without killing a consumer."""
        if self.member != "run":
            return True
        if self.path in TRY_AGAIN:
            return self.plan.times >= MAX_ATTEMPTS
        return self.path in NEVER_SUCCEED - POISON or (self.path == "/recover" and self.plan.times > 0)

    @property
    def is_endless(self) -> bool:
        """Return True if only its time limit ends the operation."""
        return self.path in {"/hang", "/never-end"}

    @property
    def can_fail_once(self) -> bool:
        return self.can_fail or self.path in TRY_AGAIN | NEVER_SUCCEED | {"/turned-away", "/recover"}


@dataclass
class Submission:
    """The request of a client, and the answers to it. The ids of the operations are its label and their index."""

    label: str
    toys: list[Toy]
    key: str | None = None  # its Idempotency-Key
    prefer: str | None = None
    priority: Priority = Priority.NORMAL
    not_before: float | None = None  # in virtual time
    deadline_seconds: float | None = None
    max_failures: int | None = None
    callback_url: str | None = None
    is_upload: bool = False  # it is a file in the bucket, which a consumer plans
    form: str = "ids"  # how its file is written: see `uploads.FORMS`
    fault: int | None = None  # of its file: see `uploads.FAULTS`
    lines: list[int] = field(default_factory=list)  # the numbers of the lines of its operations, if these are their ids
    is_replaced: bool = False  # a client has replaced its file
    sent_at: float | None = None  # when it was sent for the first time
    is_cancelled: bool = False  # a client has asked for it
    statuses: list[int | None] = field(default_factory=list)  # None if the connection broke
    batch_ids: set[str] = field(default_factory=set)  # from the answers

    @property
    def is_invalid(self) -> bool:
        return self.fault is not None


@dataclass
class Truth:
    now: Callable[[], float]
    chance: random.Random
    on_start: Callable[[Run], None] = lambda _run: None
    on_commit: Callable[[list[Run]], None] = lambda _runs: None
    is_transactional: bool = False  # the application has a transaction
    on_poison: Callable[[Run], None] = lambda _run: None  # just before it kills or blocks its process
    runs: defaultdict[tuple[str, str], list[Run]] = field(default_factory=lambda: defaultdict(list))
    submissions: list[Submission] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)  # of batches, by their ids
    garbage: set[str] = field(default_factory=set)  # bodies of messages on the queues that are not chunks
    lost: set[tuple[str, str]] = field(default_factory=set)  # batches and chunks whose messages were lost
    longest_pause: float = 0.0  # of a process
    paused: set[str] = field(default_factory=set)  # processes that were ever paused
    most_skew: float = 0.0  # the largest error of any clock so far
    upstream: Upstream = field(default_factory=lambda: Upstream(1_000.0))  # of the operations with a limit
    crowd: Crowd = field(default_factory=Crowd)  # of the operations whose number at the same time is limited
    declared_starts: list[float] = field(default_factory=list)  # of the operations with a declared limit
    is_over: bool = False

    @property
    def operations(self) -> Operations[Any]:
        return transactional if self.is_transactional else operations

    def submission_of(self, batch_id: str) -> Submission:
        label = self.labels[batch_id]
        return next(submission for submission in self.submissions if submission.label == label)

    def named(self, batch_id: str, operation_id: str) -> str:
        """Return the label and the index of an operation. A file may leave ids out: see `uploads.FORMS`."""
        if not operation_id.isdigit():
            return operation_id
        submission, number = self.submission_of(batch_id), int(operation_id)
        index = submission.lines.index(number) if number in submission.lines else number
        return f"{submission.label}-{index}"

    def runs_of(self, batch_id: str, operation_id: str) -> list[Run]:
        return self.runs[batch_id, self.named(batch_id, operation_id)]

    def keys_of(self, submission: Submission) -> set[str]:
        """Return the keys that handlers received for its operations, in all of its batches."""
        runs = [run for runs in self.runs.values() for run in runs]
        return {run.key for run in runs if run.operation_id.partition("-")[0] == submission.label}

    @asynccontextmanager
    async def performing(self, context: Context, plan: Plan) -> AsyncIterator[Run]:
        run = self.begin(context, plan.told)
        await asyncio.sleep(plan.seconds)
        try:
            yield run
        except Exception:
            run.failed_at = self.now()
            raise
        run.has_succeeded = run.is_final
        if context.transaction is not None:
            context.transaction.write(run)

    def begin(self, context: Context, told: int | None = None) -> Run:
        if self.is_over:
            raise asyncio.CancelledError
        runs = self.runs_of(context.batch_id, context.operation_id)
        run = Run(
            number=len(runs) + 1,
            process=current_process().name,
            batch_id=context.batch_id,
            operation_id=self.named(context.batch_id, context.operation_id),
            key=context.key,
            chunk_id=structlog.contextvars.get_contextvars().get("chunk_id"),
            attempt=context.attempt,
            started_at=self.now(),
            looked_at=LOOKED_AT.get(),
            told=told,
        )
        runs.append(run)
        self.on_start(run)
        return run


TRUTH: ContextVar[Truth] = ContextVar("TRUTH")


def key_given_to(operation_id: str) -> str | None:
    """Return the key that the client gives to an operation. Every third one has a key."""
    return f"own key of {operation_id}" if int(operation_id.rpartition("-")[2]) % 3 == 1 else None


def current_process() -> Process:
    process = GATE.get()
    assert isinstance(process, Process), "a handler runs outside every process"
    return process


def result_of(run: Run, plan: Plan) -> dict[str, Any]:
    filling = {"filling": "x" * plan.filling} if plan.filling else {}
    return {"run": run.number, **filling}


async def for_ever() -> None:
    await asyncio.Event().wait()


class Transaction:
    """The transaction of the application. It is committed in a moment, unless its process dies before that."""

    def __init__(self) -> None:
        self._written: list[Run] = []

    def write(self, run: Run) -> None:
        self._written.append(run)

    @asynccontextmanager
    async def begin_nested(self) -> AsyncIterator[None]:
        before = list(self._written)
        try:
            yield
        except BaseException:
            self._written = before
            raise

    def commit(self) -> None:
        TRUTH.get().on_commit(self._written)
        for run in self._written:
            run.is_committed = True


@asynccontextmanager
async def begin() -> AsyncIterator[Transaction]:
    transaction = Transaction()
    yield transaction
    transaction.commit()


_LIMITS = {"crowd": Limit(concurrency=MOST_TOGETHER), "declared": DECLARED}
operations: Operations[Any] = Operations(limits=_LIMITS)
transactional: Operations[Any] = Operations(limits=_LIMITS, transaction=begin)


def _post(path: str, **options: Any) -> Callable[[Any], Any]:
    def register(handler: Any) -> Any:
        async def handler_with_number(told: int, plan: Plan, context: Context) -> Any:
            return await handler(plan.model_copy(update={"told": told}), context)

        for application in (transactional, operations):
            application.post(path, **options)(handler)
            if "bulk" not in options:
                application.post(f"{TOLD}/{{told}}{path}", **options)(handler_with_number)
        return handler

    return register


@_post("/succeed", timeout_seconds=3_600)
async def succeed(plan: Plan, context: Context) -> Any:
    async with TRUTH.get().performing(context, plan) as run:
        run.is_final = True
        return result_of(run, plan)


@_post("/once", max_attempts=1)
async def once(plan: Plan, context: Context) -> Any:
    """Have only one attempt, so that the first death that is blamed on it is the last."""
    async with TRUTH.get().performing(context, plan) as run:
        run.is_final = True
        return {"run": run.number}


@_post("/large")
async def large(plan: Plan, context: Context) -> Any:
    """Return a large result: a few of them do not fit into one item."""
    truth = TRUTH.get()
    async with truth.performing(context, plan) as run:
        run.is_final = True
        return {"run": run.number, "filling": truth.chance.randbytes(150_000).hex()}


@_post("/reject")
async def reject(plan: Plan, context: Context) -> Any:
    async with TRUTH.get().performing(context, plan) as run:
        run.is_final = True
        raise Reject(409, "never")


@_post("/break", max_attempts=MAX_ATTEMPTS)
async def break_always(plan: Plan, context: Context) -> Any:
    async with TRUTH.get().performing(context, plan) as run:
        run.is_final = context.attempt >= MAX_ATTEMPTS
        raise RuntimeError("always")


@_post("/recover", max_attempts=1)
async def recover(plan: Plan, context: Context) -> Any:
    """Fail in the first runs, whatever their attempts. A redrive after that succeeds."""
    truth = TRUTH.get()
    async with truth.performing(context, plan) as run:
        run.is_final = True
        if run.number <= plan.times:
            raise RuntimeError(f"run {run.number} of {plan.times} that fail")
        return {"run": run.number}


@_post("/flaky", max_attempts=MAX_ATTEMPTS)
async def flaky(plan: Plan, context: Context) -> Any:
    async with TRUTH.get().performing(context, plan) as run:
        if context.attempt <= plan.times:
            run.is_final = context.attempt >= MAX_ATTEMPTS
            raise RuntimeError(f"attempt {context.attempt} of {plan.times} that fail")
        run.is_final = True
        return result_of(run, plan)


@_post("/later", max_attempts=MAX_ATTEMPTS)
async def later(plan: Plan, context: Context) -> Any:
    async with TRUTH.get().performing(context, plan) as run:
        if context.attempt <= plan.times:
            run.is_final = context.attempt >= MAX_ATTEMPTS
            raise Retry("not yet", after_seconds=plan.after)
        run.is_final = True
        return {"run": run.number}


@_post("/poll", max_attempts=MANY_ATTEMPTS)
async def poll(plan: Plan, context: Context) -> Any:
    """Ask for many more attempts, like a handler that waits for something that takes days."""
    async with TRUTH.get().performing(context, plan) as run:
        if context.attempt <= plan.times:
            raise Retry("not yet", after_seconds=plan.after)
        run.is_final = True
        return {"run": run.number}


@_post("/turned-away", max_attempts=1)
async def turned_away(plan: Plan, context: Context) -> Any:
    """Answer like an upstream that has no room for a while. It uses up no attempt, and there is only one."""
    truth = TRUTH.get()
    async with truth.performing(context, plan) as run:
        if len(truth.runs_of(context.batch_id, context.operation_id)) <= plan.times:
            wait = plan.after
            return Answer(
                TURNED_AWAY, error={"title": "Busy"}, is_passing=True, is_turned_away=True, after_seconds=wait
            )
        run.is_final = True
        return {"run": run.number}


@_post("/limited", max_attempts=1, limit="upstream")
async def limited(plan: Plan, context: Context) -> Any:
    """Call an upstream that has a limit."""
    truth = TRUTH.get()
    async with truth.performing(context, plan) as run:
        if not truth.upstream.admits(truth.now()):
            raise Throttled("Busy.", after_seconds=truth.upstream.asks_seconds)
        run.is_final = True
        return {"run": run.number}


@_post("/limited-often", max_attempts=MAX_ATTEMPTS, limit="upstream")
async def limited_often(plan: Plan, context: Context) -> Any:
    """Do the same as `limited`, with several attempts. So the first death that is blamed on it is not the last."""
    return await limited(plan, context)


@_post("/declared", limit="declared")
async def declared(plan: Plan, context: Context) -> Any:
    truth = TRUTH.get()
    truth.declared_starts.append(truth.now())
    async with truth.performing(context, plan) as run:
        run.is_final = True
        return {"run": run.number}


@_post("/crowd", max_attempts=MANY_ATTEMPTS, limit="crowd")
async def crowd(plan: Plan, context: Context) -> Any:
    truth = TRUTH.get()
    async with truth.performing(context, Plan(seconds=0, told=plan.told)) as run:
        with truth.crowd.joined(current_process()):
            await asyncio.sleep(plan.seconds)
        run.is_final = True
        return {"run": run.number}


@_post("/free-crowd", max_attempts=MANY_ATTEMPTS)
async def free_crowd(plan: Plan, context: Context) -> Any:
    return await crowd(plan, context)


@_post("/bulk", max_attempts=MAX_ATTEMPTS, bulk=True, max_size=3)
async def bulk(plans: list[Plan], contexts: list[Context]) -> list[Any]:
    """Ask for another attempt of single rows, or raise for the whole call, after which each row is tried alone."""
    truth = TRUTH.get()
    runs = [truth.begin(context) for context in contexts]
    await asyncio.sleep(max(plan.seconds for plan in plans))
    failing = [context.attempt <= plan.times for plan, context in zip(plans, contexts, strict=True)]
    is_last = contexts[0].attempt >= MAX_ATTEMPTS
    if any(fails and plan.after is None for fails, plan in zip(failing, plans, strict=True)):
        runs[0].is_final = is_last and len(runs) == 1
        raise RuntimeError(f"one of {len(runs)} rows")
    for run, fails, context in zip(runs, failing, contexts, strict=True):
        run.is_final = is_last or not fails
        run.has_succeeded = not fails
        if context.transaction is not None and not fails:
            context.transaction.write(run)
    return [
        Retry("not yet", after_seconds=plan.after) if fails else result_of(run, plan)
        for run, plan, fails in zip(runs, plans, failing, strict=True)
    ]


@_post("/hang", timeout_seconds=TIMEOUT_SECONDS, max_attempts=2)
async def hang(plan: Plan, context: Context) -> Any:
    async with TRUTH.get().performing(context, plan):
        await for_ever()


@_post("/exit", max_attempts=2)
async def exit_within(plan: Plan, context: Context) -> Any:
    async with TRUTH.get().performing(context, plan):
        raise SystemExit(3)


@_post("/cancel-itself", max_attempts=2)
async def cancel_itself(plan: Plan, context: Context) -> Any:
    async with TRUTH.get().performing(context, plan):
        raise asyncio.CancelledError


@_post("/stubborn", timeout_seconds=3_600)
async def stubborn(plan: Plan, context: Context) -> Any:
    """Ignore cancellation until it is done. It may be left behind, and then its result does not count."""
    truth, noticed_at = TRUTH.get(), None
    async with truth.performing(context, Plan(seconds=0, told=plan.told)) as run:
        until = truth.now() + plan.seconds
        while truth.now() < until and not truth.is_over:
            try:
                await asyncio.sleep(until - truth.now())
            except asyncio.CancelledError:
                noticed_at = noticed_at or truth.now()
        run.is_final = noticed_at is None or truth.now() < noticed_at + NOTICE_SECONDS
        return {"run": run.number}


@_post("/never-end", timeout_seconds=TIMEOUT_SECONDS, max_attempts=2)
async def never_end(plan: Plan, context: Context) -> Any:
    """Ignore every cancellation. It is left behind, and its slot is lost until the process ends."""
    truth = TRUTH.get()
    async with truth.performing(context, Plan(seconds=0, told=plan.told)):
        while not truth.is_over:
            with suppress(asyncio.CancelledError):
                await for_ever()


@_post("/kill", max_attempts=MAX_ATTEMPTS)
async def kill(plan: Plan, context: Context) -> Any:
    """Poison: kill the process, as `os._exit`, a segmentation fault or lack of memory does."""
    async with TRUTH.get().performing(context, plan) as run:
        TRUTH.get().on_poison(run)
        current_process().kill()
        await for_ever()


@_post("/kill-once", max_attempts=1)
async def kill_once(plan: Plan, context: Context) -> Any:
    """Poison with one attempt, so that the first death that is blamed on it is the last."""
    return await kill(plan, context)


@_post("/block", max_attempts=MAX_ATTEMPTS)
async def block(plan: Plan, context: Context) -> Any:
    """Poison: block the event loop until the process is killed."""
    async with TRUTH.get().performing(context, plan) as run:
        TRUTH.get().on_poison(run)
        TRUTH.get().paused.add(current_process().name)
        current_process().pause()
        await for_ever()
