"""Submits a file as one batch, or as several if a limit requires it, and follows them until they have finished."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path

from penstock.cli.progress import Screen
from penstock.cli.submitted_file import OperationsToSubmit, RowsToSubmit, ToSubmit
from penstock.client import (
    AnswerLost,
    AsyncBatch,
    AsyncClient,
    ClientError,
    NotPenstock,
    Outcome,
    Problem,
    Status,
    TooLarge,
)
from penstock.client.content import Content

_UNCERTAIN = frozenset({500, 502, 503, 504})  # without a Retry-After, the batch may have been accepted before


@dataclass(slots=True)
class Part:
    """A batch that the server accepted. `span` are its operations in the file, or None if it is the whole file."""

    batch: AsyncBatch
    span: range | None
    status: Status | None = None  # the newest one
    unreadable: str = ""  # why its status or its outcomes could not be read. They are on the server

    @property
    def is_final(self) -> bool:
        return self.status is not None and self.status.is_final


@dataclass(frozen=True, slots=True)
class Tally:
    """How many operations have which outcome, in all batches together."""

    total: int = 0
    completed: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    redelivered: int = 0


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the posting stopped, and at which operations; None is the whole file."""

    error: ClientError
    span: range | None
    needs_split: bool = False  # smaller batches may be accepted, but the options allow only one

    @property
    def is_uncertain(self) -> bool:
        """Return True if the batch may have been accepted, although the answer does not say so."""
        if isinstance(self.error, Problem):
            return self.error.status in _UNCERTAIN and self.error.retry_after is None
        return isinstance(self.error, AnswerLost | NotPenstock)


@dataclass(slots=True)
class Submission:
    """Its life: `post` all operations, `follow` the batches until they are final, read the `outcomes`.

    A batch that is too large is cut, with the limit that the answer names. If the server rejects a batch, posting ends,
    but the batches that were accepted before are still followed. After Ctrl-C, `parts` has what runs on the server.
    """

    client: AsyncClient
    file: ToSubmit
    options: Mapping[str, str]
    screen: Screen
    most_operations: int | None = None  # in one batch
    upload: Path | None = None  # a CSV file that goes to the bucket of the server first
    can_split: bool = True  # if the file is too large for one batch
    parts: list[Part] = field(default_factory=list)
    stop: Stop | None = None
    unsubmitted: list[range] = field(default_factory=list)

    @property
    def counts(self) -> Tally:
        """Return the counts of all accepted batches. The total is that of the file, if it is known."""
        found = [part.status for part in self.parts if part.status is not None]
        names = ("completed", "succeeded", "failed", "cancelled", "expired", "redelivered")
        sums = {name: sum(getattr(status, name) for status in found) for name in names}
        return Tally(self._submitted(found), **sums)

    def _submitted(self, found: list[Status]) -> int:
        spans = [part.span for part in self.parts if part.span is not None]
        return sum(map(len, spans)) if spans else sum(status.total for status in found)

    async def post(self) -> None:
        """Post the file. Afterwards `stop` says why not all of it was accepted, if so."""
        if isinstance(self.file, RowsToSubmit):
            await self._post_rows(self.file)
        if isinstance(self.file, OperationsToSubmit):
            await self._post_operations(self.file)

    async def _post_rows(self, file: RowsToSubmit) -> None:
        try:
            content = file.content()
            if self.upload is not None:
                upload_id = await self.client.upload(self.upload)
                content = replace(content, body=None, query={**content.query, "upload": upload_id})
            await self._post(content, None)
        except TooLarge as error:
            if error.errors or not self.can_split:  # the errors are of single rows
                self.stop = Stop(error, None, needs_split=not error.errors)
                return
            self.screen.say(f"The file is too large for one batch ({error.sentence}). Reading its rows.")
            self.file = file.operations()
            self.most_operations = self._smaller(self.file.total, error)
            if self.most_operations is None:
                self.stop = Stop(error, None)
        except ClientError as error:
            self.stop = Stop(error, None)

    async def _post_operations(self, file: OperationsToSubmit) -> None:
        self.unsubmitted = [range(file.total)]
        while self.unsubmitted and self.stop is None:
            rest = self.unsubmitted.pop(0)
            count = len(rest) if file.is_atomic or self.most_operations is None else self.most_operations
            span, rest = rest[:count], rest[count:]
            if rest:
                self.unsubmitted.insert(0, rest)
            try:
                await self._post(file.content(span), span)
            except TooLarge as error:
                self.unsubmitted.insert(0, span)
                self._cut(file, span, error)
            except ClientError as error:
                self.stop = Stop(error, span)
                if not self.stop.is_uncertain:
                    self.unsubmitted.insert(0, span)

    async def _post(self, content: Content, span: range | None) -> None:
        try:
            batch = await self.client.post(content, {**content.query, **self.options})
        except asyncio.CancelledError:
            self.stop = Stop(AnswerLost("The command was stopped before the server answered."), span)
            raise
        self.parts.append(Part(batch, span))

    def _cut(self, file: OperationsToSubmit, span: range, error: TooLarge) -> None:
        most = None if file.is_atomic else self._smaller(len(span), error)
        if most is None or not self.can_split:
            self.stop = Stop(error, span, needs_split=most is not None)
            return
        self.screen.say(f"The batch is too large for the server ({error.sentence}). Continuing with smaller batches.")
        self.most_operations = most

    def _smaller(self, posted: int, error: TooLarge) -> int | None:
        """Return how many operations to post instead, or None if smaller batches would not help."""
        if posted == 1 or error.errors:
            return None
        if error.max_operations is None:  # a limit of bytes, or one of a proxy, which names none
            return posted // 2
        return max(1, error.max_operations) if error.max_operations < posted else None

    async def follow(self) -> None:
        """Show the progress of all batches until they are final."""
        for part in self.parts:
            try:
                async with aclosing(part.batch.statuses()) as statuses:
                    async for part.status in statuses:
                        self.screen.show(self.counts)
            except ClientError as error:
                part.unreadable = str(error)

    async def outcomes(self, *, only_failed: bool) -> AsyncGenerator[tuple[int, Outcome]]:
        """Yield the outcomes of all final batches in the order of the file, each with its index if all are read."""
        for part in self.parts:
            if part.status is None or not part.status.is_final:
                continue
            first = index = 0 if part.span is None else part.span.start
            try:
                async with aclosing(part.batch.results(status="failed" if only_failed else None)) as outcomes:
                    async for outcome in outcomes:
                        yield index, outcome
                        index += 1
            except ClientError as error:
                part.unreadable = str(error)
            else:
                due = part.status.failed if only_failed else part.status.total
                if index - first < due:
                    part.unreadable = f"The server returned {index - first:,} of {due:,} outcomes."
