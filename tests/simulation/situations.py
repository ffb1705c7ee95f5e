"""Plays small batches in each situation that a chunk can be in, with chosen calls failing."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

from penstock.aws.store import FOLD_AT
from penstock.chunk import Chunk, Operation
from penstock.consumer.sweeper import PERIODS_OF_TENURE
from penstock.message import encode_chunk
from penstock.telemetry import Event
from tests.simulation.clients import MOST_TRIES
from tests.simulation.exports import export, export_while_its_front_end_pauses, small_exports
from tests.simulation.final_batches import SecondLook
from tests.simulation.network import Fate, Fault
from tests.simulation.process import Process
from tests.simulation.programs import Program
from tests.simulation.promises import ACCEPTED, ANSWERED
from tests.simulation.stage import Stage, group_chunks
from tests.simulation.truth import FINAL, LIMITED, Plan, Submission, Toy
from tests.simulation.webhooks import CALLBACK_URL, SECRET
from tests.simulation.world import BUCKET, World
from tests.support.builders import read_settings_once

SEED = 1
ON_THE_WAY_SECONDS = 0.005
SLOW_ON_THE_WAY_SECONDS = 1.0
LONG_ON_THE_WAY_SECONDS = 35.0
PAUSE_SECONDS = 120.0  # that the upstream asks for
SETTLE_SECONDS = 3600.0  # the longest wait of a situation takes 1,000 seconds

Script = Callable[[Stage, Submission], Awaitable[None]]


class Hit(Enum):
    CRASH_BEFORE = auto()
    CRASH_AFTER = auto()
    FAIL_BEFORE = auto()
    FAIL_AFTER = auto()
    CRASH_LONG_BEFORE = auto()  # the call is on its way for so long that others have taken over
    SLOW = auto()  # the call is on its way for a second, and later calls overtake it


CRASHES = [Hit.CRASH_BEFORE, Hit.CRASH_AFTER]
FAILURES = [Hit.FAIL_BEFORE, Hit.FAIL_AFTER]


@dataclass
class HitCalls:
    """Hits the calls with these numbers, each in one way. All other calls succeed. `calls` lists what was called."""

    hits: dict[int, Hit] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    is_over: bool = False
    is_out: bool = False

    def fate(self, process: Process, action: str) -> Fate:
        if self.is_over:
            return Fate(ON_THE_WAY_SECONDS, ON_THE_WAY_SECONDS)
        number = len(self.calls)
        self.calls.append(f"{process.name} {action}")
        if self.hits.get(number) is Hit.CRASH_LONG_BEFORE:
            process.kill()
            return Fate(LONG_ON_THE_WAY_SECONDS, ON_THE_WAY_SECONDS, lands_anyway=True, number=number)
        if self.hits.get(number) is Hit.SLOW:
            return Fate(SLOW_ON_THE_WAY_SECONDS, ON_THE_WAY_SECONDS, number=number)
        fault = {Hit.FAIL_BEFORE: Fault.REQUEST_LOST, Hit.FAIL_AFTER: Fault.ANSWER_LOST}.get(
            self.hits.get(number, Hit.CRASH_BEFORE), Fault.NONE
        )
        return Fate(ON_THE_WAY_SECONDS, ON_THE_WAY_SECONDS, fault, number=number)

    def before(self, process: Process, fate: Fate) -> None:
        if self.hits.get(fate.number) is Hit.CRASH_BEFORE:
            process.kill()

    def after(self, process: Process, fate: Fate) -> None:
        if self.hits.get(fate.number) is Hit.CRASH_AFTER:
            process.kill()

    def calm_down(self) -> None:
        self.is_over = True


@dataclass(frozen=True)
class Situation:
    """A batch, what is done with it, and the settings that lead to the situation.

    `shows` is the event in Penstock's log that proves that the situation occurred. With `kills_by_itself` its programs
    die or pause at certain moments already. So not every call is hit: further crashes would only move these moments.
    """

    toys: tuple[Toy, ...]
    script: Script
    shows: Event = Event.BATCH_FINISHED
    settings: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)  # options of the submission
    group_chunks: int = 64
    fold_at: int = FOLD_AT
    has_parents: bool = False
    is_transactional: bool = False
    kills_by_itself: bool = False
    front_ends: int = 1


@dataclass(frozen=True)
class Played:
    calls: list[str]
    seen: Counter[str]


def play(situation: Situation, hits: dict[int, Hit] | None = None) -> Played:
    """Raises PromiseBroken."""
    fates = HitCalls(hits or {})
    quick: dict[str, Any] = {
        "concurrency": 2,
        "sync_max_operations": 0,
        "chunk_operations": 2,
        "visibility_seconds": 10,
        "accept_seconds": 5,
        "backoff_seconds": 1,
        "grace_seconds": 1,
        "sweep_seconds": 15,
    }
    settings = read_settings_once(**{**quick, **situation.settings})
    world = World(SEED, fates, settings.visibility_seconds)
    world.promises.max_deaths = settings.max_deaths
    world.promises.sweep_tenure = PERIODS_OF_TENURE * settings.sweep_seconds
    world.promises.follow_ups.backoff = settings.backoff
    world.promises.quotas.quota = settings.tenant_quota
    world.promises.quotas.accept_seconds = settings.accept_seconds
    world.promises.open.most = settings.tenant_max_open
    world.promises.is_poison_alone = not {*CRASHES, Hit.CRASH_LONG_BEFORE} & set(fates.hits.values())
    world.promises.losses.is_quick = set(fates.hits.values()) <= set(CRASHES)
    world.promises.has_parents = situation.has_parents
    world.truth.is_transactional = situation.is_transactional
    submission = Submission("s0", list(situation.toys), **situation.asked)
    world.truth.submissions.append(submission)
    stage = Stage(world, settings, has_parents=situation.has_parents, settle_seconds=SETTLE_SECONDS)

    async def run() -> None:
        stage.open(front_ends=situation.front_ends)
        await situation.script(stage, submission)
        await stage.settle()
        fates.calm_down()
        await stage.close(is_gentle=set(fates.hits.values()) == {Hit.SLOW})

    with group_chunks(situation.group_chunks, situation.fold_at), small_exports():
        world.run(run())
    return Played(fates.calls, world.seen)


def toys(*paths: str, **plan: Any) -> tuple[Toy, ...]:
    return tuple(Toy(path, Plan(**plan)) for path in paths)


def linked(links: dict[int, tuple[int, ...]], *of: Toy) -> tuple[Toy, ...]:
    """Let operations depend on others: `links` has their indexes, each with those of the others."""
    return tuple(replace(toy, after=links.get(index, ())) for index, toy in enumerate(of))


def referring(*of: Toy) -> tuple[Toy, ...]:
    """Let the paths of operations refer to the last operation that they depend on."""
    return tuple(replace(toy, refers_to=toy.after[-1]) if toy.after else toy for toy in of)


def without_value(index: int, *of: Toy) -> tuple[Toy, ...]:
    """Let the path of an operation refer to what its result does not have."""
    return tuple(replace(toy, member="nothing") if number == index else toy for number, toy in enumerate(of))


def grouped(count: int, *of: Toy) -> tuple[Toy, ...]:
    """Let the first operations be an atomic group."""
    return tuple(replace(toy, group="g") if index < count else toy for index, toy in enumerate(of))


# What is done with a batch


async def submit(stage: Stage, submission: Submission) -> None:
    await stage.client.submit(submission)


async def submit_until_answered(stage: Stage, submission: Submission) -> None:
    await stage.client.submit_until_answered(submission)


async def submit_until_accepted(stage: Stage, submission: Submission) -> None:
    """Repeat the request until it is accepted.

    Its quota is as large as the batch, so it is not accepted if a front end died and its charge was not given back.
    A small batch that ran is charged, even if the front end died before it answered.
    """
    await submit_until_answered(stage, submission)
    has_run = any(run.is_final for runs in stage.world.truth.runs.values() for run in runs)
    is_right = submission.statuses[-1] in {ANSWERED, ACCEPTED} or has_run
    stage.world.promises.check(is_right, 8, f"{submission} was never accepted: {submission.statuses}")


async def submit_two_until_accepted(stage: Stage, submission: Submission) -> None:
    """Submit two batches at the same time. Only one of them may be open, so the other is accepted after its end."""
    second = replace(submission, label="s1", key="s1", statuses=[], batch_ids=set())
    stage.world.truth.submissions.append(second)
    await asyncio.gather(*(submit_until_accepted(stage, one) for one in (submission, second)))


async def stop_its_consumer(stage: Stage, submission: Submission) -> None:
    await submit(stage, submission)
    await asyncio.sleep(0.5)
    for consumer in list(stage.consumers):
        consumer.terminate()


async def kill_its_consumer(stage: Stage, submission: Submission) -> None:
    await submit(stage, submission)
    await asyncio.sleep(0.5)
    for consumer in list(stage.consumers):
        consumer.process.kill()


async def cancel(stage: Stage, submission: Submission) -> None:
    await submit(stage, submission)
    await asyncio.sleep(0.5)
    submission.is_cancelled = True
    for batch_id in submission.batch_ids:
        await stage.client.ask("POST", f"/batch/{batch_id}/cancel")


async def pause_and_resume(stage: Stage, submission: Submission) -> None:
    """Pause a batch that runs, and resume it with another priority, until each is answered."""
    await submit(stage, submission)
    await asyncio.sleep(0.5)
    for changes in ({"paused": True}, {"paused": False, "priority": "high"}):
        for batch_id in submission.batch_ids:
            await _steer_until_answered(stage, submission, batch_id, changes)
        await asyncio.sleep(3)


async def _steer_until_answered(stage: Stage, submission: Submission, batch_id: str, changes: dict[str, Any]) -> None:
    for _ in range(MOST_TRIES):
        answer = await stage.client.steer(submission, batch_id, changes)
        if answer is not None and answer.status != 503:
            return
        await asyncio.sleep(0.5)


async def accept_late(stage: Stage, submission: Submission) -> None:
    """The front end pauses before it accepts the batch. The consumer waits for that, and then releases the chunk.

    The heartbeat of the chunk, 2.5 seconds after the start, is sent less than a second before.
    """
    await asyncio.sleep(1)
    front_end = (await stage.a_front_end()).process
    submitting = asyncio.create_task(submit(stage, submission))
    while not stage.world.messages:  # noqa: ASYNC110 - no event tells of messages
        await asyncio.sleep(ON_THE_WAY_SECONDS / 2)
    front_end.pause()
    await asyncio.sleep(4)
    front_end.resume()
    await submitting


async def lose_its_messages(stage: Stage, submission: Submission) -> None:
    await submit(stage, submission)
    await asyncio.sleep(0.5)
    for kept in stage.world.messages:
        stage.world.lose(kept)


async def die_with_a_fast_clock(stage: Stage, submission: Submission) -> None:
    """A consumer whose clock is ten hours fast sweeps and dies. Nothing but a later sweep ends the batch."""
    await asyncio.sleep(0.5)
    fast = list(stage.consumers)
    for consumer in fast:
        consumer.clock.skew_seconds = 36_000
    await asyncio.sleep(2 * stage.settings.sweep_seconds)
    for consumer in fast:
        consumer.process.kill()
    await lose_its_messages(stage, submission)


async def cancel_and_lose_its_messages(stage: Stage, submission: Submission) -> None:
    await cancel(stage, submission)
    for kept in stage.world.messages:
        stage.world.lose(kept)


async def retry(stage: Stage, submission: Submission) -> None:
    await submit(stage, submission)
    await stage.settle()
    for batch_id in submission.batch_ids:
        await stage.client.retry(batch_id)


async def retry_some(stage: Stage, submission: Submission) -> None:
    """Let two requests choose failures of the same chunk at the same time. Both of them choose one of them."""
    await submit(stage, submission)
    await stage.settle()
    for batch_id in submission.batch_ids:
        await asyncio.gather(*(stage.client.retry(batch_id, chosen) for chosen in ([0, 1], [1, 2])))


async def retry_in_a_suspect_batch(stage: Stage, submission: Submission) -> None:
    """Let the consumer die of a retry. Then choose the operation again that depends on what has failed elsewhere."""
    await submit(stage, submission)
    await stage.settle()
    for batch_id in submission.batch_ids:
        await stage.client.retry(batch_id, [0, 2])
    await asyncio.sleep(1)
    for consumer in list(stage.consumers):
        consumer.process.kill()
    await stage.settle()
    for batch_id in submission.batch_ids:
        await stage.client.retry(batch_id, [2])


async def look_at_its_end(stage: Stage, submission: Submission) -> None:
    """Ask for the status again and again. Once the batch is told as final, ask everything else immediately."""
    await submit(stage, submission)
    for batch_id in submission.batch_ids:
        if await _is_told_as_final(stage, batch_id):
            await _second_look(stage, submission, batch_id).take()


async def retry_at_its_end(stage: Stage, submission: Submission) -> None:
    """Retry a batch as soon as it is told as final, and ask everything else at the same time."""
    await submit(stage, submission)
    for batch_id in submission.batch_ids:
        if await _is_told_as_final(stage, batch_id):
            await asyncio.gather(stage.client.retry(batch_id), _second_look(stage, submission, batch_id).take())


async def _is_told_as_final(stage: Stage, batch_id: str) -> bool:
    """Wait until the status of a batch is final, for as long as a batch of a situation may take."""
    pause, give_up_at = 0.001, stage.world.loop.time() + SETTLE_SECONDS
    while stage.world.loop.time() < give_up_at:
        status = await stage.client.status(batch_id)
        if status is not None and status["status"] in FINAL:
            return True
        await asyncio.sleep(pause)
        pause = min(1.2 * pause, 1.0)
    return False


def _second_look(stage: Stage, submission: Submission, batch_id: str) -> SecondLook:
    has_bucket = stage.settings.bucket is not None
    return SecondLook(stage.client, stage.world.promises, submission, batch_id, has_bucket=has_bucket)


async def redrive(stage: Stage, submission: Submission) -> None:
    await submit(stage, submission)
    await stage.settle()
    await stage.client.ask("POST", "/dead-letters/redrive", {})


async def redrive_from_the_console(stage: Stage, submission: Submission) -> None:
    await submit(stage, submission)
    await stage.settle()
    stage.world.dead_letters.move_all_to(stage.world.chunks)


async def put_garbage(stage: Stage, submission: Submission) -> None:
    stage.world.truth.garbage.add("hello")
    stage.world.chunks.put("hello")
    await submit(stage, submission)


async def forge_chunks(stage: Stage, submission: Submission) -> None:
    """Send chunks that cannot belong to the batch, while it runs and after it has finished."""
    await submit(stage, submission)
    _put_forged_chunks(stage, submission)
    await stage.settle()
    _put_forged_chunks(stage, submission)


def _put_forged_chunks(stage: Stage, submission: Submission) -> None:
    operations = [Operation(index, f"x-{index}", "POST", "/succeed", {}) for index in range(len(submission.toys))]
    for batch_id in submission.batch_ids:
        for chunk_id, forged in (
            ("0.d9", operations),
            ("0.1.1", operations * 2),
            ("00", operations),
            ("9", operations),
        ):
            body = encode_chunk(Chunk(batch_id, chunk_id, 1, tuple(forged)))
            stage.world.truth.garbage.add(body)
            stage.world.chunks.put(body)


async def suspect_while_the_upstream_pauses(stage: Stage, submission: Submission) -> None:
    """Let the consumer die twice of all operations, so that they are suspects. Then the upstream asks for a long pause.

    A suspect whose route has no limit must not wait for suspects that wait for their tokens.
    """
    upstream = stage.world.truth.upstream
    await submit(stage, submission)
    _kill(await _consumer_that_runs_all(stage, submission))
    running = await _consumer_that_runs_all(stage, submission)
    upstream.is_away, upstream.asks_seconds = True, PAUSE_SECONDS
    throttled = Submission("s1", [Toy("/limited", Plan(seconds=0))])
    stage.world.truth.submissions.append(throttled)
    await submit(stage, throttled)
    await asyncio.sleep(1)
    upstream.is_away = False
    _kill(running)
    await asyncio.sleep(PAUSE_SECONDS / 2)
    for facts in (stage.world.promises.batches[batch_id] for batch_id in submission.batch_ids):
        late = [
            index
            for index, toy in enumerate(submission.toys)
            if toy.path not in LIMITED and not facts.outcome(index, counted=False)
        ]
        stage.world.promises.check(not late, 9, f"operations {late} wait for the limit of others")


async def _consumer_that_runs_all(stage: Stage, submission: Submission) -> Program | None:
    """Wait until a consumer runs all operations, for a minute at most."""
    give_up_at = stage.world.loop.time() + 60
    while stage.world.loop.time() < give_up_at:
        await asyncio.sleep(0.5)
        last = [runs[-1] for (batch_id, _), runs in stage.world.truth.runs.items() if batch_id in submission.batch_ids]
        for consumer in stage.consumers:
            if [run.process for run in last] == [consumer.name] * len(submission.toys):
                return consumer
    return None


def _kill(consumer: Program | None) -> None:
    if consumer is not None:
        consumer.process.kill()


async def upload(stage: Stage, submission: Submission) -> None:
    """Upload a file, and make a batch of it."""
    stage.client.upload(submission)
    await submit(stage, submission)


async def upload_and_cancel(stage: Stage, submission: Submission) -> None:
    """Cancel the batch of a file while it is validated, or a moment later."""
    await upload(stage, submission)
    await asyncio.sleep(0.1)
    submission.is_cancelled = True
    for batch_id in submission.batch_ids:
        await stage.client.ask("POST", f"/batch/{batch_id}/cancel")


FILE = {"bucket": BUCKET, "background_upload_bytes": 0, "chunk_operations": 1}
AS_FILE = {"is_upload": True}
AT_ONCE = {"sync_max_operations": 10, "sync_seconds": 1}
WITH_KEY = {"key": "a key"}

SITUATIONS = {
    "all well": Situation(toys("/succeed", "/succeed", "/succeed"), submit),
    "told by webhooks": Situation(
        toys("/succeed", "/reject"),
        submit,
        Event.WEBHOOK_DELIVERED,
        settings={"webhook_secret": SECRET},
        asked={"callback_url": CALLBACK_URL},
    ),
    "several groups": Situation(
        toys("/succeed", "/succeed", "/succeed"), submit, settings={"chunk_operations": 1}, group_chunks=1
    ),
    "some tried again": Situation(toys("/flaky", "/succeed", times=1), submit, Event.OPERATION_BROKE),
    "tried again often, in a counter that is folded": Situation(
        toys("/poll", "/poll", times=4, after=0),
        submit,
        settings={"chunk_operations": 1},
        fold_at=2,
    ),
    "turned away often": Situation(toys("/turned-away", times=5) + toys("/turned-away", times=3, after=2), submit),
    "turned away until the deadline": Situation(
        toys("/turned-away", times=1_000_000) + toys("/turned-away", times=1),
        submit,
        Event.BATCH_SWEPT,
        asked={"deadline_seconds": 60.0},
    ),
    "tried again later than SQS delays": Situation(
        toys("/later", times=1, after=1_000), submit, settings={"sweep_seconds": 600}
    ),
    "some fail": Situation(toys("/reject", "/break", "/succeed"), submit, Event.OPERATION_BROKE),
    "a bulk call raises": Situation(
        toys("/bulk", "/bulk") + toys("/bulk", times=1), submit, Event.BULK_CALL_BROKE, settings={"chunk_operations": 3}
    ),
    "its consumer is stopped": Situation(
        toys("/succeed") + toys("/succeed", "/succeed", seconds=7), stop_its_consumer, Event.CONSUMER_DRAINING
    ),
    "its time budget is spent": Situation(
        toys("/succeed", "/succeed", seconds=2), submit, settings={"chunk_budget_seconds": 1, "concurrency": 1}
    ),
    "it is slow, and the rest is cut into pieces": Situation(
        toys(*["/succeed"] * 12, seconds=0.8),
        submit,
        settings={"chunk_operations": 12, "min_chunks": 1, "concurrency": 1},
    ),
    "its consumer dies": Situation(toys("/succeed", "/succeed", seconds=2), kill_its_consumer, Event.CHUNK_HALVED),
    "its consumer dies, and its parent knows": Situation(
        toys("/succeed", "/succeed", "/once", seconds=2),
        kill_its_consumer,
        Event.CHUNKS_GIVEN_BACK,
        settings={"concurrency": 1, "chunk_operations": 1},
        has_parents=True,
    ),
    "poison, and its parent knows": Situation(
        toys("/succeed", "/kill-once"),
        submit,
        Event.CHUNKS_GIVEN_BACK,
        settings={"chunk_operations": 1},
        has_parents=True,
    ),
    "a handler never ends": Situation(
        toys("/never-end") + toys("/succeed", "/succeed", seconds=1),
        submit,
        Event.HANDLER_LEFT_BEHIND,
        settings={"concurrency": 1, "stall_seconds": 5},
    ),
    "poison": Situation(toys("/succeed", "/kill"), submit, Event.CHUNK_HALVED),
    "a suspect beside poison": Situation(
        toys("/once", seconds=0.15) + toys("/kill", seconds=0.05),
        submit,
        settings={"chunk_operations": 1},
    ),
    "suspects, and the upstream of some pauses": Situation(
        toys("/limited-often", "/limited-often", "/limited", "/once", seconds=4),
        suspect_while_the_upstream_pauses,
        Event.OPERATION_SUSPECTED,
        settings={"chunk_operations": 1, "concurrency": 8},
        kills_by_itself=True,
    ),
    "counts wait while poison runs": Situation(
        toys("/succeed", "/succeed") + toys("/kill-once", seconds=0.3), submit, settings={"chunk_operations": 1}
    ),
    "dead letters wait while poison runs": Situation(
        toys("/reject", "/reject") + toys("/kill-once", seconds=0.8),  # after the count, and before the letters leave
        submit,
        settings={"chunk_operations": 1},
    ),
    "some tried again while poison runs": Situation(
        toys("/flaky", times=1) + toys("/succeed") + toys("/kill", seconds=0.4),
        submit,
        Event.OPERATION_BROKE,
        settings={"chunk_operations": 1, "concurrency": 4},
    ),
    "it kills too many consumers": Situation(
        toys("/kill", "/succeed"), submit, Event.BATCH_ENDED, settings={"max_deaths": 4}
    ),
    "too much fails": Situation(
        toys("/reject", "/reject", "/succeed", "/succeed", seconds=1),
        submit,
        Event.BATCH_ENDED,
        settings={"concurrency": 1, "chunk_operations": 1},
        asked={"max_failures": 0},
    ),
    "cancelled": Situation(
        toys("/succeed", "/succeed", "/succeed", seconds=2), cancel, Event.BATCH_ENDED, settings={"concurrency": 1}
    ),
    "paused and resumed": Situation(
        toys("/succeed", "/succeed", "/succeed", seconds=1), pause_and_resume, settings={"concurrency": 1}
    ),
    "accepted late": Situation(
        toys("/succeed"), accept_late, Event.CHUNK_RELEASED, settings={"accept_seconds": 30}, kills_by_itself=True
    ),
    "cancelled, and a message lost": Situation(
        toys("/succeed", "/succeed", "/succeed", seconds=2),
        cancel_and_lose_its_messages,
        Event.BATCH_ENDED,
        settings={"concurrency": 1, "settle_seconds": 1},
        asked={"deadline_seconds": 600.0},  # where the cancel is what is hit
    ),
    "expired": Situation(
        toys("/succeed", "/succeed", "/succeed", seconds=2),
        lose_its_messages,
        Event.BATCH_SWEPT,
        settings={"concurrency": 1},
        asked={"deadline_seconds": 5.0},
    ),
    "expired while it runs": Situation(
        toys("/succeed", "/succeed", "/succeed", seconds=20), submit, Event.BATCH_SWEPT, asked={"deadline_seconds": 5.0}
    ),
    "expired after a consumer died whose clock was fast": Situation(
        toys("/succeed", "/succeed", "/succeed", seconds=2),
        die_with_a_fast_clock,
        Event.BATCH_SWEPT,
        settings={"concurrency": 1},
        asked={"deadline_seconds": 5.0},
    ),
    "results in the bucket": Situation(
        toys("/large", "/succeed", "/large"), submit, settings={"chunk_operations": 3, "bucket": BUCKET}
    ),
    "results in the bucket, handed over": Situation(
        toys("/large", "/large") + toys("/succeed", seconds=3),
        submit_until_answered,
        Event.BATCH_HANDED_OVER,
        settings={"sync_max_operations": 10, "sync_seconds": 1, "bucket": BUCKET},
        asked={"key": "a key"},
    ),
    "exported": Situation(
        toys("/succeed", "/reject", "/succeed"), export, Event.EXPORT_DONE, {"chunk_operations": 1, "bucket": BUCKET}
    ),
    "exported, and its front end pauses": Situation(
        toys("/succeed", "/succeed", "/succeed"),
        export_while_its_front_end_pauses,
        Event.EXPORT_DONE,
        {"chunk_operations": 1, "bucket": BUCKET},
        front_ends=2,
        kills_by_itself=True,
    ),
    "a record in parts": Situation(toys("/large", "/large", "/large"), submit, settings={"chunk_operations": 3}),
    "handed over": Situation(
        toys("/succeed", "/reject") + toys("/flaky", "/succeed", seconds=3, times=1),
        submit,
        Event.BATCH_HANDED_OVER,
        settings=AT_ONCE,
        group_chunks=1,
    ),
    "answered at once": Situation(
        toys("/succeed", "/reject"), submit_until_answered, Event.BATCH_ANSWERED, settings=AT_ONCE, asked=WITH_KEY
    ),
    "same key until it is answered": Situation(toys("/succeed", "/succeed"), submit_until_answered, asked=WITH_KEY),
    "same key for later": Situation(toys("/succeed"), submit_until_answered, asked={**WITH_KEY, "not_before": 45.0}),
    "same key, and handed over": Situation(
        toys("/succeed") + toys("/succeed", seconds=3),
        submit_until_answered,
        Event.BATCH_HANDED_OVER,
        settings=AT_ONCE,
        asked=WITH_KEY,
    ),
    "in the background, with a quota": Situation(
        toys("/succeed"), submit_until_accepted, settings={"tenant_limit": "1/3600"}, asked=WITH_KEY
    ),
    "answered at once, with a quota": Situation(
        toys("/succeed"),
        submit_until_accepted,
        Event.BATCH_ANSWERED,
        settings={**AT_ONCE, "tenant_limit": "1/3600"},
        asked=WITH_KEY,
    ),
    "two in the background, of which one may be open": Situation(
        toys("/succeed", "/succeed"), submit_two_until_accepted, settings={"tenant_max_open": 2}, asked=WITH_KEY
    ),
    "poison answered at once": Situation(
        toys("/kill"), submit_until_answered, Event.BATCH_SUSPECTED, settings=AT_ONCE, asked=WITH_KEY
    ),
    "failures retried": Situation(toys("/reject", "/break", "/succeed"), retry, Event.BATCH_RETRIED),
    "some failures retried at the same time": Situation(
        toys(*["/recover"] * 4, times=1, seconds=0.5),
        retry_some,
        Event.BATCH_RETRIED,
        settings={"chunk_operations": 4, "concurrency": 4},
    ),
    "looked at when it ends": Situation(
        toys("/succeed", "/reject", "/succeed", seconds=0),
        look_at_its_end,
        settings={"chunk_operations": 3, "min_chunks": 1, "bucket": BUCKET},
    ),
    "looked at when it ends, with a limit": Situation(
        toys("/reject", "/reject", "/succeed", seconds=0),
        look_at_its_end,
        settings={"chunk_operations": 3, "min_chunks": 1},
        asked={"max_failures": 0},
    ),
    "retried when it ends": Situation(
        toys("/recover", "/reject", "/succeed", times=1, seconds=0),
        retry_at_its_end,
        Event.BATCH_RETRIED,
        settings={"chunk_operations": 1},
        group_chunks=1,
    ),
    "a failure in the middle of a chain": Situation(
        referring(
            *linked(
                {1: (0,), 2: (1,), 3: (2,), 4: (1, 0)},
                *toys("/succeed"),
                *toys("/flaky", times=1),
                *toys("/reject", "/succeed", "/succeed"),
            )
        ),
        submit,
        Event.OPERATION_BROKE,
        settings={"chunk_operations": 6},
    ),
    "a chain whose consumer dies": Situation(
        referring(*linked({1: (0,), 2: (1,)}, *toys(*["/succeed"] * 4, seconds=2))),
        kill_its_consumer,
        Event.CHUNK_HALVED,
        settings={"chunk_operations": 4},
    ),
    "poison in a chain": Situation(
        linked({1: (0,), 2: (1,), 3: (0,)}, *toys("/succeed", "/kill-once", "/succeed", "/succeed")),
        submit,
        Event.CHUNK_HALVED,
        settings={"chunk_operations": 4},
        kills_by_itself=True,
    ),
    "a chain handed over": Situation(
        referring(*linked({1: (0,), 2: (1,), 3: (2,)}, *toys(*["/succeed"] * 4, seconds=0.4))),
        submit,
        Event.BATCH_HANDED_OVER,
        settings={**AT_ONCE, "chunk_operations": 4},
    ),
    "a chain with a failure retried": Situation(
        referring(*linked({1: (0,), 2: (1,)}, *toys("/recover", "/succeed", "/succeed", times=1))),
        retry,
        Event.BATCH_RETRIED,
        settings={"chunk_operations": 4},
    ),
    "linked failures of different chunks retried": Situation(
        linked({2: (0, 1)}, *toys("/recover", times=1), *toys("/break", "/succeed")),
        retry,
        Event.BATCH_RETRIED,
        settings={"chunk_operations": 4},
    ),
    "linked failures of different chunks, whose consumer dies": Situation(
        linked({2: (0, 1), 3: (0,)}, *toys("/recover", times=1, seconds=2), *toys("/break", "/succeed", "/succeed")),
        retry_in_a_suspect_batch,
        Event.CHUNK_HALVED,
        settings={"chunk_operations": 4},
    ),
    "a reference to nothing, retried": Situation(
        without_value(
            2, *referring(*linked({2: (1,)}, *toys("/recover", times=1, seconds=2), *toys(*["/succeed"] * 2)))
        ),
        retry_in_a_suspect_batch,
        Event.BATCH_RETRIED,
        settings={"chunk_operations": 4},
    ),
    "a reference to nothing, and to what is tried again": Situation(
        without_value(
            2, *referring(*linked({2: (1, 0)}, *toys("/succeed"), *toys("/flaky", times=1), *toys("/succeed")))
        ),
        submit,
        Event.OPERATION_BROKE,
        settings={"chunk_operations": 4},
    ),
    "references to what has succeeded since, retried": Situation(
        referring(*linked({2: (0, 1)}, *toys("/recover", times=1), *toys("/flaky", times=1), *toys("/succeed"))),
        retry,
        Event.BATCH_RETRIED,
        settings={"chunk_operations": 4},
    ),
    "references to what has succeeded since, whose consumer dies": Situation(
        referring(
            *linked(
                {2: (0, 1), 3: (1,)},
                *toys("/recover", times=1, seconds=2),
                *toys("/flaky", times=1),
                *toys("/succeed"),
                *toys("/recover", times=1),
            )
        ),
        retry_in_a_suspect_batch,
        Event.CHUNK_HALVED,
        settings={"chunk_operations": 4},
    ),
    "a group tried again": Situation(
        grouped(
            2,
            *referring(*linked({1: (0,), 2: (0,)}, *toys("/succeed"), *toys("/flaky", times=1), *toys("/succeed"))),
        ),
        submit,
        Event.OPERATION_BROKE,
        settings={"chunk_operations": 4},
        is_transactional=True,
    ),
    "a group that fails, retried": Situation(
        grouped(2, *linked({2: (1,)}, *toys("/succeed"), *toys("/recover", times=1), *toys("/succeed"))),
        retry,
        Event.BATCH_RETRIED,
        settings={"chunk_operations": 4},
        is_transactional=True,
    ),
    "a group whose consumer dies": Situation(
        grouped(2, *linked({2: (1,)}, *toys(*["/succeed"] * 4, seconds=2))),
        kill_its_consumer,
        Event.CHUNK_HALVED,
        settings={"chunk_operations": 4},
        is_transactional=True,
    ),
    "redrive told by webhooks": Situation(
        toys("/recover", times=1),
        redrive,
        Event.WEBHOOK_DELIVERED,
        settings={"webhook_secret": SECRET},
        asked={"callback_url": CALLBACK_URL},
    ),
    "failures redriven": Situation(toys("/recover", "/break", times=1), redrive, Event.DEAD_LETTERS_REDRIVEN),
    "failures redriven from the console": Situation(toys("/reject", "/break", "/succeed"), redrive_from_the_console),
    "an uploaded file": Situation(
        toys("/succeed", "/reject", "/succeed"), upload, Event.PLANNING_STARTED, FILE, AS_FILE, group_chunks=1
    ),
    "an uploaded file with a quota": Situation(
        toys("/succeed", "/succeed"),
        upload,
        Event.PLANNING_STARTED,
        {**FILE, "tenant_limit": "2/3600", "tenant_max_open": 2},
        AS_FILE,
        group_chunks=1,
    ),
    "an uploaded file with two equal ids": Situation(
        toys("/succeed", "/succeed", "/succeed"),
        upload,
        Event.PLANNING_FAILED,
        FILE,
        {**AS_FILE, "fault": 2},
        group_chunks=1,
    ),
    "an uploaded file that is cancelled": Situation(
        toys("/succeed", "/succeed", "/succeed", seconds=1),
        upload_and_cancel,
        Event.PLANNING_STARTED,
        FILE,
        AS_FILE,
        group_chunks=1,
    ),
    "a message that is not ours": Situation(toys("/succeed"), put_garbage, Event.MESSAGE_SET_ASIDE),
    "forged chunks": Situation(
        toys("/succeed", "/succeed", "/succeed", seconds=1), forge_chunks, Event.MESSAGE_SET_ASIDE
    ),
}
