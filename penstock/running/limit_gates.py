"""The gates of a process, one for each limit that it has used."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

from penstock.limit import Limit
from penstock.outcome import Verdicts
from penstock.priority import Priority
from penstock.running.limit_gate import LimitGate, Start
from penstock.running.time_slice import Performing


class LimitGates:
    """The gates of a process. A gate is created when its limit is used for the first time."""

    def __init__(self, limits: Mapping[str, Limit], new_gate: Callable[[str, Limit], LimitGate]) -> None:
        self._limits = limits
        self._new_gate = new_gate
        self._gates: dict[str, LimitGate] = {}
        self._gates_of_batches: dict[str, LimitGate] = {}
        self._is_over = False
        self._failed: asyncio.Future[None] | None = None

    def gate(self, name: str) -> LimitGate:
        if name not in self._gates:
            self._gates[name] = self._create(name, self._limits.get(name) or Limit())
        return self._gates[name]

    def gate_of_batch(self, batch_id: str, concurrency: int) -> LimitGate:
        """Return the gate of a batch that has a concurrency of its own. Open a line before anything else happens."""
        gates = self._gates_of_batches
        if batch_id not in gates:
            # A limit of the application cannot have this name.
            gate = gates[batch_id] = self._create(f"batch#{batch_id}", Limit(concurrency=concurrency))
            gate.is_of_batch = True
            gate.when_unused = partial(gates.pop, batch_id, None)
        self.limit_batch(batch_id, concurrency)
        return gates[batch_id]

    def has_gate_of_batch(self, batch_id: str) -> bool:
        return batch_id in self._gates_of_batches

    def limit_batch(self, batch_id: str, concurrency: int | None) -> None:
        """Follow a change of the concurrency of a batch."""
        if batch_id in self._gates_of_batches:
            self._gates_of_batches[batch_id].limit_to(concurrency)

    def _create(self, name: str, limit: Limit) -> LimitGate:
        gate = self._new_gate(name, limit)
        gate.when_failed = self._note_failure
        gate.count_busy = self._count_busy
        if self._is_over:
            gate.let_go()
        return gate

    @property
    def _all(self) -> list[LimitGate]:
        return [*self._gates.values(), *self._gates_of_batches.values()]

    def waiting(self) -> Counter[Priority]:
        """Return how many operations wait for tokens, by priority."""
        counts = Counter[Priority]()
        for gate in self._all:
            gate.count_waiting(counts)
        return counts

    def let_go(self) -> None:
        """Let everything pass that waits, now and later. The stop must have begun."""
        self._is_over = True
        for gate in self._all:
            gate.let_go()

    def _count_busy(self) -> int:
        return sum(gate.waiting_chunks > 0 for gate in self._all)

    async def watch(self) -> None:
        """Run until cancelled. Raise the error of a gate that has failed, since its operations would wait for ever."""
        self._failed = asyncio.get_running_loop().create_future()
        await self._failed

    def _note_failure(self, error: BaseException) -> None:
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(error)

    async def close(self) -> None:
        await asyncio.gather(*(gate.close() for gate in self._all))


async def noting(gate: LimitGate, performing: Performing, start: Start) -> Verdicts:
    """Note at the gate what a call returns, and return the same."""
    verdicts = await performing
    gate.note(verdicts, start)
    return verdicts
