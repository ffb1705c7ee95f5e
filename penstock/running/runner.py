"""Runs handlers within the slots of the process, on the event loop, in a thread, or in another process."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeVar

import structlog

from penstock.chunk import Chunk, Operation, references_of
from penstock.clock import Clock
from penstock.context import NoTransaction
from penstock.dependencies import is_group, units
from penstock.metrics.meter import UNKNOWN_HANDLER, Meter
from penstock.operations import Operations
from penstock.outcome import (
    SUCCEEDED,
    Outcome,
    Verdict,
    Verdicts,
    failed,
    is_final,
    note_results,
    unresolved_outcome,
)
from penstock.priority import DEFAULT_WEIGHTS, Priority
from penstock.references import Results, Unresolved
from penstock.route import InvalidOperation, Place, Route
from penstock.running.atomic_group import AtomicGroup, transaction_broke
from penstock.running.attempt import Attempt, OpenTransaction, ends_task, prepare
from penstock.running.bulk import CallFailed, Lot, neighbours, one_by_one, together
from penstock.running.chunk_run import ChunkRun, Performer
from penstock.running.cpu_pool import CpuPool, Job, count_cores
from penstock.running.direct import DirectCalls
from penstock.running.in_order import run_in_order
from penstock.running.joining import gather, join
from penstock.running.left_behind import LeftTasks, Worker, end_soon
from penstock.running.limit_gate import LimitGate
from penstock.running.limit_gates import LimitGates, noting
from penstock.running.limit_line import Line, PostponedChunk
from penstock.running.observer import Observer
from penstock.running.result_memory import ChunkResults, ResultMemory
from penstock.running.slots import Room, Slots, Turn, TurnWithRoom
from penstock.running.source import Source, Urgency
from penstock.running.stop import Stop
from penstock.running.threads import Threads
from penstock.running.time_slice import Performing, Slice
from penstock.running.verdict import TimedOut, cancelled_itself, invalid
from penstock.telemetry import Event, get_log

T = TypeVar("T")


@dataclass(slots=True)
class Spent:
    """The time that handlers took: `count` attempts took `seconds` together."""

    count: int = 0
    seconds: float = 0.0


class Runner:
    """Runs operations. There is one in each process, and its slots limit how many handlers run together.

    `run` and `run_apart` perform one attempt. The caller holds a `slot` for it, and a `token` before that, or it has
    waited in one of its `turns`. `run_chunk` takes both by itself.
    Operations run as *lots*: those that a bulk handler performs in one call, and each other operation as a lot of one.
    Call `close` at the end.
    """

    def __init__(
        self,
        operations: Operations[Any],
        concurrency: int,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        meter: Meter | None = None,
        observer: Observer | None = None,
        weights: Mapping[Priority, int] = DEFAULT_WEIGHTS,
        cpu_processes: int | None = None,
        shows_errors: bool = True,
        tenants_share: bool = False,
        limits: LimitGates | None = None,
    ) -> None:
        """Raise Misconfigured if a `cpu_bound` handler cannot be imported in another process.

        With `tenants_share`, no tenant can hold all slots, threads or processes; see `slots.py`.
        `limits` has the gates for operations that have a limit. Without it, nothing is limited.
        Without `shows_errors`, the words of an unexpected exception are only in the log. The verdict has their id.
        """
        self._operations = operations
        self._monotonic = monotonic
        self._meter = meter or Meter()
        self._observer = observer
        self._shows_errors = shows_errors
        self._limits = limits
        self._spent: defaultdict[str, Spent] = defaultdict(Spent)
        self._groups: dict[int, AtomicGroup] = {}  # that run, by the `id` of their lot
        self.result_memory = ResultMemory()
        self._slots = Slots(concurrency, weights, monotonic, tenants_share=tenants_share, memory=self.result_memory)
        self._left = LeftTasks(self._slots)
        self._threads = Threads(concurrency, weights, monotonic, tenants_share=tenants_share)
        processes = cpu_processes or count_cores()
        self._cpu = CpuPool(processes, operations.routes, weights, monotonic, tenants_share=tenants_share)
        self._rooms: dict[Place, Room] = {Place.THREAD: self._threads, Place.PROCESS: self._cpu}
        self._performers: dict[Place, Callable[[Attempt, OpenTransaction | None], Awaitable[list[Any]]]] = {
            Place.LOOP: self._perform_on_loop,
            Place.THREAD: self._perform_in_thread,
            Place.PROCESS: self._perform_in_process,
        }

    async def run_chunk(
        self,
        chunk: Chunk,
        source: Source,
        stop: Stop,
        ended: Callable[[int], None],
        *,
        results: ChunkResults | None = None,
        may_begin: Callable[[], bool] = lambda: True,
        took: Callable[[int, float], None] = lambda _count, _seconds: None,
        postponed: Callable[[int, float], None] = lambda _index, _seconds: None,
        has_slot: bool = False,
        urgency: Urgency | None = None,
    ) -> dict[int, Verdict]:
        """Run a chunk's operations, each as soon as a slot is free. Return the verdicts by index.

        An operation without a verdict did not run, or was cut short. `ended` is called with the numbers of
        operations that have ended: with each operation once, and at the latest before other tasks run.
        `results` counts the memory that the verdicts take; without it, their memory has no limit.
        `may_begin` is called whenever there is a slot: if it returns False, nothing more of the chunk starts. `took` is
        called after each slice of a slot, with the number of operations that have run in it and the seconds that they
        took. `postponed` is called with the index and the delay of each operation that did not start because its limit
        allows nothing for some time. With `has_slot` the caller already holds the slot, for a chunk of a single
        operation. `urgency` tells if the priority changes.
        """
        counted = results or ChunkResults(ResultMemory())
        has_links = chunk.has_links

        def new_run(
            source: Source,
            turn: Turn | TurnWithRoom | Line | None,
            gates: Sequence[LimitGate],
            number: int,
            place: Place = Place.LOOP,
        ) -> ChunkRun:
            is_direct = place is Place.LOOP and not has_links
            perform, end_slice = self._performing(source, number, counted, is_direct=is_direct)
            performer = Performer(
                perform=_noting_at(gates, perform) if gates else perform,
                end_slice=end_slice,
                cancelled_itself=self._cancelled_itself,
                timed_out=lambda lot: self._timed_out(lot, source, number),
                leave=lambda lot, worker: self._leave(lot, source, worker, has_slot=has_slot),
            )
            return ChunkRun(
                performer,
                turn,
                self._monotonic,
                results=counted,
                stop=stop,
                ended=ended,
                may_begin=may_begin,
                took=took,
                postponed=postponed,
            )

        if has_slot:
            gates = self._gates_passed(self._limit_of(chunk.operations[0]), source)
            number = chunk.attempts()[chunk.operations[0].index] if chunk.behind else chunk.attempt
            lots = units(chunk.operations)
            try:
                return await new_run(source, None, gates, number).carry_out(lots)
            finally:
                self._forget_groups(lots)

        async def carry_out(run: ChunkRun, place: Place, lots: list[Lot]) -> dict[int, Verdict]:
            def move(priority: Priority) -> None:
                run.move(self._turn(place, replace(source, priority=priority)))

            with nullcontext() if urgency is None else urgency.followed_by(move):
                return await run.carry_out(lots)

        async def run_part(number: int, place: Place, limit: str | None, lots: list[Lot]) -> dict[int, Verdict]:
            # The parts of a chunk with links start one after the other, and the priority may have changed by now.
            now = source if urgency is None else replace(source, priority=urgency.priority)
            gates, turn = self._gates(limit, now), self._turn(place, now)
            if not gates:
                return await carry_out(new_run(now, turn, gates, number, place), place, lots)
            with _line(gates, turn, sum(map(len, lots))) as line:
                return await carry_out(new_run(now, line, gates, number, place), place, lots)

        async def run_all(number: int, operations: Sequence[Operation]) -> dict[int, Verdict]:
            return await join([run_part(number, *part) for part in self._sort(operations)])

        async def run_groups(number: int, groups: Sequence[Lot]) -> dict[int, Verdict]:
            try:
                return await join([run_part(number, *part) for part in self._sort_groups(groups)])
            finally:
                self._forget_groups(groups)

        if has_links:
            return await run_in_order(chunk, run_all, run_groups, ended, most_at_once=self._slots.count)
        return await run_all(chunk.attempt, chunk.operations)

    @cached_property
    def _has_limits(self) -> bool:
        """Return True if a handler has a limit. The application may register handlers until the first batch runs."""
        return self._limits is not None and any(route.policy.limit is not None for route in self._operations.routes)

    def _limit_of(self, operation: Operation) -> str | None:
        route = self._route(operation)
        return None if route is None else route.policy.limit

    def _gates(self, limit: str | None, source: Source) -> list[LimitGate]:
        """Return the gates that operations must pass, the first one first.

        The gate of the batch comes first. Otherwise what waits there would hold permits that other batches could use.
        """
        gates: list[LimitGate] = []
        if self._limits is not None and source.concurrency is not None:
            gates.append(self._limits.gate_of_batch(source.batch_id, source.concurrency))
        if self._limits is not None and limit is not None:
            gates.append(self._limits.gate(limit))
        return gates

    def _gates_passed(self, limit: str | None, source: Source) -> list[LimitGate]:
        """Return the gates that an operation with a slot has passed.

        It has passed none of its batch if the batch got its concurrency after that.
        """
        has_gate = self._limits is not None and self._limits.has_gate_of_batch(source.batch_id)
        return self._gates(limit, source if has_gate else replace(source, concurrency=None))

    def limit_batch(self, batch_id: str, concurrency: int | None) -> None:
        """Follow a change of how many operations of a batch may run at the same time."""
        if self._limits is not None:
            self._limits.limit_batch(batch_id, concurrency)

    def waiting_for_tokens(self) -> Counter[Priority]:
        """Return how many operations wait because of a limit of the fleet, by priority. They need no slot yet."""
        return Counter() if self._limits is None else self._limits.waiting()

    def _performing(
        self, source: Source, number: int, results: ChunkResults, *, is_direct: bool
    ) -> tuple[Callable[[Slice], Performing | None], Callable[[], None]]:
        """Return the function that performs the lots of a chunk, and the one to call after each slice of time.

        With `is_direct`, handlers are called directly if nothing surrounds them.
        """
        operations = self._operations
        has_more = operations.transaction is not None or operations.surroundings.middleware
        if self._observer is not None or has_more or not is_direct:

            def perform(slice_: Slice) -> Performing:
                slice_.lot = lot = slice_.pending.popleft()
                return self.run(lot, source, number, worker=slice_.worker, results=results)

            return perform, lambda: None
        calls = DirectCalls(
            operations.match,
            lambda lot, worker, route: self.run(lot, source, number, worker=worker, results=results, route=route),
            source,
            number,
            monotonic=self._monotonic,
            results=results,
            shows_errors=self._shows_errors,
            succeeded=self._note_quick_calls,
            called=partial(self._note_call, number),
            rejected=lambda _: self._meter.failed(UNKNOWN_HANDLER, None),
        )
        return calls.perform, calls.end_slice

    def _sort(self, operations: Sequence[Operation]) -> list[tuple[Place, str | None, list[Lot]]]:
        """Group operations into lots, and these by the place where they run and by their limit.

        Bulk calls do not share a group with single operations: the operations of a failed call wait until all lots of
        their group have ended, and need not wait for single operations.
        """
        if all(
            route.place is Place.LOOP and not route.is_bulk and route.policy.limit is None
            for route in self._operations.routes
        ):
            return [(Place.LOOP, None, one_by_one(operations))]
        parts: dict[tuple[Place, str | None, bool], list[Lot]] = {}
        bulk: list[tuple[Route | None, Operation]] = []
        for operation in operations:
            route = self._route(operation)
            if route is not None and route.is_bulk:
                bulk.append((route, operation))
            else:
                place, limit = (route.place, route.policy.limit) if route else (Place.LOOP, None)
                parts.setdefault((place, limit, False), []).append((operation,))
        for lot in together(bulk):
            parts.setdefault((self.place_of(lot[0]), self._limit_of(lot[0]), len(lot) > 1), []).append(lot)
        return [(place, limit, lots) for (place, limit, _), lots in parts.items()]

    def _sort_groups(self, groups: Sequence[Lot]) -> list[tuple[Place, str | None, list[Lot]]]:
        """Sort atomic groups by their limit. All operations of a group have the same one, and run on the event loop."""
        parts: dict[str | None, list[Lot]] = {}
        for group in groups:
            parts.setdefault(self._limit_of(group[0]), []).append(group)
        return [(Place.LOOP, limit, lots) for limit, lots in parts.items()]

    def lots(self, operations: Iterable[Operation], *, in_order: bool = False) -> list[Lot]:
        """Group operations into lots. With `in_order` only neighbours share a lot, so their order is kept."""
        pairs = [(self._route(operation), operation) for operation in operations]
        return neighbours(pairs) if in_order else together(pairs)

    def _route(self, operation: Operation) -> Route | None:
        try:
            return self._operations.match(operation.method, operation.path)
        except InvalidOperation:
            return None

    def place_of(self, operation: Operation) -> Place:
        """Return where the operation's handler runs. An operation without a handler fails on the event loop."""
        route = self._route(operation)
        return route.place if route else Place.LOOP

    def _turn(self, place: Place, source: Source) -> Turn | TurnWithRoom:
        turn = Turn(self._slots, source.priority, source.tenant)
        room = self._rooms.get(place)
        return turn if room is None else TurnWithRoom(room, turn)

    @asynccontextmanager
    async def token(
        self, operation: Operation, source: Source, *, may_be_postponed: bool
    ) -> AsyncIterator[Callable[[], None]]:
        """Hold a token and a permit for an operation, if it has a limit. Take them before the operation's slot.

        Yield a function that gives the token back, for a caller that starts nothing. Raise PostponedChunk if no token
        comes soon and the operation may be postponed.
        """
        gates = self._gates(self._limit_of(operation), source)
        async with AsyncExitStack() as stack:
            taken: list[Callable[[], None]] = []

            def give_back() -> None:
                for give_back_one in taken:
                    give_back_one()

            try:
                for gate in gates:
                    token = self._token(gate, operation, source, may_be_postponed=may_be_postponed)
                    taken.append(await stack.enter_async_context(token))
            except (asyncio.CancelledError, PostponedChunk):
                give_back()
                raise
            yield give_back

    @asynccontextmanager
    async def _token(
        self, gate: LimitGate, operation: Operation, source: Source, *, may_be_postponed: bool
    ) -> AsyncIterator[Callable[[], None]]:
        turn = self._turn(self.place_of(operation), source)
        with gate.line(turn, 1, may_be_postponed=may_be_postponed) as line:
            await gate.take(line)
        try:
            yield lambda: gate.give_back(line)
        finally:
            gate.end()

    @contextmanager
    def turns(
        self, operations: Sequence[Operation], source: Source, *, may_be_postponed: bool
    ) -> Iterator[Callable[[Operation], Turn | TurnWithRoom | Line]]:
        """Yield a function that returns the turn of each of these operations.

        In its turn an operation waits for a slot. If it has a limit, it waits for a token before that.
        """
        lines: dict[tuple[Place, str | None], Line | None] = {}

        def stand_in_line(place: Place, limit: str | None, count: int) -> None:
            gates = self._gates(limit, source)
            line = _line(gates, self._turn(place, source), count, may_be_postponed=may_be_postponed) if gates else None
            lines[place, limit] = None if line is None else stack.enter_context(line)

        def turn_of(operation: Operation) -> Turn | TurnWithRoom | Line:
            place, limit = self._place_and_limit(operation) if self._has_limits else (self.place_of(operation), None)
            if self._has_limits and (place, limit) not in lines:  # its path was open, and leads to another handler now
                stand_in_line(place, limit, 1)
            return lines.get((place, limit)) or self._turn(place, source)

        with ExitStack() as stack:
            if self._has_limits:
                for (place, limit), count in Counter(map(self._place_and_limit, operations)).items():
                    stand_in_line(place, limit, count)
            yield turn_of

    def _place_and_limit(self, operation: Operation) -> tuple[Place, str | None]:
        route = self._route(operation)
        return (route.place, route.policy.limit) if route else (Place.LOOP, None)

    @asynccontextmanager
    async def slot(self, operation: Operation, source: Source) -> AsyncIterator[None]:
        """Hold a slot for an operation, or for the lot that starts with it."""
        turn = self._turn(self.place_of(operation), source)
        await turn.acquire()
        try:
            yield
        finally:
            turn.release()

    @asynccontextmanager
    async def all_slots(self, operation: Operation, source: Source) -> AsyncIterator[None]:
        """Hold all slots, for an operation that must run alone. Then no thread that was left behind is running either.

        Nothing else can start while a caller waits for this. Only one caller may do so: two would wait for each other
        for ever.
        """
        room = self._rooms.get(self.place_of(operation))
        async with _held(room, source) if room is not None else nullcontext(), self._slots.all():
            await self._threads.quiet()
            yield

    def take_spent(self) -> dict[str, Spent]:
        """Return the time that each handler took since the last call of this, by the handler's name."""
        spent, self._spent = self._spent, defaultdict(Spent)
        return spent

    @property
    def trouble(self) -> str | None:
        """Return why no handler can run in this process, or None if handlers can run."""
        if self._left.hold_all_slots:
            return "Handlers that ignore their cancellation hold all slots."
        if self._threads.are_all_left:
            return "Handlers that do not return occupy all threads."
        return None

    async def watch(self, stall_seconds: float, clock: Clock) -> None:
        """Run until cancelled. Raise HandlersStuck if handlers left behind block all others for `stall_seconds`.

        Raise the error of the gate of a limit if it has failed.
        """
        watching = [self._threads.watch(stall_seconds, clock), self._left.watch(stall_seconds, clock)]
        if self._limits is not None:
            watching.append(self._limits.watch())
        await gather(watching)

    def let_go(self) -> None:
        """Wake up everybody who waits for a slot or a thread that was left behind. The stop must have begun."""
        self._threads.let_go()
        self._slots.lift()
        if self._limits is not None:
            self._limits.let_go()

    async def close(self) -> None:
        """End the processes. Threads and tasks that were left behind end with this process."""
        self._threads.close()
        if self._limits is not None:
            await self._limits.close()
        await self._cpu.close()

    async def run_apart(
        self,
        lot: Lot,
        source: Source,
        attempt: int,
        transaction: OpenTransaction | None = None,
    ) -> dict[int, Verdict]:
        """Perform one attempt at a lot in a task of its own, and return the verdicts by index.

        So a handler that cancels its task does not cancel the caller. And a handler that does not end although it was
        cancelled is left behind, and takes a slot with it. Otherwise this does what `run` does.
        """
        try:
            return await self._run_in_task(lot, source, attempt, transaction)
        finally:
            self._forget_groups([lot])

    async def _run_in_task(
        self, lot: Lot, source: Source, attempt: int, transaction: OpenTransaction | None
    ) -> dict[int, Verdict]:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def end(_task: object = None) -> None:
            if not ended.done():
                ended.set_result(None)

        worker = Worker(overdue=end)
        run = partial(self.run, lot, source, attempt, transaction, worker=worker)
        worker.task = task = asyncio.create_task(_none_if_failed(run))
        task.add_done_callback(end)
        try:
            await ended
        except asyncio.CancelledError:
            task.cancel()
            if not await end_soon([task]):
                self._leave(lot, source, worker, has_slot=True)
                raise
            return _verdicts_of(task)
        if not task.done():
            self._leave(lot, source, worker, has_slot=True)
            return self._timed_out(lot, source, attempt)
        return self._cancelled_itself(lot) if task.cancelled() else _verdicts_of(task)

    def run(
        self,
        lot: Lot,
        source: Source,
        attempt: int,
        transaction: OpenTransaction | None = None,
        *,
        worker: Worker | None = None,
        results: ChunkResults | None = None,
        route: Route | None = None,
    ) -> Coroutine[Any, Any, dict[int, Verdict]]:
        """Perform one attempt at a lot, in one call of its handler. Return the verdicts by index.

        The attempt runs in the transaction that `transaction` opens, by default in one of its own. It is left by an
        exception unless the attempt succeeded. This takes no slot by itself. Raise CallFailed if there are several
        operations and the call told nothing about each of them: then run them one by one. `worker` is the task that
        awaits this, by default the current one. `results` counts the memory that the verdicts take. `route` is the
        route of the lot, if the caller knows it.
        """
        if is_group(lot):
            return self._run_group(lot, source, attempt, worker, results=results)
        run = self._run if self._observer is None else self._run_observed
        return run(lot, source, attempt, transaction, worker, results=results, route=route)

    async def _run_group(
        self,
        lot: Lot,
        source: Source,
        number: int,
        worker: Worker | None,
        *,
        results: ChunkResults | None,
    ) -> dict[int, Verdict]:
        worker = worker or Worker.current()
        run = self._run if self._observer is None else self._run_observed
        group = AtomicGroup(lot, number, worker)
        self._groups[id(lot)] = group

        def perform_one(operation: Operation, transaction: OpenTransaction) -> Awaitable[Verdicts]:
            return run((operation,), source, number, transaction, worker, results=results, route=None, group=group)

        try:
            if (unable := self._find_unable(lot)) is not None:
                return group.stop_at(*unable)
            policy = self._operations.match(lot[0].method, lot[0].path).policy
            assert self._operations.transaction is not None
            known = Results(lot)
            verdicts = await group.perform(
                self._operations.transaction,
                perform_one,
                seconds=policy.timeout_seconds,
                broke=lambda error: transaction_broke(lot[0], source, number, error, policy.max_attempts),
                prepare=partial(self._prepare_member, known, policy.limit),
                note=partial(note_results, known),
            )
            self._count_group(group, verdicts)
            return verdicts
        finally:
            # After a cancellation or a time-out somebody may ask the group which of its operations was running.
            if not worker.is_left and not worker.task.cancelling():
                self._groups.pop(id(lot), None)

    def _prepare_member(self, known: Results, limit: str | None, operation: Operation) -> Operation | Outcome:
        """Return an operation of a group with its path, or its failure if it cannot be part of the group.

        `limit` is the limit that the group has waited for.
        """
        if not references_of(operation):
            return operation
        try:
            prepared = known.resolve(operation)
            route = self._operations.match(prepared.method, prepared.path)
        except Unresolved as error:
            return unresolved_outcome(operation, error)
        except InvalidOperation as error:
            return invalid(prepared, error)
        if not route.has_transaction:
            detail = f"{route.name} does not run in the transaction, so it could not be rolled back with its group."
            return failed(prepared, 422, "Invalid operation", detail, rejected=True)
        if route.policy.limit != limit:
            detail = f"{route.name} has another limit than its group. The operations of a group must have the same one."
            return failed(prepared, 422, "Invalid operation", detail, rejected=True)
        return prepared

    def _find_unable(self, lot: Lot) -> tuple[Operation, Outcome] | None:
        """Return an operation of a group that cannot run in a transaction any more, because the application changed."""
        for operation in lot:
            route = self._route(operation)
            if route is None:
                return operation, failed(operation, 404, "Unknown operation", "The application has no such operation.")
            if self._operations.transaction is None or not route.has_transaction:
                detail = f"{route.name} does not run in the transaction any more, and is in a group."
                return operation, failed(operation, 500, "Misconfigured", detail)
        return None

    async def _run_observed(
        self,
        lot: Lot,
        source: Source,
        number: int,
        transaction: OpenTransaction | None,
        worker: Worker | None,
        *,
        results: ChunkResults | None,
        route: Route | None,
        group: AtomicGroup | None = None,
    ) -> dict[int, Verdict]:
        assert self._observer is not None
        route = route or self._route(lot[0])
        handler = lot[0].method if route is None else route.name  # not the path of an unknown one: names must be few
        with self._observer.attempting(handler, source.batch_id, lot, number) as observation:
            run = self._run(lot, source, number, transaction, worker, results=results, route=route, group=group)
            verdicts = await run
            observation.end(verdicts)
        return verdicts

    async def _run(
        self,
        lot: Lot,
        source: Source,
        number: int,
        transaction: OpenTransaction | None,
        worker: Worker | None,
        *,
        results: ChunkResults | None,
        route: Route | None,
        group: AtomicGroup | None = None,
    ) -> dict[int, Verdict]:
        worker = worker or Worker.current()
        if any(map(references_of, lot)):
            return self._count_invalid(_refuse_open(lot))
        try:
            route = route or self._operations.match(lot[0].method, lot[0].path)
        except InvalidOperation as error:
            return self._count_invalid({operation.index: invalid(operation, error) for operation in lot})
        attempt = prepare(route, lot, source, number, worker, shows_errors=self._shows_errors)
        expects_much = results is not None and results.memory.expects_much(route.name)
        if results is not None and expects_much:
            results.memory.start(route.name, len(lot), worker)
        try:
            outcomes = await self._perform(attempt, transaction) if attempt.rows else []
            if worker.is_left:
                return {}  # the attempt has its verdict, and is counted
            verdicts = attempt.judge(outcomes)
            if group is None:
                self._count(attempt, verdicts)
            else:
                group.note_run(attempt)
            if results is not None and (size := results.memory.learn(route.name, verdicts)):
                results.add(size)  # before the reservation ends, so that no other operation gets this memory
        finally:
            if results is not None and expects_much:
                results.memory.end(worker)
        return self._count_invalid(attempt.invalid) | verdicts if attempt.invalid else verdicts

    async def _perform(self, attempt: Attempt, transaction: OpenTransaction | None) -> Sequence[Any]:
        """Return an outcome for each row: a result, an exception, or a verdict. Raise CallFailed."""
        perform = self._performers[attempt.route.place]
        try:
            return await perform(attempt, self._open(attempt.route, transaction))
        except BaseException as error:
            # KeyboardInterrupt and SystemExit too: a real Ctrl-C arrives through a signal handler of the event loop.
            if ends_task(error, attempt.worker.task):
                raise
            return attempt.share(error)
        finally:
            if attempt.seconds is not None and not attempt.worker.is_left:
                self._note_spent(attempt.route, attempt.count, attempt.seconds)

    def _perform_on_loop(self, attempt: Attempt, transaction: OpenTransaction | None) -> Awaitable[list[Any]]:
        return attempt.within_limits(transaction, attempt.call_on_loop, self._monotonic)

    def _perform_in_thread(self, attempt: Attempt, transaction: OpenTransaction | None) -> Awaitable[list[Any]]:
        def run(function: Callable[[], T]) -> Coroutine[Any, Any, T]:
            return self._threads.run(function, attempt.source.priority, attempt.source.tenant)

        def call(opened: Any) -> Coroutine[Any, Any, list[Any]]:
            if attempt.has_middleware:
                return attempt.call_within_middleware(opened, lambda: run(lambda: attempt.call(opened)))
            return run(lambda: attempt.call_in_thread(opened))

        return attempt.within_limits(transaction, call, self._monotonic)

    async def _perform_in_process(self, attempt: Attempt, transaction: OpenTransaction | None) -> list[Any]:
        job = self._job(attempt)
        async with self._cpu.worker(attempt.route) as worker:

            def perform(opened: Any) -> Coroutine[Any, Any, Verdict | InvalidOperation]:
                if attempt.has_middleware:
                    return attempt.ask_within_middleware(opened, lambda: worker.perform(job))
                return worker.perform(job)

            answer = await attempt.within_limits(transaction, perform, self._monotonic)
        if isinstance(answer, InvalidOperation):
            attempt.reject_as_invalid(answer)
            return []
        return [answer]

    def _job(self, attempt: Attempt) -> Job:
        [(operation, _)] = attempt.rows
        return Job(
            attempt.route.name,
            operation,
            attempt.source.batch_id,
            attempt.number,
            attempt.source.key_of(operation),
            has_transaction=self._operations.transaction is not None,
            has_state=self._operations.state is not None,
            fields=_log_fields(),
            headers=dict(attempt.source.headers),
            tenant=attempt.source.tenant,
            error_id=attempt.error_id(operation),
        )

    def _open(self, route: Route, transaction: OpenTransaction | None) -> OpenTransaction | None:
        """Return the function that opens the transaction, if any. Only handlers on the event loop get a real one."""
        own = self._operations.transaction
        if route.is_forwarded:
            return None
        if route.place is Place.LOOP:
            return transaction or own
        return None if own is None else lambda: nullcontext(NoTransaction(route.name))

    def _note_quick_calls(self, route: Route, seconds: Sequence[float]) -> None:
        """Note calls of a handler that have succeeded, and the seconds of each."""
        self._note_spent(route, len(seconds), sum(seconds) / len(seconds))
        self._meter.all_succeeded(route.name, seconds)

    def _note_call(self, number: int, route: Route, verdict: Verdict, seconds: float) -> None:
        """Note the call of a handler for a single operation."""
        spent = self._spent[route.name]
        spent.count += 1
        spent.seconds += seconds
        if isinstance(verdict, Outcome) and verdict.state is SUCCEEDED:
            self._meter.succeeded(route.name, seconds)
        else:
            self._count_one(route.name, verdict, number, seconds)

    def _note_spent(self, route: Route, count: int, seconds: float) -> None:
        spent = self._spent[route.name]
        spent.count += count
        spent.seconds += seconds * count

    def _leave(self, lot: Lot, source: Source, worker: Worker, *, has_slot: bool) -> None:
        """Leave the worker behind that performs this lot. With `has_slot`, its caller holds the slot."""
        worker.is_left = True
        if has_slot:
            self._left.leave_without_slot(worker.task, source)
        else:
            self._left.leave(worker.task)
        self.result_memory.end(worker)
        route = self._route(lot[0])
        get_log().warning(
            Event.HANDLER_LEFT_BEHIND,
            handler=UNKNOWN_HANDLER if route is None else route.name,
            operation_id=lot[0].id,
            operations=len(lot),
        )

    def _timed_out(self, lot: Lot, source: Source, number: int) -> dict[int, Verdict]:
        """Return the verdict of an operation whose handler is left behind after its time limit.

        Raise CallFailed for several.
        """
        if is_group(lot):
            return self._stop_group(lot, lambda operation: self._timed_out_alone(operation, source, number))
        route = self._operations.match(lot[0].method, lot[0].path)
        seconds = route.policy.timeout_seconds / len(lot)
        self._note_spent(route, len(lot), seconds)
        if len(lot) > 1:
            raise CallFailed
        return {lot[0].index: self._timed_out_alone(lot[0], source, number)}

    def _timed_out_alone(self, operation: Operation, source: Source, number: int) -> Verdict:
        route = self._operations.match(operation.method, operation.path)
        seconds = route.policy.timeout_seconds
        attempt = Attempt(route, source, number, [(operation, {})], {}, Worker(), count=1, seconds=seconds)
        return self._count(attempt, attempt.judge([TimedOut()]))[operation.index]

    def _stop_group(self, lot: Lot, verdict_on: Callable[[Operation], Verdict]) -> dict[int, Verdict]:
        group = self._groups.pop(id(lot))
        verdicts = group.stop_at_running(verdict_on)
        self._count_group(group, verdicts)
        return verdicts

    def _forget_groups(self, lots: Iterable[Lot]) -> None:
        """Forget groups that were cancelled or left behind, and that nobody has asked which operation was running."""
        for lot in lots:
            self._groups.pop(id(lot), None)

    def _count_group(self, group: AtomicGroup, verdicts: Verdicts) -> None:
        """Count the attempts of a group that have ended. One that was undone with its group has not succeeded."""
        for index, verdict in verdicts.items():
            if (attempt := group.ran.get(index)) is not None:
                self._count(attempt, {index: verdict})

    def _cancelled_itself(self, lot: Lot) -> dict[int, Verdict]:
        """Return the verdict of an operation whose handler cancelled its own task. Raise CallFailed for several.

        It has failed for good. Without a verdict it would be handed over to another chunk for ever.
        """
        if is_group(lot):
            return self._stop_group(lot, cancelled_itself)
        if len(lot) > 1:
            raise CallFailed
        [operation] = lot
        route = self._route(operation)
        self._meter.failed(UNKNOWN_HANDLER if route is None else route.name, None)
        return {operation.index: cancelled_itself(operation)}

    def _count_invalid(self, verdicts: dict[int, Verdict]) -> dict[int, Verdict]:
        for _ in verdicts:
            self._meter.failed(UNKNOWN_HANDLER, None)
        return verdicts

    def _count(self, attempt: Attempt, verdicts: dict[int, Verdict]) -> dict[int, Verdict]:
        """Count the attempt for the metrics, once for each operation."""
        for verdict in verdicts.values():
            self._count_one(attempt.route.name, verdict, attempt.number, attempt.seconds)
        return verdicts

    def _count_one(self, handler: str, verdict: Verdict, number: int, seconds: float | None) -> None:
        if isinstance(verdict, Outcome) and verdict.state is SUCCEEDED:
            assert seconds is not None
            self._meter.succeeded(handler, seconds)
        elif is_final(verdict, number):
            self._meter.failed(handler, seconds)
        else:
            self._meter.retried(handler, seconds)


@contextmanager
def _line(
    gates: Sequence[LimitGate], turn: Turn | TurnWithRoom, operations: int, *, may_be_postponed: bool = True
) -> Iterator[Line]:
    """Yield the line at the first gate. It leads to the others."""
    first, *others = gates
    with ExitStack() as stack:
        next_: Turn | TurnWithRoom | Line = turn
        for gate in reversed(others):
            line = gate.line(next_, operations, may_be_postponed=may_be_postponed, behind=first)
            next_ = stack.enter_context(line)
        yield stack.enter_context(first.line(next_, operations, may_be_postponed=may_be_postponed))


def _noting_at(
    gates: Sequence[LimitGate], perform: Callable[[Slice], Performing | None]
) -> Callable[[Slice], Performing | None]:
    """Return a function that performs the only lot of a slice, and notes at the gates what became of it."""

    def perform_and_note(slice_: Slice) -> Performing | None:
        [lot] = slice_.pending
        starts = [(gate, gate.start()) for gate in gates]
        performing = perform(slice_)
        for gate, start in starts:
            if performing is None:
                gate.note({one.index: slice_.verdicts[one.index] for one in lot}, start)
            else:
                performing = noting(gate, performing, start)
        return performing

    return perform_and_note


@asynccontextmanager
async def _held(room: Room, source: Source) -> AsyncIterator[None]:
    await room.acquire(source.priority, source.tenant)
    try:
        yield
    finally:
        room.release(source.priority, source.tenant)


async def _none_if_failed(run: Callable[[], Awaitable[Verdicts]]) -> Verdicts | None:
    """Return the verdicts, or None if the call failed as a whole.

    If this task failed with the error, the error would keep the task, which its functions have, and so itself.
    """
    try:
        return await run()
    except CallFailed:
        return None


def _verdicts_of(task: asyncio.Task[Verdicts | None]) -> Verdicts:
    """Return the verdicts of a task that has ended. Raise CallFailed if there are none."""
    verdicts = task.result()
    if verdicts is None:
        raise CallFailed
    return verdicts


def _refuse_open(lot: Lot) -> dict[int, Verdict]:
    """Return the verdict on an operation whose path is still open. No handler ever gets a placeholder as a value."""
    if len(lot) > 1:
        raise CallFailed
    return {
        lot[0].index: unresolved_outcome(lot[0], Unresolved("The path has a placeholder whose value is not known."))
    }


def _log_fields() -> dict[str, Any]:
    """Return those fields of the current log context that can be sent to another process."""
    fields = structlog.contextvars.get_contextvars().items()
    return {name: value for name, value in fields if isinstance(value, str | int) and name != "program"}
