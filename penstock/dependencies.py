"""Which operations of a chunk must run in order, which run together, and which cannot run any more. Pure.

Operations are *connected* if one depends on the other, or if they are in the same atomic group. A set of connected
operations is a *component*. What is open of a component always stays in one chunk: so all that an operation depends on
is in its chunk, or has succeeded. An atomic group is a *unit*, and so is every other operation.

Failures that run again may be in other chunks than what they depend on, if that has failed at another time. See
`Chunk.unmet`.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from penstock.chunk import Chunk, Operation

Unit = tuple[Operation, ...]
States = Mapping[int, bool]  # by index: True if the operation has succeeded, False if it has failed for good


def components(operations: Iterable[Operation]) -> list[Unit]:
    """Return the operations, those that are connected together, by the first operation of each component."""
    parents: dict[int, int] = {}

    def root(node: int) -> int:
        while (parent := parents.setdefault(node, node)) != node:
            parents[node] = parents[parent]
            node = parent
        return node

    ordered = tuple(operations)
    indexes = {operation.index for operation in ordered}
    for operation in ordered:
        for other in _connected_with(operation, indexes):
            parents[root(operation.index)] = root(other)
    return _by_key((root(operation.index), operation) for operation in ordered)


def units(operations: Iterable[Operation]) -> list[Unit]:
    """Return the operations, those of an atomic group together."""
    return _by_key((_group_node(operation), operation) for operation in operations)


def to_run(chunk: Chunk) -> Unit:
    """Return the operations of a chunk that run in it: all, or its first unit if it runs one at a time."""
    return units(chunk.operations)[0] if chunk.one_at_a_time else chunk.operations


class Progress:
    """How far connected operations are: `take_ready` returns those that can run, as others succeed."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.left = len(operations)  # those that were not taken
        self._ready: list[Unit] = []
        self._unmet: list[int] = []  # of each unit, how many operations it still waits for
        self._units = units(operations)
        self._waiting: dict[int, list[int]] = {}  # for each operation, the units that wait for it
        open_ = {operation.index for operation in operations}  # all others have succeeded
        for number, unit in enumerate(self._units):
            needed = {index for index in needs(unit) if index in open_}
            self._unmet.append(len(needed))
            for index in needed:
                self._waiting.setdefault(index, []).append(number)
            if not needed:
                self._ready.append(unit)

    def take_ready(self) -> list[Unit]:
        """Return the units that can run now, and have not been returned before."""
        ready, self._ready = self._ready, []
        self.left -= sum(map(len, ready))
        return ready

    def note_success(self, index: int) -> None:
        for number in self._waiting.pop(index, ()):
            self._unmet[number] -= 1
            if not self._unmet[number]:
                self._ready.append(self._units[number])


def with_more_attempts(chunk: Chunk, count: int) -> Chunk:
    """Return the chunk with `count` more attempts at what runs in it."""
    ran = {operation.index for operation in to_run(chunk)}
    attempts = chunk.attempts() if chunk.one_at_a_time else {}
    attempt = chunk.attempt + count
    behind = tuple((index, attempt - own) for index, own in attempts.items() if index not in ran and own < attempt)
    return replace(chunk, attempt=attempt, behind=behind)


def blocked_by_failures(operations: Iterable[Operation], states: States) -> dict[int, int]:
    """Return the operations that cannot run any more, and for each of them a failed operation that it depends on.

    A member of a group that needs nothing itself cannot run if another member cannot.
    """
    failed = {index for index, has_succeeded in states.items() if not has_succeeded}
    blocked: dict[int, int] = {}
    for unit in units(operations):
        causes = [index for index in needs(unit) if index in failed]
        if causes and unit[0].index not in states:
            known = set(causes)
            for operation in unit:
                own = [index for index in operation.links.after if index in known] if operation.links else []
                blocked[operation.index] = (own or causes)[0]
                failed.add(operation.index)
    return blocked


def with_connected(operations: Sequence[Operation], indexes: AbstractSet[int]) -> tuple[Operation, ...]:
    """Return those of the operations that have these indexes, and all that they are connected with."""
    if not any(operation.links for operation in operations):
        return tuple(operation for operation in operations if operation.index in indexes)
    chosen = {
        operation.index
        for component in components(operations)
        if any(operation.index in indexes for operation in component)
        for operation in component
    }
    return tuple(operation for operation in operations if operation.index in chosen)


def share_out(parts: Sequence[Unit], count: int) -> list[Unit]:
    """Share components out to `count` chunks of about the same size, or to fewer if there are not enough of them."""
    total = sum(map(len, parts))
    shares: dict[int, list[Operation]] = {}
    before = 0
    for part in parts:
        middle = before + len(part) / 2  # so the first and the last of several never share a chunk
        shares.setdefault(int(middle * count // total), []).extend(part)
        before += len(part)
    return [tuple(sorted(share, key=_index_of)) for share in shares.values()]


def needs(unit: Unit) -> list[int]:
    """Return the operations that a unit depends on, without its own."""
    own = {operation.index for operation in unit}
    return [index for operation in unit if operation.links for index in operation.links.after if index not in own]


def needed_outside(chunk: Chunk) -> set[int]:
    """Return the operations that are not in a chunk, and that operations of it depend on."""
    indexes = {operation.index for operation in chunk.operations}
    return {index for operation in chunk.operations if operation.links for index in operation.links.after} - indexes


def links_error(chunk: Chunk) -> str | None:
    """Return why the links of a chunk can never be followed, or None if they can: a unit needs only what is before."""
    for unit in units(chunk.operations):
        first = min(operation.index for operation in unit)
        if any(index >= first for index in needs(unit)):
            return f"Operation {first} of chunk {chunk.id} depends on an operation that does not come before it."
    return None


def is_group(unit: Unit) -> bool:
    """Return True if operations are an atomic group, even if it has only one."""
    links = unit[0].links
    return links is not None and links.atomic_group is not None


def _connected_with(operation: Operation, indexes: Collection[int]) -> Iterator[int]:
    if operation.links is not None:
        yield from (index for index in operation.links.after if index in indexes)
        yield _group_node(operation)


def _group_node(operation: Operation) -> int:
    """Return a number for the group of an operation, or the index of an operation without one."""
    group = None if operation.links is None else operation.links.atomic_group
    return operation.index if group is None else -1 - group


def _by_key(keyed: Iterable[tuple[int, Operation]]) -> list[Unit]:
    members: dict[int, list[Operation]] = {}
    for key, operation in keyed:
        members.setdefault(key, []).append(operation)
    return [tuple(operations) for operations in members.values()]


def _index_of(operation: Operation) -> int:
    return operation.index
