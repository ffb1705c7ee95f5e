"""Plans a batch that is an uploaded file, from the beginning or from where another consumer has left it.

    step         what is done                                      after a crash at this step, another consumer
    -----------  ------------------------------------------------  --------------------------------------------
    take         the lease: usually one consumer works on a batch  takes it when it has ended
    validate     group by group: validate its operations, write    goes on after the last plan in the table. What
                 its plan if there is none, and continue from the  this one has planned of a group is lost, or is
                 plan that is in the table                         the plan
    compare      the ids and the keys of all groups                compares them again
    mark valid   from here on, the batch can only be accepted or   goes on
                 end by a cancellation, its deadline or a limit
    charge       the quotas, and count the operations as open      finds the same charge
    send         group by group, and note each in the batch        sends the group again: the same chunks
    accept       if the table shows that all groups are sent       accepts it, or finds it accepted

Nothing is right only because of the lease. Two planners at the same time write the same plans, since each plan is
written once and follows from the one before; they send the same chunks, and accept the same batch.
"""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

from penstock.backend import Backend
from penstock.batch import Batch, BatchState, Counts, Ending, failure_limit_of
from penstock.clock import Clock
from penstock.consumer.patience import patient
from penstock.consumer.planning.charging import Charging, NoRoom
from penstock.consumer.planning.duplicates import Duplicates
from penstock.consumer.planning.sending import GroupSender
from penstock.consumer.planning.validation import Validation, place_after
from penstock.consumer.sweeper import NOT_VALIDATED
from penstock.errors import Flaw, PenstockError, UploadReplaced
from penstock.metrics.meter import Meter
from penstock.operations import Operations
from penstock.planning import Errors, GroupPlan, PlannedFile, Planning
from penstock.reading.flaws import ENVELOPE, MOST_FLAWS
from penstock.reading.forms import FileForm
from penstock.running.stop import Stop
from penstock.settings import Settings
from penstock.telemetry import Event, get_log
from penstock.waiting import happens, under_lease
from penstock.webhooks.event import new_event

_NO_BUCKET = "PENSTOCK_BUCKET is not set for this consumer. Set it to the same bucket for all programs."
NOTE_SECONDS = 2.0  # how often the progress is written, at most
BEATS_IN_LEASE = 3
PLANS_IN_CALL = 50
FIRST_RATE = 20_000.0  # operations a second that are sent, until it is measured
LEAST_RATE = 2_000.0  # what was measured may include an outage. Then the messages would be delayed for too long
LONGEST_LEASE_SECONDS = 60.0


class Left(Enum):
    """Why the planner has stopped. The message that asked for the plan is acknowledged, or comes again."""

    DONE = auto()  # the batch is accepted or has ended, or another planner has it
    STOPPED = auto()  # the consumer is asked to stop


@dataclass(frozen=True, slots=True)
class Busy:
    """Another planner has the lease for so many seconds."""

    seconds: float


class _Lost(Exception):
    """Another planner has the lease, or the batch is not validating any more."""


class _Stopped(Exception):
    """The consumer is asked to stop."""


@dataclass(slots=True)
class _Work:
    """A batch that is planned. `plans` are those of all groups so far, without their places, to save memory."""

    batch: Batch
    file: PlannedFile
    planning: Planning
    plans: list[GroupPlan]
    last: GroupPlan | None = None  # with its place
    errors: Errors = field(default_factory=Errors)
    noted_at: float = float("-inf")

    def add(self, plan: GroupPlan) -> None:
        self.plans.append(replace(plan, end={}, errors=Errors()))
        self.last = plan
        self.errors = _joined(self.errors, plan.errors)

    @property
    def total(self) -> int:
        return 0 if self.last is None else self.last.first_index + self.last.total

    @property
    def is_read(self) -> bool:
        return self.last is not None and self.last.is_last

    @property
    def whole_batch(self) -> Batch:
        """Return the batch with what is known once the whole file was read."""
        batch, total = self.batch, self.total
        return replace(
            batch,
            total=total,
            chunk_count=sum(len(plan.sizes) for plan in self.plans),
            group_totals=tuple(plan.total for plan in self.plans if plan.total),
            has_own_ids=any(plan.has_own_ids for plan in self.plans),
            failure_limit=failure_limit_of(batch.max_failures, batch.max_failed_percent, total),
        )


class Planner:
    """`plan` works on one batch. Several calls may run at the same time."""

    def __init__(
        self,
        backend: Backend,
        operations: Operations[Any],
        settings: Settings,
        clock: Clock,
        *,
        stop: Stop,
        meter: Meter | None = None,
        process: str | None = None,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        """Create a planner. `process` identifies this process. `on_event` is called as the finisher calls it."""
        self._backend = backend
        self._operations = operations
        self._names = [route.name for route in operations.routes]
        self._settings = settings
        self._clock = clock
        self._stop = stop
        self._meter = meter or Meter()
        self._process = process or secrets.token_hex(8)
        self._on_event = on_event or (lambda _: None)
        self._store = patient(backend.store, clock)
        self._lease_seconds = min(float(settings.visibility_seconds), LONGEST_LEASE_SECONDS)

    async def plan(self, batch_id: str) -> Left | Busy:
        """Plan a batch. Return when it is accepted or has ended, or why this consumer does not go on."""
        planner, now = f"{self._process}-{secrets.token_hex(4)}", self._clock.now()
        batch = await self._store.take_planning(batch_id, planner, now, now + self._lease_seconds)
        if batch is None or batch.planning is None:
            return Left.DONE
        if batch.state is not BatchState.VALIDATING:
            await self._give_back(batch, batch.planning)
            if batch.events:  # a front end has ended the batch
                self._on_event(batch.id)
            return Left.DONE
        if batch.planning.planner != planner:
            return Busy(max(1.0, batch.planning.lease_until - now))
        if self._backend.bucket is None:
            get_log().error(Event.PLANNING_FAILED, batch_id=batch_id, reason=_NO_BUCKET)
            await self._store.leave_planning(batch_id, planner, now + self._lease_seconds)
            return Left.DONE
        file = await self._store.read_file(batch_id)
        assert file is not None, "the file is written before the batch"
        get_log().info(Event.PLANNING_STARTED, batch_id=batch_id, groups=batch.planning.groups)
        return await self._work_on(_Work(batch, file, batch.planning, []), planner)

    async def _give_back(self, batch: Batch, planning: Planning) -> None:
        """Give back what was charged for a batch that has ended, and was never accepted."""
        if not batch.was_never_accepted or not planning.is_valid:
            return
        file = await self._store.read_file(batch.id)
        if file is not None:
            await Charging(batch, file, planning.operations, self._store, self._clock).give_back()

    async def _work_on(self, work: _Work, planner: str) -> Left:
        batch_id = work.batch.id
        try:
            return await under_lease(self._go_on(work), self._keep_lease(work))
        except _Stopped:
            with suppress(PenstockError):  # then the lease ends by itself
                await self._backend.store.leave_planning(batch_id, planner, self._clock.now() + self._lease_seconds)
            return Left.STOPPED
        except _Lost:
            get_log().info(Event.PLANNING_STOPPED, batch_id=batch_id)
        except UploadReplaced as error:
            await self._fail_replaced(work, str(error))
        await self._give_back_if_ended(work)
        return Left.DONE

    async def _keep_lease(self, work: _Work) -> None:
        """Extend the lease until it is lost, or until the consumer is asked to stop. Then raise _Lost or _Stopped.

        It is extended also while the work waits because AWS does not answer.
        """
        planner = work.planning.planner or ""
        while True:
            await happens(self._stop.begun, self._lease_seconds / BEATS_IN_LEASE)
            if self._stop.begun.is_set():
                raise _Stopped
            until = self._clock.now() + self._lease_seconds
            due_at = self._due_at(work, until)
            with suppress(PenstockError):  # the next beat tries again
                if not await self._backend.store.extend_planning(work.batch.id, planner, until, due_at):
                    raise _Lost

    async def _go_on(self, work: _Work) -> Left:
        if work.planning.takes > self._settings.max_deaths:
            reason = f"More than {self._settings.max_deaths:,} consumers died while they read the file."
            await self._fail(work, Errors(), reason)
            await self._give_back_if_ended(work)
            return Left.DONE
        if self._clock.now() > work.batch.deadline_at:
            await self._end(work.batch, BatchState.EXPIRED, NOT_VALIDATED, Ending.EXPIRED)
            return Left.DONE
        await self._read_plans(work)
        if not work.planning.is_valid and not await self._validate(work):
            return Left.DONE
        charging = Charging(work.batch, work.file, work.total, self._store, self._clock)
        rejected = await charging.charge()
        if rejected is not None:
            return await self._wait_for_room(work, charging, rejected)
        if not await self._is_validating(work):  # another planner has accepted it meanwhile, and settled its charge
            await charging.take_back()
            raise _Lost
        await self._send(work)
        return await self._accept(work, charging)

    async def _is_validating(self, work: _Work) -> bool:
        batch = await self._store.read_batch(work.batch.id)
        return batch is not None and batch.state is BatchState.VALIDATING

    async def _read_plans(self, work: _Work) -> None:
        """Read the plans of all groups that have one."""
        while True:
            first = len(work.plans)
            found = await self._store.read_plans(work.batch.id, range(first, first + PLANS_IN_CALL))
            for number in range(first, first + PLANS_IN_CALL):
                if number not in found:
                    return
                work.add(found[number])

    async def _validate(self, work: _Work) -> bool:
        """Validate the file from the last plan on. Return False if it is invalid, and end the batch."""
        turn = self._turn(work)
        bucket = patient(self._backend.require_bucket(), self._clock)
        validation = Validation(work.batch, work.file, bucket, self._operations, self._settings, turn=turn)
        while not work.is_read:
            await turn(*_progress_of(work))
            known = await self._store.read_handler_seconds(self._names)
            made = await validation.plan(work.last, work.errors, known)
            work.add(await self._store.write_plan(work.batch, made))
            read_bytes, operations = _progress_of(work)
            await self._note(work, groups=len(work.plans), read_bytes=read_bytes, operations=operations)
        if not work.errors.count:
            duplicates = Duplicates(work.batch, work.file, bucket, self._store, self._settings, turn=turn)
            work.errors = await duplicates.find(work.plans)
        if work.errors.count:
            await self._fail(work, work.errors)
            return False
        layout = FileForm.from_json(work.file.form).layout(place_after(work.last))
        if layout is not None:
            await self._store.write_layout(work.batch, layout)
        groups = len(work.whole_batch.group_totals)
        await self._note(work, is_valid=True, groups=groups, operations=work.total)
        return True

    async def _send(self, work: _Work) -> None:
        """Send the groups that are not known to be on the queue."""
        batch, turn = work.whole_batch, self._turn(work, is_sending=True)
        sender = GroupSender(
            batch,
            work.file,
            self._backend,
            operations=self._operations,
            settings=self._settings,
            clock=self._clock,
            turn=turn,
        )
        started_at, sent_before = self._clock.monotonic(), work.planning.sent_operations
        for number in range(work.planning.sent_groups, len(batch.group_totals)):
            await turn(0, 0)
            numbers = [number] if number == 0 else [number - 1, number]
            plans = await self._store.read_plans(batch.id, numbers)
            sent, seconds = work.planning.sent_operations, self._clock.monotonic() - started_at
            rate = (sent - sent_before) / seconds if seconds > 1 and sent > sent_before else FIRST_RATE
            left = (work.total - sent) / max(rate, LEAST_RATE)
            await sender.send(plans[number], plans.get(number - 1), seconds_left=left)
            await self._note(work, sent_groups=number + 1, sent_operations=sent + plans[number].total)

    async def _accept(self, work: _Work, charging: Charging) -> Left:
        batch = work.whole_batch
        if not await self._store.accept_planned(batch, self._clock.now()):
            raise _Lost
        self._meter.accepted(batch.tenant, batch.total)
        get_log().info(
            Event.BATCH_ACCEPTED,
            batch_id=batch.id,
            tenant=batch.tenant,
            total=batch.total,
            chunks=batch.chunk_count,
        )
        await charging.settle()
        return Left.DONE

    async def _wait_for_room(self, work: _Work, charging: Charging, rejected: NoRoom) -> Left:
        """Leave a batch whose operations a limit does not allow now, or end it if it never will."""
        await charging.give_back()
        if rejected.seconds is None:
            await self._fail(work, Errors(), rejected.detail)
            return Left.DONE
        planner, seconds = work.planning.planner, min(rejected.seconds, LONGEST_LEASE_SECONDS)
        due_at, reason = self._clock.now() + seconds, f"{rejected.detail} The batch waits until they are allowed."
        await self._store.leave_planning(work.batch.id, planner or "", due_at, reason)
        return Left.DONE  # a sweep goes on with it

    async def _give_back_if_ended(self, work: _Work) -> None:
        batch = await self._store.read_batch(work.batch.id)
        if batch is not None:
            await self._give_back(batch, work.planning)

    async def _fail_replaced(self, work: _Work, reason: str) -> None:
        """End a batch whose file cannot be read any more. If its errors are in the table already, these are the reason.

        A front end that knows the errors of a file writes them with a wrong ETag, and may die before it ends the batch.
        """
        known = await self._store.read_errors(work.batch.id)
        if known is not None:
            await self._fail(work, known)
        else:
            await self._fail(work, Errors(1, flaws=[(ENVELOPE, Flaw("", reason))]), reason)

    async def _fail(self, work: _Work, errors: Errors, reason: str | None = None) -> None:
        if errors.count:
            await self._store.write_errors(work.batch, errors)
        reason = reason or errors.sentence
        get_log().warning(Event.PLANNING_FAILED, batch_id=work.batch.id, reason=reason)
        await self._end(work.batch, BatchState.FAILED, reason, errors=errors.count)

    async def _end(
        self, batch: Batch, state: BatchState, reason: str, ending: Ending | None = None, *, errors: int = 0
    ) -> None:
        now = self._clock.now()
        event = new_event(batch, state, Counts(), now)
        ended = await self._store.end_planning(batch.id, state, now, reason, ending=ending, errors=errors, event=event)
        if ended and event is not None:
            self._on_event(batch.id)

    def _turn(self, work: _Work, *, is_sending: bool = False) -> Callable[[int, int], Any]:
        """Return what lets other tasks run, and writes the progress from time to time."""

        async def turn(read_bytes: int, operations: int) -> None:
            await asyncio.sleep(0)
            if self._stop.begun.is_set():
                raise _Stopped
            if self._clock.monotonic() - work.noted_at >= NOTE_SECONDS:
                if is_sending:
                    await self._note(work)
                else:
                    await self._note(work, read_bytes=read_bytes, operations=operations)

        return turn

    async def _note(self, work: _Work, **changes: Any) -> None:
        """Write the progress and extend the lease. Raise _Lost if another planner has it, or if the batch has ended."""
        until = self._clock.now() + self._lease_seconds
        work.noted_at = self._clock.monotonic()
        is_progress = {"groups", "is_valid", "sent_groups"} & changes.keys()
        takes = 0 if is_progress else work.planning.takes
        work.planning = replace(work.planning, lease_until=until, takes=takes, **changes)
        if not await self._store.note_planning(work.batch.id, work.planning, self._due_at(work, until)):
            raise _Lost

    def _due_at(self, work: _Work, until: float) -> float:
        """Return when a sweep looks at a batch whose lease ends at `until`."""
        return min(until + self._settings.sweep_seconds, work.batch.deadline_at)


def _progress_of(work: _Work) -> tuple[int, int]:
    """Return the byte and the operation up to which the file is planned."""
    return place_after(work.last)["byte"], work.total


def _joined(errors: Errors, more: Errors) -> Errors:
    """Return the errors of a file so far, with those of its next group."""
    if not more.count and more.is_complete:
        return errors
    return Errors(
        errors.count + more.count,
        errors.is_complete and more.is_complete,
        errors.invalid_bytes + more.invalid_bytes,
        sorted([*errors.flaws, *more.flaws], key=lambda one: one[0])[:MOST_FLAWS],
    )
