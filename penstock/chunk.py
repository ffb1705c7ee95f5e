"""A chunk holds the operations that travel in one message. The planner splits a batch into chunks. Pure.

A chunk's id says where it comes from:

    17             The front end planned it.
    17.0.3.203     It follows from chunk 17 in three steps, and the first of its operations has the index 203.
    17.d1          It is a dead letter of chunk 17.
    17.d1.0.1.203  It follows from that dead letter.
    17.d3          It has operations of that dead letter that 17.d1 has not run again: the next round of a retry.

So an id stays short, however many steps there are. It names one chunk only: the chunks that follow from a chunk share
its operations out, so those with the same number of steps have no operation in common.

Neighbouring planned chunks form a group, the unit of counting. A chunk that follows from another is counted in the same
group.
"""

import itertools
import math
import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from msgspec import Struct, convert
from msgspec.structs import replace as with_changes

QUICK_SECONDS = 0.1
SPREAD_SECONDS = 16.0  # a batch with this much handler time has its least number of chunks
LONG_ROUNDS = 4  # a batch with this many times its least number of full chunks needs no equal shares
UNMEASURED_CHUNKS = 2  # a batch is assumed to take the time of two full chunks, before it has been measured
UNMEASURED_SECONDS = 0.02  # the longest time that is assumed for an operation before it has been measured
_LONGER = 1.2  # how many times its target time a chunk may take, so that fewer chunks are needed
_CARRIED = 1 / 8  # of the target time of a chunk; more than that comes from operations that take very long
_ROUNDING = 1 + 1e-9  # in floats, the sum of a hundred times 0.02 is a little more than 2
GROUP_CHUNKS = 64  # few consumers write to one group counter, and its set of counted chunks stays near 1 KB
LONGEST_ID = 500  # characters in an id that this program makes, and in its sort key
LONGEST_READ_ID = 900  # an earlier version made ids longer with each step. A sort key of DynamoDB has 1,024 bytes
_PLANNED_DIGITS = 8
_HOP_DIGITS = 6
_INDEX_DIGITS = 7

# An earlier version gave the ids 17.1 and 17.2 to the chunks that follow from 17. It never used the number 0, so a
# chunk of that version can be followed by one of ours, and the other way round.
_HOP = re.compile(r"(.+)\.0\.([1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})")
_STEPS = re.compile(r"\.0\.([0-9]+)\.([0-9]+)")
_ROUND = re.compile(r"(.+\.d)([1-9][0-9]{0,8})")
_KINDS = 2  # of dead letters: failures and rejections. So the rounds of one kind have every second number


class UrlRule(Struct, frozen=True, array_like=True):
    """How a result says where the thing is that its operation has created: `members` are names for its URL.

    Such a URL is relative, or has one of the `hosts`. One of the `prefixes` may be in front of an operation's path.
    """

    members: tuple[str, ...]
    hosts: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()


class Reference(Struct, frozen=True, array_like=True):
    """A value in the path of an operation that only the result of another one has: that of the operation `source`.

    The path has `{name}` in its place. `members` are the names that the value may have in the result, or JSON pointers
    to it. With a rule for URLs, a URL in the result replaces the path up to and including this place.
    """

    source: int
    name: str
    members: tuple[str, ...]
    url: UrlRule | None = None

    @property
    def place(self) -> str:
        return f"{{{self.name}}}"


class Links(Struct, frozen=True, array_like=True):
    """What an operation needs of others of its batch.

    `after` are the indexes of the operations that it depends on, all of them before it. `atomic_group` is the first
    operation of the group that it succeeds or fails with. An operation that is not in the same chunk has succeeded
    already. `references` are in the path. Their sources are in `after`, and in the same chunk: when a source has
    succeeded and an operation follows in another chunk, its path has the value.
    """

    after: tuple[int, ...] = ()
    atomic_group: int | None = None
    references: tuple[Reference, ...] = ()


class Operation(Struct, frozen=True):
    """One operation of a batch. `index` is its position in the batch, from 0. `body` is a JSON value or None.

    `key` is the idempotency key that the client gave to it, if it gave one. `links` says what it depends on.
    """

    index: int
    id: str
    method: str
    path: str
    body: Any = None
    key: str | None = None
    links: Links | None = None


_links_of = attrgetter("links")
_FIELDS_BEFORE_LINKS = 6


def has_links(operations: Iterable[Operation]) -> bool:
    return any(map(_links_of, operations))


def operation_from(fields: Sequence[Any]) -> Operation:
    """Return the operation with these fields, as JSON has them. The last ones may be missing."""
    operation = Operation(*fields[:_FIELDS_BEFORE_LINKS])
    links = fields[_FIELDS_BEFORE_LINKS] if len(fields) > _FIELDS_BEFORE_LINKS else None
    return operation if links is None else with_changes(operation, links=convert(links, Links))


def fields_of(links: Links) -> tuple[Any, ...]:
    """Return the fields of links as they are written. Without references they are as in an earlier version."""
    fields = (links.after, links.atomic_group)
    return (*fields, links.references) if links.references else fields


def references_of(operation: Operation) -> tuple[Reference, ...]:
    return () if operation.links is None else operation.links.references


def with_path(operation: Operation, path: str) -> Operation:
    """Return the operation with a path in which some of its references, or all, have their values."""
    assert operation.links is not None
    open_ = tuple(reference for reference in operation.links.references if reference.place in path)
    return with_changes(operation, path=path, links=with_changes(operation.links, references=open_))


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of a batch. `attempt` (from 1) applies to all its operations. `not_before` is seconds since the epoch.

    An operation that waited while another one was tried again has had fewer attempts: `behind` has its index and how
    many fewer. Of a chunk that runs `one_at_a_time`, only the first operation runs, and the others follow. `unmet` has
    the operations outside the chunk that one of it depends on and that have not succeeded, by index and id. Only a
    chunk that runs failures again can have some. They are not part of its message, so it does not run: what depends on
    them fails, and the rest follows in chunks that need nothing outside. Such a chunk may also refer to results outside
    of it. Its operations have the paths that could be made from these. `paths` has them by index, since its message has
    not, and `pathless` has why others could not be made.
    """

    batch_id: str
    id: str
    attempt: int
    operations: tuple[Operation, ...]
    not_before: float | None = None
    behind: tuple[tuple[int, int], ...] = ()
    one_at_a_time: bool = False
    unmet: tuple[tuple[int, str], ...] = ()
    paths: tuple[tuple[int, str], ...] = ()
    pathless: tuple[tuple[int, str], ...] = ()

    @property
    def group(self) -> int:
        return group_of(self.id)

    @property
    def has_links(self) -> bool:
        """Return True if an operation depends on another one, or is part of an atomic group."""
        return has_links(self.operations)

    def attempts(self) -> dict[int, int]:
        """Return the attempt of each operation, by index."""
        behind = dict(self.behind)
        return {one.index: self.attempt - behind.get(one.index, 0) for one in self.operations}


@dataclass(frozen=True, slots=True)
class Hop:
    """The id of a follow-up, taken apart: `number` steps from the chunk `origin`, with the operation `first_index`."""

    origin: str
    number: int
    first_index: int

    def __str__(self) -> str:
        return f"{self.origin}.0.{self.number}.{self.first_index}"


def hop_of(chunk_id: str) -> Hop | None:
    """Take the id of a follow-up apart. Return None for a planned chunk, a dead letter, or an earlier version's id."""
    match = _HOP.fullmatch(chunk_id) if ".0." in chunk_id else None
    return None if match is None else Hop(match[1], int(match[2]), int(match[3]))


def follow_up_id(chunk_id: str, first_index: int) -> str:
    """Return the id of the chunk that follows from this one, and whose first operation has the index `first_index`."""
    hop = hop_of(chunk_id) or Hop(chunk_id, 0, 0)
    return str(Hop(hop.origin, hop.number + 1, first_index))


def steps_to(chunk_id: str) -> int:
    """Return the number of steps in which this chunk follows from a planned chunk or from a dead letter."""
    hop = hop_of(chunk_id)
    return hop.number if hop else 0


def dead_letter_id(chunk_id: str, kind: str) -> str | None:
    """Return the id of a dead letter of this chunk, or None if the id would be too long.

    Each redrive makes the id longer, so the same operation cannot be redriven without end.
    """
    letter_id = f"{chunk_id}.{kind}"
    followed = follow_up_id(letter_id, 10**_INDEX_DIGITS)
    return letter_id if len(sort_key(followed)) <= LONGEST_ID else None


def sort_key(chunk_id: str) -> str:
    """Return a text that sorts chunks by the order of their operations, each of them before its follow-ups."""
    planned, dot, rest = chunk_id.partition(".")
    return planned.zfill(_PLANNED_DIGITS) + _STEPS.sub(_with_zeros, f"{dot}{rest}")


def from_sort_key(key: str) -> str:
    """Return the id of the chunk with this sort key."""
    planned, dot, rest = key.partition(".")
    return f"{int(planned)}" + _STEPS.sub(_without_zeros, f"{dot}{rest}")


def _with_zeros(steps: re.Match[str]) -> str:
    return f".0.{steps[1].zfill(_HOP_DIGITS)}.{steps[2].zfill(_INDEX_DIGITS)}"


def _without_zeros(steps: re.Match[str]) -> str:
    return f".0.{int(steps[1])}.{int(steps[2])}"


def planned_number(chunk_id: str) -> int:
    """Return 17 for chunk `17` and for every chunk that follows from it."""
    return int(chunk_id.partition(".")[0])


def redriven_from(chunk_id: str) -> str | None:
    """Return the id of the chunk whose failed operations this chunk runs again, or None if it is not a redrive.

    This is `17` for `17.d1` and for every chunk that follows from `17.d1`.
    """
    head, mark, _ = chunk_id.rpartition(".d")
    return head if mark else None


def next_round_id(chunk_id: str) -> str | None:
    """Return the id of the round that comes after this one: `17.d3` after `17.d1`.

    Return None if the chunk is neither a dead letter nor a later round of one.
    """
    match = _ROUND.fullmatch(chunk_id) if ".d" in chunk_id else None
    return None if match is None else f"{match[1]}{int(match[2]) + _KINDS}"


def group_of(chunk_id: str) -> int:
    return planned_number(chunk_id) // GROUP_CHUNKS


@dataclass(frozen=True, slots=True)
class Fit:
    """How large chunks are. `most_operations` and `most_bytes` are hard limits; the others are targets."""

    most_operations: int
    most_bytes: int
    seconds: float  # target for the handler time of a chunk
    least_chunks: int  # target for the number of chunks of a longer batch, so that every consumer gets one

    def aim(self, batch_seconds: float) -> float:
        """Return the target for a chunk's handler time, if the whole batch takes `batch_seconds` of handler time.

        The target is at least QUICK_SECONDS: it does not pay to distribute less work than that.
        """
        if batch_seconds >= LONG_ROUNDS * self.least_chunks * self.seconds:
            return self.seconds
        return max(batch_seconds / self._chunks(batch_seconds), min(QUICK_SECONDS, self.seconds))

    def _chunks(self, batch_seconds: float) -> float:
        """Return the number of chunks for a batch that is not long: `least_chunks`, less if it is short, or more.

        Each chunk costs about five calls. So the number grows with the square root of the work, until there is enough
        of it for `least_chunks`. It changes in large steps: then two, four or eight consumers have the same number of
        chunks each, and finish at the same time.
        """
        full = batch_seconds / self.seconds
        if full >= self.least_chunks:
            step = max(1.0, self.least_chunks / 2)
            return max(self.least_chunks, step * math.ceil(full / step / _LONGER))
        halvings = max(0, round(math.log2(SPREAD_SECONDS / max(batch_seconds, QUICK_SECONDS)) / 2))
        return max(1.0, full, self.least_chunks / math.pow(2, halvings))

    def unmeasured_seconds(self, batch_operations: float) -> float:
        """Return the handler time to assume for an operation if its handler has never been measured.

        A small batch is spread over several consumers, and a larger one gets full chunks. If they turn out to be slow,
        consumers cut them into pieces. Chunks that turn out to be too small could not be joined.

        `batch_operations` is infinite if nobody knows yet how many there are.
        """
        if math.isinf(batch_operations):
            chunk_operations = self.most_operations * _LONGER  # chunks are full by their count before they are by time
        else:
            chunk_operations = batch_operations / UNMEASURED_CHUNKS
        return min(self.seconds / max(chunk_operations, 1), UNMEASURED_SECONDS)


class Planner:
    """Split a batch into chunks, one operation after the other, in the order of the operations."""

    def __init__(self, fit: Fit) -> None:
        self.starts = array("I")  # index of each chunk's first operation; an array, since there can be a million
        self.total = 0  # operations
        self._fit = fit
        self._aim = fit.seconds
        self._full_at = 0  # the index at which the chunk has its most operations; the first operation starts a chunk
        self._chunk_bytes = 0
        self._chunk_seconds = 0.0

    def expect(self, batch_seconds: float) -> None:
        """Set the handler time of the whole batch, as estimated so far. It determines the size of further chunks."""
        self._aim = self._fit.aim(batch_seconds) * _ROUNDING

    def cut(self, sizes: Sequence[int], seconds: Sequence[float]) -> list[int]:
        """Add the next operations, and return the places of those that start a new chunk, counted from the first one.

        `sizes` and `seconds` have for each operation what `begins_chunk` takes.
        """
        begun: list[int] = []
        place = self._fill(sizes, seconds, 0)
        while place < len(sizes):
            if self.begins_chunk(sizes[place], seconds[place]):
                begun.append(place)
            place = self._fill(sizes, seconds, place + 1)
        return begun

    def begins_chunk(self, size: int, seconds: float, count: int = 1) -> bool:
        """Add the next operation, or `count` that must stay together, and return True if they start a new chunk.

        `size` is their encoded size in bytes with the separators; `seconds` is their estimated handler time.
        """
        total = self.total
        chunk_bytes = self._chunk_bytes + size
        chunk_seconds = self._chunk_seconds + seconds
        is_long = chunk_seconds - seconds / 2 > self._aim
        begins = is_long or chunk_bytes > self._fit.most_bytes or total + count > self._full_at
        if begins:
            # The next chunk makes up for what this one is too long or too short. So a batch has the number of chunks
            # that the target was made for, and no small one at its end.
            rest = self._chunk_seconds - self._aim if is_long else 0.0
            self.starts.append(total)
            self._full_at = total + self._fit.most_operations
            chunk_bytes = size
            chunk_seconds = seconds + rest if abs(rest) <= self._aim * _CARRIED else seconds
        self.total = total + count
        self._chunk_bytes = chunk_bytes
        self._chunk_seconds = chunk_seconds
        return begins

    def _fill(self, sizes: Sequence[int], seconds: Sequence[float], place: int) -> int:
        """Add operations from this place on while the chunk has room for them. Return the place of the next one.

        This takes half of the time that `begins_chunk` takes for each of them.
        """
        aim, most_bytes = self._aim, self._fit.most_bytes
        chunk_bytes, chunk_seconds = self._chunk_bytes, self._chunk_seconds
        end, count = place + max(0, self._full_at - self.total), 0
        for size, expected in zip(sizes[place:end], seconds[place:end], strict=True):
            bytes_then, seconds_then = chunk_bytes + size, chunk_seconds + expected
            if seconds_then - expected / 2 > aim or bytes_then > most_bytes:
                break
            chunk_bytes, chunk_seconds = bytes_then, seconds_then
            count += 1
        self.total += count
        self._chunk_bytes, self._chunk_seconds = chunk_bytes, chunk_seconds
        return place + count


def is_whole_group(chunks: int) -> bool:
    """Return True if this many neighbouring chunks are a group, so that the next chunk starts another one."""
    return chunks >= GROUP_CHUNKS


def first_chunk(group: int) -> int:
    """Return the number of the first chunk of a group."""
    return group * GROUP_CHUNKS


def plan_groups(starts: Sequence[int], total: int) -> tuple[int, ...]:
    """Return the number of operations in each group of 64 neighbouring chunks."""
    return tuple(end - start for start, end in itertools.pairwise([*starts[::GROUP_CHUNKS], total]))
