"""Reads the next part of a file: validates its operations, and plans the group that they become.

Nothing is kept from one group to the next but the plan before. So it makes no difference who has read that.
"""

import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from penstock.batch import Batch
from penstock.bucket import Bucket
from penstock.chunk import first_chunk
from penstock.consumer.planning.digest_files import add_digests, write_digests
from penstock.consumer.planning.digests import Packing, digest_with
from penstock.consumer.planning.group_cut import MOST_GROUPS, GroupCut
from penstock.consumer.planning.source import FileSource
from penstock.documents.pointer import pointer
from penstock.errors import Flaw, InvalidRequest, LimitPassed
from penstock.message import encode_parts, size_on_the_queue
from penstock.operations import Operations
from penstock.planning import Errors, GroupPlan, PlannedFile
from penstock.reading.flaws import ENVELOPE, Flaws
from penstock.reading.forms import NO_LINKS, NO_PLACE, FileForm, FormReader, Unreadable
from penstock.reading.line_source import limits_of_lines
from penstock.reading.operation_reader import OperationReader, ReadOperation
from penstock.reading.operation_request import LONGEST_ID, LONGEST_KEY
from penstock.settings import Settings

OPERATIONS_IN_TURN = 50  # then other tasks of the program run

Turn = Callable[[int, int], Awaitable[None]]
"""Lets other tasks run. It is called with the byte and the operation up to which the file was read."""


def place_after(plan: GroupPlan | None) -> Mapping[str, Any]:
    """Return the place in the file where a plan ends, or its beginning."""
    return NO_PLACE if plan is None else plan.end


def reader_at(form: FileForm, settings: Settings, plan: GroupPlan | None) -> FormReader:
    """Return a reader that starts where a plan ends, or at the beginning of the file."""
    limits = limits_of_lines(settings.message_bytes, settings.max_upload_operations)
    return form.reader(limits, settings.most_elements, place_after(plan))


def index_digests(digest: Callable[[str, str], int], indexes: range) -> Iterator[int]:
    """Compute the digests of the ids of operations that have none: their indexes are their ids."""
    return (digest("id", str(index)) for index in indexes)


def digests_name(batch: Batch, number: int) -> str:
    return f"planning/{batch.id}/{number}-{secrets.token_hex(8)}"


class Validation:
    """Plans groups of one file."""

    def __init__(
        self,
        batch: Batch,
        file: PlannedFile,
        bucket: Bucket,
        operations: Operations[Any],
        settings: Settings,
        *,
        turn: Turn,
    ) -> None:
        form, digest = FileForm.from_json(file.form), digest_with(file.hash_key)
        reader = OperationReader(operations.match, shows_errors=settings.show_errors)
        reader.accepts_invalid, reader.accepts_unknown = form.accepts_invalid, form.accepts_unknown
        self._rules = _Rules(form, settings, reader, digest)
        self._batch = batch
        self._source = FileSource(bucket, file.stored)
        self._bucket = bucket
        self._turn = turn

    async def plan(self, before: GroupPlan | None, errors_before: Errors, known: Mapping[str, float]) -> GroupPlan:
        """Return the plan of the group after `before`. `known` are the seconds of handlers for an operation.

        `errors_before` are those of all groups before: with very many, the rest of the file is not read.
        """
        group = _Group(self._rules, before, errors_before)
        reader = reader_at(self._rules.form, self._rules.settings, before)
        try:
            await self._read(group, reader, known)
        except LimitPassed as error:
            group.give_up(ENVELOPE, [Flaw("", str(error))])
        except InvalidRequest as error:
            group.give_up(group.index, error.flaws)
        return await self._finished(group, reader)

    async def _read(self, group: "_Group", reader: FormReader, known: Mapping[str, float]) -> None:
        """Read the file until the group is full, or to its end."""
        start, size = reader.at[0], self._source.file.size
        async for piece in self._source.pieces(start):
            group.expect(start / size, known)
            for number, document in reader.feed(piece):
                if not group.add(number, document):
                    return
                group.at = reader.at
                if group.index % OPERATIONS_IN_TURN == 0:
                    await self._turn(group.at[0], group.index)
            start += len(piece)
            await self._turn(start, group.index)
        for number, document in reader.end():
            if not group.add(number, document):
                return
            group.at = reader.at
        if group.index == 0 and not group.flaws.count:
            detail = f"The batch has no operations. {reader.why_empty}"
            group.flaws.add(ENVELOPE, Flaw("/operations", detail))
        group.is_last = True

    async def _finished(self, group: "_Group", reader: FormReader) -> GroupPlan:
        plan = group.plan(reader.header)
        if not group.digests or plan.errors.count:
            return plan
        name, pause = digests_name(self._batch, plan.number), partial(self._turn, group.at[0], group.index)
        await add_digests(group.digests, index_digests(self._rules.digest, group.before_own_ids), pause)
        return replace(plan, digests=name, parts=await write_digests(self._bucket, name, group.digests, pause))


@dataclass(frozen=True, slots=True)
class _Rules:
    """What applies to every group of the file."""

    form: FileForm
    settings: Settings
    reader: OperationReader
    digest: Callable[[str, str], int]


class _Group:
    """A group while its part of the file is read."""

    def __init__(self, rules: _Rules, before: GroupPlan | None, errors_before: Errors) -> None:
        self.first_index = 0 if before is None else before.first_index + before.total
        self.index = self.first_index  # of the next operation
        self.at = place_after(before)["byte"], place_after(before)["line"]  # the end of the last operation
        self.is_last = False
        self.flaws = Flaws()
        self.flaws.count, self.flaws.invalid_bytes = errors_before.count, errors_before.invalid_bytes
        self.digests = Packing()
        self.before_own_ids = range(0)  # the operations whose digests are still missing in `digests`
        self._rules = rules
        self._number = 0 if before is None else before.number + 1
        self._errors_before = errors_before
        self._most = rules.settings.max_upload_operations
        self._fit = rules.settings.fit
        self._cut = GroupCut(self._fit, 0.0 if before is None else before.handler_seconds)
        self._has_own_ids = False
        self._known: Mapping[str, float] = {}
        self._unmeasured = 0.0

    def expect(self, share: float, known: Mapping[str, float]) -> None:
        """Note which share of the file was read, and how long handlers take."""
        self._known = known
        self._unmeasured = self._fit.unmeasured_seconds(self.index / share if share else float("inf"))
        self._cut.expect(share)

    def add(self, line: int, document: Any) -> bool:
        """Add the next operation of the file. Return False if it belongs to the next group. Raises LimitPassed."""
        if self.index >= self._most:
            raise LimitPassed(
                f"The batch has more than {self._most:,} operations.", limit={"maxOperations": self._most}
            )
        if self._number == MOST_GROUPS:
            most = first_chunk(MOST_GROUPS)
            raise LimitPassed(
                f"The batch needs more than {most:,} chunks. Submit it as several files, or raise "
                "PENSTOCK_CHUNK_OPERATIONS.",
                limit={"maxChunks": most},
            )
        if isinstance(document, Unreadable):
            return self._add_invalid(line, [Flaw("", str(document))], len(document))
        own_id, own_key = _id_of(document), _key_of(document)
        operation_id = str(self.index) if own_id is None else own_id
        read = self._rules.reader.read(document)
        if not isinstance(read, ReadOperation):
            return self._add_invalid(line, read, len(str(document)))
        if read.has_links:
            member = "/dependsOn" if read.depends_on else "/references" if read.references else "/group"
            return self._add_invalid(line, [Flaw(member, NO_LINKS)], len(read.body))
        encoded = encode_parts(self.index, operation_id, read.method, read.path, read.body, key=read.key)
        size = size_on_the_queue(encoded)
        if size > self._fit.most_bytes:
            detail = f"The operation needs {size:,} bytes in a message. At most {self._fit.most_bytes:,} bytes fit."
            return self._add_invalid(line, [Flaw("", detail)], size)
        if not self._cut.add(size, self._seconds_of(read)):
            return False
        self._note_ids(operation_id, own_key)
        self.index += 1
        return True

    def give_up(self, index: int, flaws: "tuple[Flaw, ...] | list[Flaw]") -> None:
        """Note why the rest of the file is not read."""
        for flaw in flaws:
            self.flaws.add(index, flaw)
        self.flaws.is_complete = False
        self.is_last = True

    def plan(self, header: Any) -> GroupPlan:
        before = self._errors_before
        self.flaws.is_complete &= self._rules.reader.is_complete
        errors = Errors(
            self.flaws.count - before.count,
            self.flaws.is_complete,
            self.flaws.invalid_bytes - before.invalid_bytes,
            self.flaws.indexed,
        )
        return GroupPlan(
            self._number,
            self.first_index,
            self._cut.sizes,
            {"byte": self.at[0], "line": self.at[1], "header": header},
            self.is_last,
            self._cut.handler_seconds,
            self._has_own_ids,
            errors=errors,
        )

    def _seconds_of(self, read: ReadOperation) -> float:
        return 0.0 if read.route is None else self._known.get(read.route.name, self._unmeasured)

    def _add_invalid(self, line: int, flaws: list[Flaw], size: int) -> bool:
        """Count an invalid operation. Its place among the others counts, but it will not be sent."""
        if not self._cut.add(0, 0.0):
            return False
        for flaw in flaws:
            at = pointer("operations", self.index) + flaw.pointer
            self.flaws.add(self.index, Flaw(at, flaw.detail, line))
        self.flaws.invalid_bytes += size
        self.index += 1
        if self.flaws.is_full:
            raise InvalidRequest([])
        return True

    def _note_ids(self, operation_id: str, own_key: str | None) -> None:
        """Note the digests that show if an id or a key is there twice.

        An operation without an id has its index as its id. If no operation of the group has an own id, these need no
        digests until it is known that another group has some.
        """
        is_own = operation_id != str(self.index)
        if is_own and not self._has_own_ids:
            self._has_own_ids = True
            if not self._rules.form.has_line_ids:
                self.before_own_ids = range(self.first_index, self.index)
        if self._has_own_ids and not self._rules.form.has_line_ids:
            self.digests.add(self._rules.digest("id", operation_id))
        if own_key is not None:
            self.digests.add(self._rules.digest("key", own_key))


def _id_of(document: Any) -> str | None:
    """Return the id that a client gave to an operation. Another value is an error, which the reader finds."""
    given = document.get("id") if type(document) is dict else None
    return given if type(given) is str and len(given) <= LONGEST_ID else None


def _key_of(document: Any) -> str | None:
    given = document.get("key") if type(document) is dict else None
    return given if type(given) is str and len(given) <= LONGEST_KEY else None
