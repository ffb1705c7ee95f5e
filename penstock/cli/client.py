"""Submits operations over HTTP: post the batches, follow them to their end, collect the outcomes.

`Client` speaks to the server, one call at a time. `Submission` carries a whole file through it: as several batches
where a limit asks for it, followed as one.

A POST is never repeated unless the server said that it did not take the batch: a batch that may have been accepted
would otherwise run twice. A GET is repeated as long as patience lasts.
"""

import asyncio
import heapq
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from io import BytesIO
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from yarl import URL

from penstock.cli.operations_file import FileOperation, OperationsFile

T = TypeVar("T")
Outcome = dict[str, Any]

_FINAL = frozenset({"completed", "failed", "cancelled", "expired"})
_PROBLEM_TYPE = "application/problem+json"
_NDJSON_TYPE = "application/x-ndjson"

# Posting waits long for its answer (a synchronous batch runs meanwhile); a read that hangs is better asked again.
_POST_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=300)
_READ_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=30)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the client asks, and how long it bears not being answered."""

    poll_seconds: float = 0.2
    poll_max_seconds: float = 2.0
    backoff_seconds: float = 0.5  # doubled for each attempt in a row ...
    backoff_max_seconds: float = 10.0  # ... up to this
    max_attempts: int = 8  # of one GET: about 45 seconds in all
    max_turned_away: int = 10  # "429" or "503, Retry-After" in a row, over all batches
    posts_in_flight: int = 4
    followed_at_once: int = 8  # batches run in the order they came: asking after all of a thousand tells no more

    def backoff(self, failures: int) -> float:
        return min(self.backoff_seconds * 2.0 ** (failures - 1), self.backoff_max_seconds)


@dataclass(frozen=True, slots=True)
class Counts:
    """How many operations came to what; of one batch, or of several added up."""

    total: int = 0
    completed: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.total + other.total,
            self.completed + other.completed,
            self.succeeded + other.succeeded,
            self.failed + other.failed,
            self.cancelled + other.cancelled,
            self.expired + other.expired,
        )


class _Body(BaseModel):
    """What the server says: members we do not know are not our business."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class ProblemError(_Body):
    pointer: str = ""
    detail: str = ""


class Problem(_Body):
    """An RFC 9457 problem, or what can be told of an answer that is none."""

    title: str = ""
    detail: str = ""
    errors: list[ProblemError] = Field(default_factory=list)
    error_count: int = 0  # where not all of them are in `errors`
    max_operations: int | None = None
    max_body_bytes: int | None = None

    def __str__(self) -> str:
        """Without a full stop, to stand inside a sentence."""
        return f"{self.title}: {self.detail.rstrip('.')}" if self.detail else self.title


class _Status(_Body):
    status: str
    total: int
    completed: int
    succeeded: int
    failed: int
    cancelled: int = 0
    expired: int = 0

    def counts(self) -> Counts:
        return Counts(self.total, self.completed, self.succeeded, self.failed, self.cancelled, self.expired)


class _Later(_Body):
    status_url: str
    results_url: str


class _Summary(_Body):
    total: int
    succeeded: int
    failed: int


class _AtOnce(_Body):
    summary: _Summary
    results: list[Outcome]


@dataclass(slots=True)
class AcceptedBatch:
    """A batch the server took. It is followed until it is final, or until it is lost sight of."""

    span: range  # of the file's operations
    counts: Counts
    is_final: bool = False
    outcomes: Sequence[Outcome] | None = None  # of a batch that was answered at once
    status_url: URL = field(default_factory=URL)
    results_url: URL = field(default_factory=URL)
    first_poll_seconds: float = 0.0
    lost: str = ""  # why its counts or outcomes could not be read; on the server they are all the same


@dataclass(frozen=True, slots=True)
class TooLarge:
    """Not accepted: the batch is over one of the server's limits. In smaller batches it may go."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """Not accepted: the server is busy, or our rate is used up. The same batch may go later."""

    status: int
    problem: Problem
    after_seconds: float | None


@dataclass(frozen=True, slots=True)
class Refused:
    """Not accepted, and would not be if it were posted again."""

    status: int
    problem: Problem


@dataclass(frozen=True, slots=True)
class NothingAnswers:
    """Not accepted: no connection came about. The reason is given where it is not just that."""

    reason: str


@dataclass(frozen=True, slots=True)
class Uncertain:
    """The batch was sent, and what became of it is not known. Posting it again could run it twice."""

    reason: str


Answer = AcceptedBatch | TooLarge | TurnedAway | Refused | NothingAnswers | Uncertain


class OutOfReach(Exception):
    """A batch's status or results could not be read, patiently; it goes on on the server."""


class _Transient(Exception):
    """A read failed in a way that may pass."""

    def __init__(self, reason: str, after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.after_seconds = after_seconds


class Screen(Protocol):
    """Where a submission tells how it goes."""

    def show(self, counts: Counts) -> None:
        """The counts changed."""

    def say(self, sentence: str) -> None:
        """Something worth a line happened."""


class Client:
    """The server's HTTP face, one call at a time. Used as `async with`."""

    def __init__(self, url: URL, pace: Pace, screen: Screen) -> None:
        self._url = url
        self._pace = pace
        self._screen = screen
        self._is_reading = True

    async def __aenter__(self) -> Self:
        # A connection for each request: on one kept open, the server's closing it for idleness just as we post
        # looks the same as a batch that was sent and never answered.
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def post(self, file: OperationsFile, span: range) -> Answer:
        """Posts the span as one batch, once."""
        body = BytesIO(encode_batch(file, span))
        headers = {"Content-Type": "application/json", "Accept": f"application/json, {_PROBLEM_TYPE}"}
        try:
            async with self._session.post(
                self._url / "batch", data=body, headers=headers, timeout=_POST_TIMEOUT, allow_redirects=False
            ) as response:
                return await self._answer(response, span)
        except aiohttp.ClientConnectorError as error:
            return NothingAnswers("" if _is_plain(error) else str(error))
        except aiohttp.ConnectionTimeoutError:
            return NothingAnswers("")
        except (aiohttp.ClientError, TimeoutError) as error:
            return Uncertain(_reason(error))

    async def _answer(self, response: aiohttp.ClientResponse, span: range) -> Answer:
        if response.status in {200, 202}:
            return await self._acceptance(response, span)
        problem, after_seconds = await _problem(response), _retry_after(response)
        if response.status == 413:
            return TooLarge(problem)
        if response.status == 429 or (response.status == 503 and after_seconds is not None):
            return TurnedAway(response.status, problem, after_seconds)
        if response.status >= 500:  # it may have failed after it had accepted
            return Uncertain(f"the server answered {response.status} {problem}")
        return Refused(response.status, problem)

    async def _acceptance(self, response: aiohttp.ClientResponse, span: range) -> AcceptedBatch | Uncertain:
        try:
            if response.status == 200:
                now = _AtOnce.model_validate_json(await response.read())
                done = now.summary
                counts = Counts(done.total, done.total, done.succeeded, done.failed)
                return AcceptedBatch(span, counts, is_final=True, outcomes=now.results)
            later = _Later.model_validate_json(await response.read())
        except ValueError:
            return Uncertain(f"the server answered {response.status}, but not in Penstock's words")
        first_poll = _retry_after(response)
        return AcceptedBatch(
            span,
            Counts(total=len(span)),
            status_url=response.url.join(URL(later.status_url)),
            results_url=response.url.join(URL(later.results_url)),
            first_poll_seconds=self._pace.poll_seconds if first_poll is None else first_poll,
        )

    async def follow(self, batch: AcceptedBatch, changed: Callable[[], None]) -> None:
        """Keeps the batch's counts up to date until it is final; OutOfReach if they cannot be had."""
        interval = self._pace.poll_seconds
        while not batch.is_final:
            status, wait = await self._patiently(lambda: self._status(batch))
            batch.counts, batch.is_final = status.counts(), status.status in _FINAL
            changed()
            if not batch.is_final:
                await asyncio.sleep(interval if wait is None else wait)
            interval = min(interval * 1.5, self._pace.poll_max_seconds)

    async def _status(self, batch: AcceptedBatch) -> tuple[_Status, float | None]:
        try:
            async with self._session.get(batch.status_url, timeout=_READ_TIMEOUT) as response:
                await _check_read(response)
                return _Status.model_validate_json(await response.read()), _retry_after(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _Transient(_reason(error)) from error
        except ValidationError as error:
            raise OutOfReach(f"{batch.status_url} does not answer in Penstock's words") from error

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        failures = 0
        while True:
            try:
                answer = await ask()
            except _Transient as error:
                failures += 1
                await self._back_off(failures, error)
            else:
                self._is_reading = True
                return answer

    async def _back_off(self, failures: int, error: _Transient) -> None:
        if failures >= self._pace.max_attempts:
            raise OutOfReach(f"{error}, {failures} times in a row") from error
        if self._is_reading:  # once, for all that is read at the same time
            self._screen.say(f"No news from the server ({error}); asking again.")
            self._is_reading = False
        after = error.after_seconds
        await asyncio.sleep(self._pace.backoff(failures) if after is None else after)

    async def outcomes(self, batch: AcceptedBatch, *, only_failed: bool) -> AsyncGenerator[Outcome, None]:
        """The outcomes of a final batch in operation order, as a stream: they need not fit into memory.

        A stream that breaks is asked for again and read over up to where it broke: final results do not move.
        """
        if batch.outcomes is not None:
            for outcome in batch.outcomes:
                if "error" in outcome or not only_failed:
                    yield outcome
            return
        url = batch.results_url.update_query(status="failed") if only_failed else batch.results_url
        seen = failures = 0
        while True:
            try:
                position = 0
                async with aclosing(self._stream(url)) as stream:
                    async for outcome in stream:
                        position += 1
                        if position > seen:
                            seen, failures, self._is_reading = position, 0, True
                            yield outcome
            except _Transient as error:
                failures += 1
                await self._back_off(failures, error)
            else:
                return

    async def _stream(self, url: URL) -> AsyncGenerator[Outcome, None]:
        try:
            async with self._session.get(url, headers={"Accept": _NDJSON_TYPE}, timeout=_READ_TIMEOUT) as response:
                await _check_read(response)
                async with aclosing(_lines(response.content)) as lines:
                    async for line in lines:
                        yield json.loads(line)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _Transient(_reason(error)) from error
        except ValueError as error:
            raise OutOfReach(f"{url} does not answer in NDJSON") from error


async def _lines(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """Its own readline: aiohttp's gives up on lines over 128 KiB, and a result may be longer."""
    rest = b""
    async for data in content.iter_any():
        *lines, rest = (rest + data).split(b"\n")
        for line in filter(None, lines):
            yield line
    if rest:
        yield rest


async def _check_read(response: aiohttp.ClientResponse) -> None:
    if response.status == 200:
        return
    reason = f"{response.url} answered {response.status} {await _problem(response)}"
    if response.status == 429 or response.status >= 500:
        raise _Transient(reason, _retry_after(response))
    raise OutOfReach(reason)


async def _problem(response: aiohttp.ClientResponse) -> Problem:
    if response.content_type == _PROBLEM_TYPE:
        with suppress(ValidationError):
            return Problem.model_validate_json(await response.read())
    location = response.headers.get("Location", "")
    return Problem(title=response.reason or "", detail=location and f"it names {location}")


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """The header in seconds: it holds these, or a date."""
    value = response.headers.get("Retry-After", "")
    with suppress(ValueError):
        if value.isdecimal():
            return float(value)
        at = parsedate_to_datetime(value)
        return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError) and _is_plain(error):
        return f"nothing answers at {error.host}:{error.port}"
    return str(error) or type(error).__name__


def _is_plain(error: aiohttp.ClientConnectorError) -> bool:
    """Nobody listens there. Otherwise the reason is worth telling: an unknown name, a certificate."""
    return not isinstance(error, aiohttp.ClientConnectorDNSError | aiohttp.ClientSSLError)


def encode_batch(file: OperationsFile, span: range) -> bytes:
    """The body of one batch; each operation is in bytes already."""
    head = b"".join(f"{json.dumps(key)}:{json.dumps(value)},".encode() for key, value in file.envelope.items())
    operations = file.operations[span.start : span.stop]
    return b'{%b"operations":[%b]}' % (head, b",".join(operation.encoded for operation in operations))


@dataclass(frozen=True, slots=True)
class Limits:
    """What one batch may hold, as far as we know."""

    operations: int
    body_bytes: int | None = None

    def cut(self, operations: Sequence[FileOperation], span: range, envelope_bytes: int) -> int:
        """How many operations from the start of the span fit one batch: at least one, for the server to judge."""
        most = min(self.operations, len(span))
        if self.body_bytes is None:
            return most
        size = envelope_bytes
        for count in range(most):
            size += len(operations[span.start + count].encoded) + 1
            if size > self.body_bytes:
                return max(count, 1)
        return most

    def lowered(self, posted: int, posted_bytes: int, problem: Problem) -> "Limits | None":
        """The limits after a 413, or None if it teaches nothing that would let this batch through in parts."""
        most, most_bytes = problem.max_operations, problem.max_body_bytes
        if posted == 1:
            return None
        if most is None and most_bytes is None and not problem.errors:  # a proxy's word: it names nothing
            most_bytes = posted_bytes // 2
        if most is not None and most < posted:
            return Limits(max(1, min(most, self.operations)), self.body_bytes)
        if most_bytes is not None and most_bytes < posted_bytes:
            return Limits(self.operations, min(most_bytes, self.body_bytes or most_bytes))
        return None


class Submission:
    """A file's operations on their way through the server.

    It cuts off a batch, posts it, and learns from the answer: accepted, it is followed; too large, it is cut anew
    under the limit just learned; turned away, all posting pauses; refused, posting ends, and what was accepted
    before is followed to its end all the same. What became of every operation can be told at any moment, after a
    Ctrl-C too: it is in `accepted`, in `uncertain`, or in `unsubmitted`.
    """

    def __init__(self, client: Client, file: OperationsFile, batch_operations: int, pace: Pace, screen: Screen) -> None:
        self.file = file
        self.accepted: list[AcceptedBatch] = []
        self.stopped_by: tuple[range, Answer] | None = None
        self._client = client
        self._pace = pace
        self._screen = screen
        # An atomic batch is one batch, whatever its size: the server says whether it is too large.
        everything = range(len(file.operations))
        self._limits = Limits(len(everything) if file.is_atomic else batch_operations)
        self._envelope_bytes = len(encode_batch(file, range(0)))
        self._open = [(everything.start, everything)]  # a heap: the file goes out from its start
        self._posting: list[range] = []
        self._uncertain: list[range] = []
        self._turned_away = 0
        self._resume_at = 0.0
        self._following = asyncio.Semaphore(pace.followed_at_once)

    @property
    def counts(self) -> Counts:
        """Of all that is accepted; the total is the file's as long as the rest may still follow."""
        counts = sum((batch.counts for batch in self.accepted), Counts())
        waiting = 0 if self.stopped_by else len(self.file.operations) - counts.total
        return counts + Counts(total=waiting)

    @property
    def unsubmitted(self) -> list[range]:
        return sorted((span for _, span in self._open), key=lambda span: span.start)

    @property
    def uncertain(self) -> list[range]:
        """Sent, and never answered: what a Ctrl-C finds under way among them."""
        return sorted([*self._uncertain, *self._posting], key=lambda span: span.start)

    async def run(self) -> None:
        """Posts everything and follows it to the end.

        The first batch goes alone: a limit, a wrong path, a missing server is told once, before more is sent.
        """
        async with asyncio.TaskGroup() as tasks:
            await self._post_next(tasks)
            for _ in range(self._pace.posts_in_flight):
                tasks.create_task(self._post_rest(tasks))
        self.accepted.sort(key=lambda batch: batch.span.start)

    async def _post_rest(self, tasks: asyncio.TaskGroup) -> None:
        while self._open and not self.stopped_by:
            if (wait := self._resume_at - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            else:
                await self._post_next(tasks)

    async def _post_next(self, tasks: asyncio.TaskGroup) -> None:
        span = self._take()
        self._posting.append(span)
        answer = await self._client.post(self.file, span)
        self._posting.remove(span)
        self._settle(span, answer, tasks)

    def _take(self) -> range:
        _, span = heapq.heappop(self._open)
        count = self._limits.cut(self.file.operations, span, self._envelope_bytes)
        if rest := span[count:]:
            self._put_back(rest)
        return span[:count]

    def _put_back(self, span: range) -> None:
        heapq.heappush(self._open, (span.start, span))

    def _settle(self, span: range, answer: Answer, tasks: asyncio.TaskGroup) -> None:
        match answer:
            case AcceptedBatch():
                self._turned_away = 0
                self.accepted.append(answer)
                self._screen.show(self.counts)
                tasks.create_task(self._follow(answer))
            case Uncertain():
                self._uncertain.append(span)
                self._stop(span, answer)
            case TooLarge() if limits := self._lowered_limits(span, answer):
                self._put_back(span)
                self._limits = limits
            case TurnedAway() if self._turned_away < self._pace.max_turned_away:
                self._put_back(span)
                self._pause(answer)
            case _:
                self._put_back(span)
                self._stop(span, answer)

    def _stop(self, span: range, answer: Answer) -> None:
        """The first reason counts; batches under way meanwhile only repeat it."""
        if self.stopped_by is None:
            self.stopped_by = (span, answer)

    def _lowered_limits(self, span: range, answer: TooLarge) -> Limits | None:
        if self.file.is_atomic:
            return None
        limits = self._limits.lowered(len(span), len(encode_batch(self.file, span)), answer.problem)
        if limits and limits != self._limits:
            self._screen.say(f"The server takes less at once ({answer.problem}); going on in smaller batches.")
        return limits

    def _pause(self, answer: TurnedAway) -> None:
        self._turned_away += 1
        after = answer.after_seconds
        wait = self._pace.backoff(self._turned_away) if after is None else after
        if self._resume_at <= time.monotonic():  # those posted beside it are told the same
            self._screen.say(
                f"The server asks to wait ({answer.status} {answer.problem}); trying again in {wait:.0f} s."
            )
        self._resume_at = max(self._resume_at, time.monotonic() + wait)

    async def outcomes(self, *, only_failed: bool) -> AsyncGenerator[tuple[FileOperation, Outcome], None]:
        """What the operations of all final batches came to, in the order of the file."""
        for batch in self.accepted:
            due = batch.counts.failed if only_failed else batch.counts.total
            if not batch.is_final or not due:
                continue
            operations = self.file.operations[batch.span.start : batch.span.stop]
            by_id = {operation.id: operation for operation in operations}
            seen = 0
            try:
                async with aclosing(self._client.outcomes(batch, only_failed=only_failed)) as outcomes:
                    async for outcome in outcomes:
                        if operation := by_id.get(str(outcome.get("id"))):
                            seen += 1
                            yield operation, outcome
            except OutOfReach as error:
                batch.lost = str(error)
            else:
                if seen < due:
                    batch.lost = f"the server gave {seen:,} of {due:,} outcomes"

    async def _follow(self, batch: AcceptedBatch) -> None:
        await asyncio.sleep(batch.first_poll_seconds)
        async with self._following:
            try:
                await self._client.follow(batch, lambda: self._screen.show(self.counts))
            except OutOfReach as error:
                batch.lost = str(error)
