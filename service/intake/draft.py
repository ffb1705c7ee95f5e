"""A batch while its request is read. Every operation is validated by its handler's model and encoded for the queue.

A small batch keeps its operations in memory, because it may be run immediately. A large batch keeps only the chunk that
is being filled: full chunks are buffered in a file. Nothing is sent before the whole batch has been validated.
"""

import bisect
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import accumulate
from types import TracebackType
from typing import Any, Self, TypeGuard

from msgspec import Raw

from penstock.chunk import Links, Operation, UrlRule
from penstock.documents.pointer import pointer
from penstock.errors import Flaw, InvalidRequest, LimitPassed
from penstock.message import (
    KEYS_VERSION,
    LINKS_VERSION,
    REFERENCES_VERSION,
    encode_fields,
    shorten,
    size_together,
    sizes_on_the_queue,
    with_key_and_links,
)
from penstock.metrics.meter import UNKNOWN_HANDLER
from penstock.operations import Operations
from penstock.reading.flaws import MOST_FLAWS, MOST_FOUND, Flaws
from penstock.reading.link_reader import LinkReader
from penstock.reading.operation_reader import OperationReader, ReadOperation
from penstock.reading.operation_request import LONGEST_ID, LONGEST_KEY
from penstock.reading.raw_operation import LARGE_BODY_BYTES, MOST_RAW_BYTES, RawOperation
from penstock.references import MOST_VALUE_BYTES
from penstock.route import Route
from penstock.service.handler_times import HandlerTimes
from penstock.service.intake.ids import IDS_IN_LINE, Duplicate, Ids, Keys
from penstock.service.intake.plan import Plan
from penstock.settings import Settings

_PART_OF_A_MESSAGE = 32  # a linked operation that takes more than this part of a message is large
# A longer operation had its body parsed, so it is short already: escapes at most double a body that stays raw.
_MOST_TO_SHORTEN = 3 * MOST_RAW_BYTES


class Draft:
    """A batch that is being read.

    Call `add` for every operation. Once the batch is large, call `plan_added` from time to time. Then call `check`,
    which reports all errors. Before a batch goes to the background, call `finish_plan`, which completes `plan`.
    """

    def __init__(
        self, batch_id: str, registry: Operations[Any], settings: Settings, handler_times: HandlerTimes
    ) -> None:
        self.batch_id = batch_id
        self.total = 0
        self.first_forwarded: int | None = None  # the index of the first operation that is forwarded to another program
        self.operations: list[Operation] = []  # all of a small batch, none of a large batch
        self.flaws = Flaws()
        self.ids = Ids()
        self._keys = Keys()
        self._groups = Keys()  # of the first operation of each group
        self._has_transaction = registry.transaction is not None
        self._limit_of_group: str | None = None
        self.plan = Plan(batch_id, settings)
        self._next_ids: list[str] = []  # those that are not in `ids` yet
        # No method: a draft that refers to itself would stay in memory until a collection, which may never come.
        self._links = LinkReader(partial(_recent, self.ids, self._next_ids), self.plan.most_together)
        self.counts_handlers = False  # set it before the first operation is added
        self._planned_by_handler = Counter[str]()
        self._match = registry.match
        self._reader = OperationReader(registry.match, shows_errors=settings.show_errors)
        self._most_kept = settings.sync_max_operations
        self._was_large = False
        self._elements = 0
        self._most_elements = settings.most_elements  # of all operations that are kept
        self._handler_times = handler_times
        self._handler_seconds = 0.0  # expected for all planned operations
        self._fields: list[tuple[Any, ...]] = []  # of the operations that are not encoded yet
        # Of the operations that are not planned yet: how they are encoded, the bytes that each needs in a message, and
        # the names of their handlers.
        self._encoded: list[bytes] = []
        self._sizes = array("L")
        self._handlers: list[str] = []
        self._shortened = 0  # of these operations, how many of the first `_shorten_large` has seen
        self._lines = array("I")  # the line of each operation, if the request is a stream
        self._giants = Flaws()
        self._check_ids_at = 2 * MOST_FOUND  # operations. It is doubled after each check

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ids.close()
        self._keys.close()
        self._groups.close()
        self.plan.close()

    def read_urls(self, rule: UrlRule) -> None:
        """Let results tell with URLs where what they created is. This holds for all references of the batch."""
        self._links.url_rule = rule

    def accept_invalid(self, *, unknown: bool = False) -> None:
        """Let a body or a path parameter be invalid from now on. Such an operation will fail when it runs.

        With `unknown`, the same holds for an operation that there is no handler and no forward for.
        """
        self._reader.accepts_invalid = True
        self._reader.accepts_unknown = unknown

    @property
    def accepts_invalid(self) -> bool:
        return self._reader.accepts_invalid

    @property
    def invalid_accepted(self) -> int:
        """Return how many operations will fail because they are invalid."""
        return self._reader.invalid_accepted

    @property
    def has_links(self) -> bool:
        """Return True if an operation depends on another one, refers to one, or is in a group."""
        return self._links.is_used

    @property
    def is_large(self) -> bool:
        return self.total > self._most_kept

    def grow_large(self) -> None:
        """Treat the batch as large, because its operations need too much memory."""
        self._most_kept = -1
        self.operations = []

    def note_elements(self, count: int) -> None:
        """Count the elements of the next operation before it is parsed. With too many, treat the batch as large."""
        self._elements += count
        if self._elements > self._most_elements:
            self.grow_large()

    def add(self, document: Any, line: int | None = None) -> None:
        """Add the next operation, as it was received. Raises InvalidRequest if very many errors were found."""
        read = self._reader.read(document)
        if not isinstance(read, ReadOperation):
            self._add_invalid(document, line, read)
            return
        index = self.total
        if read.key is not None:
            self._note_key(index, read.key)
        operation_id = self._count(document.id if type(document) is RawOperation else document.get("id"), line)
        links = self._read_links(index, read) if read.has_links else None
        route = read.route
        if self.first_forwarded is None and route is not None and route.is_forwarded:
            self.first_forwarded = index
        if self.flaws.count == 0:
            fields = (index, operation_id, read.method, read.path, Raw(read.body))
            self._fields.append(with_key_and_links(fields, read.key, links))
            self._handlers.append(UNKNOWN_HANDLER if route is None else route.name)
            if not self._was_large:
                self._keep(Operation(index, operation_id, read.method, read.path, read.value, read.key, links))
            if read.references or len(read.body) > LARGE_BODY_BYTES:  # which would be in memory twice
                self._encode_added(len(read.references) * MOST_VALUE_BYTES)

    @property
    def takes_usual(self) -> bool:
        """Return True if `add_usual` may add operations: the batch is large, and has neither errors nor links."""
        return self._was_large and self.flaws.count == 0 and not self._links.is_used

    def add_usual(self, documents: Sequence[Any], lines: Sequence[int] = ()) -> bool:
        """Add the next operations of a large batch at once. Return False if each must be added by itself.

        `lines` are their lines, if the request is a stream. The operation after which the ids are checked is added by
        itself, so that the same operations are checked, however many are added at once.
        """
        if not self.takes_usual or self.total + len(documents) >= self._check_ids_at:
            return False
        read = self._reader.read_usual(documents, with_forwards=self.first_forwarded is not None)
        if read is None:
            return False
        columns, indexes = read.columns, range(self.total, self.total + len(documents))
        ids = [str(index) if given is None else given for index, given in zip(indexes, columns.ids, strict=True)]
        self._fields += zip(indexes, ids, columns.methods, columns.paths, map(Raw, columns.bodies), strict=True)
        self._handlers += [route.name for route in read.routes]
        self.total = indexes.stop
        self._lines.extend(lines)
        self._next_ids += ids
        if len(self._next_ids) >= IDS_IN_LINE:
            self._end_line()
        return True

    def _add_invalid(self, document: Any, line: int | None, flaws: Iterable[Flaw]) -> None:
        """Add the errors of the next operation. Its id, its key and its group must be unique nevertheless."""
        if type(document) is RawOperation:
            document = document.without_body
        index = self.total
        operation_id, key, group = map(document.get, ("id", "key", "group")) if type(document) is dict else (None,) * 3
        if _is_name(key, LONGEST_KEY):
            self._note_key(index, key)
        if _is_name(group, LONGEST_ID):
            self._note_group(index, group)
        self._count(operation_id if _is_name(operation_id, LONGEST_ID) else None, line)
        self.flaws.is_complete &= self._reader.is_complete
        self._add_flaws(index, flaws)

    def _encode_added(self, most_added: int = 0) -> None:
        """Encode the operations that wait for it. References may add up to `most_added` bytes to the last one."""
        encoded = encode_fields(self._fields)
        sizes = sizes_on_the_queue(encoded)
        if most_added:
            sizes[-1] += most_added
        self._fields = []
        self._encoded += encoded
        self._sizes.extend(sizes)
        if max(sizes, default=0) > self.plan.room:
            end = len(self._sizes)
            self._shorten(place for place in range(end - len(sizes), end) if self._sizes[place] > self.plan.room)

    def _shorten(self, places: Iterable[int]) -> None:
        """Encode operations again, as short as they can be. Their bodies may be longer as they were sent."""
        for place in places:
            encoded = self._encoded[place]
            if len(encoded) <= _MOST_TO_SHORTEN:
                shorter = shorten(encoded)
                self._encoded[place] = shorter
                self._sizes[place] -= len(encoded) - len(shorter)

    def _shorten_large(self) -> None:
        """Measure large operations as those are measured that are linked, each once.

        Otherwise, those before a large one might be planned apart, although the next one is linked with them, and all
        fit into a message. For smaller ones, and for batches without links, that would take much time and help little.
        """
        if self._links.is_used:
            added = range(self._shortened, len(self._encoded))
            self._shorten(place for place in added if self._sizes[place] > self.plan.room // _PART_OF_A_MESSAGE)
            self._shortened = len(self._encoded)

    def _read_links(self, index: int, read: ReadOperation) -> Links | None:
        if read.group is not None:
            self._note_group(index, read.group)
        links = self._links.read(index, read.depends_on, read.references, is_in_group=read.group is not None)
        if isinstance(links, Links):
            self.plan.needs_version(REFERENCES_VERSION if read.references else LINKS_VERSION)
        else:
            self._add_flaws(index, links)
        if read.group is not None:
            self._check_can_roll_back(index, read.route)
        return links if isinstance(links, Links) else None

    def _check_can_roll_back(self, index: int, route: Route | None) -> None:
        """Report an operation of a group that could not be rolled back with the others."""
        if not self._has_transaction:
            if self._links.begins_group(index):
                detail = "This application has no transaction, so operations cannot be a group. It needs transaction=."
                self._add_flaws(index, [Flaw("/group", detail)])
        elif route is None or not route.has_transaction:
            name = "An unknown operation" if route is None else route.name
            detail = f"{name} does not run in the transaction, so it could not be rolled back with its group."
            self._add_flaws(index, [Flaw("/group", detail)])
        elif self._links.begins_group(index):
            self._limit_of_group = route.policy.limit
        elif route.policy.limit != self._limit_of_group:
            self._add_flaws(index, [Flaw("/group", "The operations of a group must have the same limit.")])

    def note_invalid(self, size: int) -> None:
        """Count the bytes of invalid operations. Raises InvalidRequest if they are very many."""
        self.flaws.invalid_bytes += size
        self._check_full()

    def add_unreadable(self, detail: str, line: int, operation_id: str | None = None) -> None:
        index = self.total
        self._count(operation_id, line)
        self._add_flaws(index, [Flaw("", detail)])

    def check_all_in_transaction(self) -> None:
        """Report the operations of an atomic batch that could not be rolled back with the others."""
        for operation in self.operations:
            route = self._match(operation.method, operation.path)
            if not route.has_transaction:
                detail = f"{route.name} does not run in the transaction, so it could not be rolled back."
                self._add_flaws(operation.index, [Flaw("/path", detail)])

    async def plan_added(self, share: float = 1) -> None:
        """Plan the operations that were added, except the last ones: the next operation may be linked with them.

        `share` is the share of the batch that was read; 0 if it is unknown. A batch of unknown size is planned as a
        large one.
        """
        self._encode_added()
        if self.flaws.count:  # the batch will not be sent
            self._links.forget_before(self.total)
            self._forget_added(len(self._encoded))
            return
        self._shorten_large()
        await self._plan(len(self._encoded) - self._count_near(), share)

    async def _plan(self, count: int, share: float = 1) -> None:
        """Plan the first `count` operations of those that were added, or fewer if the rest is linked with them."""
        known = await self._handler_times.read(self._handlers[:count])
        unmeasured = self.plan.unmeasured_seconds(self.total / share if share else math.inf)
        first = self.total - len(self._encoded)
        runs = self._runs_to_plan(first, first + count) if self._links.is_used else None
        if runs is not None:
            count = sum(map(len, runs))
        seconds = [known.get(name, unmeasured) for name in self._handlers[:count]]
        self._handler_seconds += sum(seconds)
        self.plan.expect(self._handler_seconds / share if share else math.inf)
        self._add_giants(first, self._sizes[:count])
        if not self._giants.count:  # otherwise the batch will be rejected
            self._add_to_plan(first, runs, seconds)
        self._links.forget_before(first + count)
        if self.counts_handlers:
            self._planned_by_handler.update(self._handlers[:count])
        self._forget_added(count)
        if self._giants.is_full:
            raise self._too_large("At least ")

    def _forget_added(self, count: int) -> None:
        del self._encoded[:count], self._sizes[:count], self._handlers[:count]
        self._shortened = max(0, self._shortened - count)

    def _add_to_plan(self, first: int, runs: Sequence[range] | None, seconds: Sequence[float]) -> None:
        """Plan encoded operations, of which `first` is the index of the first. `runs` are those that stay together."""
        if runs is None:
            count = len(seconds)
            self.plan.add(self._encoded[:count], self._sizes[:count], seconds)
            return
        for run in runs:
            here = slice(run.start - first, run.stop - first)
            self.plan.add_together(self._encoded[here], self._sizes[here], sum(seconds[here]))

    def _count_near(self) -> int:
        """Return how many of the last operations can be linked with the next one, and still fit into its chunk."""
        sizes = self._sizes[-self.plan.most_together :]
        sizes.reverse()
        return bisect.bisect_right(list(accumulate(sizes)), self.plan.room)

    def _runs_to_plan(self, first: int, end: int) -> list[range]:
        """Return the operations that can be planned now, in the runs that must stay together. Raises LimitPassed."""
        if (too_long := self._links.linked_before(first, self.total)) is not None:
            raise self._too_many_linked(too_long, None)
        runs = list(self._links.runs(first, self.total))
        for run in runs:
            self._check_run(run, first)
        return [run for run in runs if run.stop <= end]

    def _check_run(self, run: range, first: int) -> None:
        """Raise LimitPassed if linked operations do not fit into a chunk. `first` was added first."""
        if len(run) > 1:
            places = range(run.start - first, run.stop - first)
            size = size_together(self._sizes[places.start : places.stop])
            if size > self.plan.room:
                self._shorten(places)
                size = size_together(self._sizes[places.start : places.stop])
            if len(run) > self.plan.most_together or size > self.plan.room:
                raise self._too_many_linked(run, size)

    def _too_many_linked(self, run: range, size: int | None) -> LimitPassed:
        most, room = self.plan.most_together, self.plan.room
        need = "" if size is None else f" They are {len(run):,} operations and need {size:,} bytes."
        return LimitPassed(
            f"What depends on each other must be in one message of the queue, with everything between.{need} "
            f"At most {most:,} operations and {room:,} bytes fit.",
            limit={"maxLinkedOperations": most, "maxLinkedBytes": room},
            flaws=[self._at(run[-1], Flaw("", f"Operation {run[0]} must be in the same message."))],
        )

    def count_by_handler(self) -> Counter[str]:
        """Return the number of operations of each handler. This needs `counts_handlers`."""
        return self._planned_by_handler + Counter(self._handlers)

    async def check(self) -> None:
        """Raise InvalidRequest with all errors, if there are any."""
        self._note_ids()
        self._encode_added()
        for name, values in (("group", self._groups), ("key", self._keys), ("id", self.ids)):
            count, duplicates = await values.duplicates(MOST_FLAWS)
            self.flaws.put_first([(one.index, self._duplicate(name, one)) for one in duplicates], count)
        if self.flaws.count:
            raise self._invalid()
        if self._links.is_used:  # before anything runs of a small batch, which may be handed over
            self._runs_to_plan(self.total - len(self._encoded), self.total)

    def check_sizes(self) -> None:
        """Raise LimitPassed if an operation of this small batch is too large for a message.

        After some of the others have run, it would be too late to find out: the batch could not be handed over.
        """
        self._add_giants(self.total - len(self._encoded), self._sizes)
        if self._giants.count:
            raise self._too_large()

    async def finish_plan(self) -> None:
        """Complete `plan`. Raises LimitPassed, with every operation that is too large for a message."""
        self._encode_added()
        await self._plan(len(self._encoded))
        self.plan.finish()
        if self._giants.count:
            raise self._too_large()

    def _add_giants(self, first: int, sizes: Sequence[int]) -> None:
        """Note the operations that are too large for a message. `first` is the index of the first of these sizes."""
        if max(sizes, default=0) <= self.plan.room:
            return
        for index, size in enumerate(sizes, start=first):
            if size > self.plan.room:
                detail = f"The operation needs {size:,} bytes in a message. At most {self.plan.room:,} bytes fit."
                self._giants.add(index, self._at(index, Flaw("", detail)))
                self._giants.invalid_bytes += size

    def _too_large(self, at_least: str = "") -> LimitPassed:
        count = self._giants.count
        are = "operation is" if count == 1 else "operations are"
        return LimitPassed(
            f"{at_least}{count:,} {are} too large for a message of the queue.",
            limit={"maxOperationBytes": self.plan.room},
            flaws=self._giants.listed,
            count=count,
        )

    def _invalid(self) -> InvalidRequest:
        return InvalidRequest(self.flaws.listed, self.flaws.count, is_complete=self.flaws.is_complete)

    def _count(self, given: str | None, line: int | None) -> str:
        """Count the next operation and return its id. Without one, it gets its index as its id."""
        index = self.total
        operation_id = str(index) if given is None else given
        self.total = index + 1
        self._next_ids.append(operation_id)
        if line is not None:
            self._lines.append(line)
        if self._links.is_used:
            self._links.note(index, operation_id)
        if len(self._next_ids) >= IDS_IN_LINE or self.total >= self._check_ids_at:
            self._end_line()
        return operation_id

    def _end_line(self) -> None:
        """Note the ids of the operations that were added last, and encode these operations."""
        self._note_ids()
        self._encode_added()
        if self.total >= self._check_ids_at:
            self._check_ids(self.total - 1)

    def _note_ids(self) -> None:
        self.ids.extend(self._next_ids)
        self._next_ids.clear()

    def _note_group(self, index: int, name: str) -> None:
        if self._links.note_group(index, name):
            self._groups.add(index, name)

    def _note_key(self, index: int, key: str) -> None:
        self._keys.add(index, key)
        self.plan.needs_version(KEYS_VERSION)

    def _check_ids(self, index: int) -> None:
        """Raise InvalidRequest if very many ids, or keys, are duplicates. `check` would find that only at the end."""
        self._check_ids_at *= 2
        for name, values in (("id", self.ids), ("key", self._keys)):
            count = values.count_repeated()
            if count >= MOST_FOUND:
                detail = f"{count:,} of the first {self.total:,} operations have the {name} of an earlier operation."
                self.flaws.count += count - 1
                self._add_flaws(index, [Flaw(f"/{name}", f"{detail} {_unique(name)}")])

    def _keep(self, operation: Operation) -> None:
        if not self.is_large:
            self.operations.append(operation)
            return
        self._was_large = True
        self.operations = []
        self._handler_times.refresh()  # while the other operations are read

    def _duplicate(self, name: str, found: Duplicate) -> Flaw:
        if name == "group":
            detail = f"Group {found.id!r} began with operation {found.first}. Its operations must follow each other."
            return self._at(found.index, Flaw("/group", detail))
        detail = f"Operation {found.first} has the same {name} {found.id!r}. {_unique(name)}"
        return self._at(found.index, Flaw(f"/{name}", detail))

    def _add_flaws(self, index: int, flaws: Iterable[Flaw]) -> None:
        for flaw in flaws:
            self.flaws.add(index, self._at(index, flaw))
        self._check_full()

    def _check_full(self) -> None:
        if self.flaws.is_full:
            self.flaws.is_complete = False
            raise self._invalid()

    def _at(self, index: int, flaw: Flaw) -> Flaw:
        """Turn the pointer of an error, which starts at the operation, into a pointer that starts at the request."""
        line = self._lines[index] if self._lines else None
        return Flaw(pointer("operations", index) + flaw.pointer, flaw.detail, line)


def _recent(ids: Ids, next_ids: Sequence[str], most: int) -> list[str]:
    """Return the last ids of a batch, as many as `most`. `next_ids` follow `ids`."""
    return [*ids.recent(most), *next_ids][-most:]


def _is_name(given: Any, longest: int) -> TypeGuard[str]:
    """Return True if this can be an id, a key or a group. Otherwise it is an error already, or missing."""
    return type(given) is str and len(given) <= longest


def _unique(name: str) -> str:
    return f"{name.capitalize()}s must be unique within a batch."
