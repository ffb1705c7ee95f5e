"""A batch while its request is read: every operation is validated for its handler, and encoded for the queue at once.

A small one keeps its operations, since it may be answered at once. Of a large one no more is in memory than the chunk
that is being filled: full chunks are put aside, and nothing is sent before the whole batch is valid.
"""

import math
from array import array
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError
from pydantic_core import to_json

from penstock.chunk import Operation
from penstock.errors import Flaw, InvalidRequest, LimitPassed
from penstock.message import encode_parts, size_on_the_queue
from penstock.operations import Operations
from penstock.pace import UNMEASURED_SECONDS
from penstock.pointer import pointer
from penstock.route import InvalidOperation
from penstock.service.flaws import MOST_FLAWS, Flaws, errors_of, to_flaw
from penstock.service.handler_times import HandlerTimes
from penstock.service.intake.ids import Duplicate, Ids
from penstock.service.intake.plan import Plan
from penstock.service.schemas import OperationRequest
from penstock.settings import Settings

# What `model_validate` does, without its own part of the cost: it is called for every operation of every batch.
_validate_request: Callable[[Any], OperationRequest] = OperationRequest.__pydantic_validator__.validate_python


class Draft:
    """`take` every operation, and as soon as it is large `plan_taken`; `check` that nothing is wrong.

    What goes to the background is `finish_plan`ned; then `plan` and `ids` are whole.
    """

    def __init__(
        self, batch_id: str, registry: Operations[Any], settings: Settings, handler_times: HandlerTimes
    ) -> None:
        self.batch_id = batch_id
        self.total = 0
        self.first_forwarded: int | None = None  # the operation that another program performs
        self.operations: list[Operation] = []  # of a small batch all, of a large one none
        self.flaws = Flaws()
        self.ids = Ids()
        self.plan = Plan(batch_id, settings)
        self._registry = registry
        self._most_kept = settings.sync_max_operations
        self._handler_times = handler_times
        self._handler_seconds = 0.0  # of all that is planned
        self._taken: list[tuple[bytes, str]] = []  # encoded, and the handler's name; not planned yet
        self._lines = array("I")  # of a stream: the line of each operation
        self._giants = Flaws()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ids.close()
        self.plan.close()

    @property
    def is_large(self) -> bool:
        return self.total > self._most_kept

    def grow_large(self) -> None:
        """Its operations take too much memory to be kept, few as they may be."""
        self._most_kept = -1
        self.operations = []

    def take(self, document: Any, line: int | None = None) -> None:
        """The next operation, as it came."""
        index, operation_id = self._count(document, line)
        try:
            request = _validate_request(document)
            route = self._registry.match(request.method, request.path)
            body = to_json(request.body)
            route.arguments(request.path, request.body, body)
        except ValidationError as error:
            self._refuse(index, [to_flaw(one, document) for one in errors_of(error)])
        except InvalidOperation as error:
            self._refuse(index, error.flaws)
        else:
            if route.is_forwarded and self.first_forwarded is None:
                self.first_forwarded = index
            if self.flaws.count == 0:
                encoded = encode_parts(index, operation_id, request.method, request.path, body)
                self._taken.append((encoded, route.name))
                self._keep(index, operation_id, request)

    def take_unreadable(self, detail: str, line: int) -> None:
        index, _ = self._count(None, line)
        self._refuse(index, [Flaw("", detail)])

    def refuse_outside_transaction(self) -> None:
        """Of an atomic batch, whatever could not be rolled back with the rest."""
        for operation in self.operations:
            route = self._registry.match(operation.method, operation.path)
            if not route.has_transaction:
                detail = f"{route.name} has no part in the transaction, so it could not be rolled back."
                self._refuse(operation.index, [Flaw("/path", detail)])

    async def plan_taken(self, share: float = 1) -> None:
        """`share` is how much of the batch has been taken; 0 where nobody knows, and then it counts as large."""
        if self.flaws.count:
            self._taken.clear()  # nothing of it will be sent
            return
        known = await self._handler_times.read()
        seconds = [known.get(name, UNMEASURED_SECONDS) for _, name in self._taken]
        self._handler_seconds += sum(seconds)
        self.plan.expect(self._handler_seconds / share if share else math.inf)
        first = self.total - len(self._taken)
        for index, ((encoded, _), taking) in enumerate(zip(self._taken, seconds, strict=True), start=first):
            size = size_on_the_queue(encoded)
            if size > self.plan.room:
                detail = f"takes {size:,} bytes as a message; at most {self.plan.room:,} fit."
                self._giants.add(index, self._at(index, Flaw("", detail)))
            else:
                self.plan.add(encoded, taking)
        self._taken.clear()

    async def check(self) -> None:
        """Raises InvalidRequest, or LimitPassed, with all that is wrong."""
        count, duplicates = await self.ids.duplicates(MOST_FLAWS)
        self.flaws.put_first([(one.index, self._duplicate(one)) for one in duplicates], count)
        if self.flaws.count:
            raise InvalidRequest(self.flaws.told, self.flaws.count)

    async def finish_plan(self) -> None:
        """Raises LimitPassed, naming every operation that fits into no message."""
        await self.plan_taken()
        self.plan.finish()
        count = self._giants.count
        if count:
            raise LimitPassed(
                f"{count} of the operations {'is' if count == 1 else 'are'} too large for a message of the queue.",
                limit={"maxOperationBytes": self.plan.room},
                flaws=self._giants.told,
                count=count,
            )

    def _count(self, document: Any, line: int | None) -> tuple[int, str]:
        """Its place and its id; also of an operation that is wrong otherwise, so that a duplicate is told at once."""
        index = self.total
        self.total += 1
        if line is not None:
            self._lines.append(line)
        given = document.get("id") if isinstance(document, dict) else None
        return index, self.ids.add(given if isinstance(given, str) else None)

    def _keep(self, index: int, operation_id: str, request: OperationRequest) -> None:
        if not self.is_large:
            self.operations.append(Operation(index, operation_id, request.method, request.path, request.body))
        elif self.operations:
            self.operations = []

    def _duplicate(self, found: Duplicate) -> Flaw:
        detail = f"{found.id!r} is the id of operation {found.first} too; ids are unique."
        return self._at(found.index, Flaw("/id", detail))

    def _refuse(self, index: int, flaws: Iterable[Flaw]) -> None:
        for flaw in flaws:
            self.flaws.add(index, self._at(index, flaw))

    def _at(self, index: int, flaw: Flaw) -> Flaw:
        """A flaw of this operation; its pointer was from the operation on."""
        line = self._lines[index] if self._lines else None
        return Flaw(pointer("operations", index) + flaw.pointer, flaw.detail, line)
