"""Submits operations over HTTP: posts the batches, follows them until they have finished, collects the outcomes.

`Client` talks to the server, one call at a time. `FileSubmission` submits a whole file: as several batches if a limit
requires it, followed as one.

A POST is repeated only if the server said that it did not accept the batch. Otherwise a batch that was accepted could
run twice. A GET is repeated until it has failed too often.
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
from pydantic import ValidationError
from yarl import URL

from penstock.cli.operations_file import FileOperation, OperationsFile
from penstock.cli.server import PROBLEM_TYPE, Body, Problem, authorization, read_problem

T = TypeVar("T")
OutcomeJson = dict[str, Any]

_FINAL = frozenset({"completed", "failed", "cancelled", "expired"})
_NDJSON_TYPE = "application/x-ndjson"

# A POST may take long: a synchronous batch runs before it is answered. A GET that takes long is better repeated.
_POST_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=300)
_READ_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=30)


@dataclass(frozen=True, slots=True)
class RequestPolicy:
    """How often the client sends a request, and how often it repeats one that failed."""

    poll_seconds: float = 0.2
    poll_max_seconds: float = 2.0
    backoff_seconds: float = 0.5  # doubled after each further failure ...
    backoff_max_seconds: float = 10.0  # ... up to this
    max_attempts: int = 8  # of one GET: about 45 seconds in total
    max_waits: int = 10  # how often in a row the server may ask to wait, over all batches
    posts_in_flight: int = 4
    followed_at_once: int = 8  # batches run in the order of their arrival: following a thousand would show no more

    def backoff(self, failures: int) -> float:
        return min(self.backoff_seconds * 2.0 ** (failures - 1), self.backoff_max_seconds)


@dataclass(frozen=True, slots=True)
class Tally:
    """How many operations have which outcome, in one batch or in several together.

    `redelivered` counts how often operations were delivered again after they may have started.
    """

    total: int = 0
    completed: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    redelivered: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.total + other.total,
            self.completed + other.completed,
            self.succeeded + other.succeeded,
            self.failed + other.failed,
            self.cancelled + other.cancelled,
            self.expired + other.expired,
            self.redelivered + other.redelivered,
        )


class _Status(Body):
    status: str
    total: int
    completed: int
    succeeded: int
    failed: int
    cancelled: int = 0
    expired: int = 0
    redelivered: int = 0

    def counts(self) -> Tally:
        return Tally(
            self.total,
            self.completed,
            self.succeeded,
            self.failed,
            self.cancelled,
            self.expired,
            self.redelivered,
        )


class _Accepted(Body):
    status_url: str
    results_url: str


class _Summary(Body):
    total: int
    succeeded: int
    failed: int


class _Finished(Body):
    summary: _Summary
    results: list[OutcomeJson]


@dataclass(slots=True)
class AcceptedBatch:
    """A batch that the server accepted. It is followed until it is final or can no longer be read."""

    span: range  # of the file's operations
    counts: Tally
    is_final: bool = False
    outcomes: Sequence[OutcomeJson] | None = None  # if the batch was answered synchronously
    status_url: URL = field(default_factory=URL)
    results_url: URL = field(default_factory=URL)
    first_poll_seconds: float = 0.0
    unreadable: str = ""  # why its counts or outcomes could not be read. They still exist on the server.


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The batch was not accepted because it exceeds a limit. Its operations may fit into smaller batches."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class AskedToWait:
    """The batch was not accepted because the server is busy or limits our rate. It may be posted again later."""

    status: int
    problem: Problem
    after_seconds: float | None


@dataclass(frozen=True, slots=True)
class Rejected:
    """The batch was not accepted, and posting it again would give the same answer."""

    status: int
    problem: Problem


@dataclass(frozen=True, slots=True)
class Unreachable:
    """The batch was not accepted because no connection could be opened. The reason is empty if nothing listens."""

    reason: str


@dataclass(frozen=True, slots=True)
class Uncertain:
    """The batch was sent, but it is not known if it was accepted. Posting it again could run it twice."""

    reason: str


PostResult = AcceptedBatch | TooLarge | AskedToWait | Rejected | Unreachable | Uncertain


class OutOfReach(Exception):
    """The status or the results of a batch could not be read, after all attempts. The batch still runs."""


class _Transient(Exception):
    """A read failed and may be repeated."""

    def __init__(self, reason: str, after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.after_seconds = after_seconds


class Screen(Protocol):
    """What a submission reports its progress to."""

    def show(self, counts: Tally) -> None:
        """Show the counts, which have changed."""

    def say(self, sentence: str) -> None:
        """Print a sentence for the user."""


class Client:
    """The calls of the server's HTTP API that a submission needs. Use it with `async with`."""

    def __init__(self, url: URL, policy: RequestPolicy, screen: Screen, key: str | None = None) -> None:
        self._url = url
        self._key = key
        self._policy = policy
        self._screen = screen
        self._is_reading = True

    async def __aenter__(self) -> Self:
        # Every request has its own connection. A server may close an idle connection while we post on it, and that
        # cannot be told from a batch that was sent and never answered.
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def post(self, file: OperationsFile, span: range) -> PostResult:
        """Post the span as one batch, once."""
        body = BytesIO(encode_batch(file, span))
        headers = {"Content-Type": "application/json", "Accept": f"application/json, {PROBLEM_TYPE}"}
        headers |= authorization(self._key)
        try:
            async with self._session.post(
                self._url / "batch", data=body, headers=headers, timeout=_POST_TIMEOUT, allow_redirects=False
            ) as response:
                return await self._answer(response, span)
        except aiohttp.ClientConnectorError as error:
            return Unreachable("" if _is_plain(error) else str(error))
        except aiohttp.ConnectionTimeoutError:
            return Unreachable("")
        except (aiohttp.ClientError, TimeoutError) as error:
            return Uncertain(_reason(error))

    async def _answer(self, response: aiohttp.ClientResponse, span: range) -> PostResult:
        if response.status in {200, 202}:
            return await self._acceptance(response, span)
        problem, after_seconds = await read_problem(response), _retry_after(response)
        if response.status == 413:
            return TooLarge(problem)
        if response.status == 429 or (response.status == 503 and after_seconds is not None):
            return AskedToWait(response.status, problem, after_seconds)
        if response.status >= 500:  # the server may have failed after it had accepted the batch
            return Uncertain(f"the server answered {response.status} {problem}")
        return Rejected(response.status, problem)

    async def _acceptance(self, response: aiohttp.ClientResponse, span: range) -> AcceptedBatch | Uncertain:
        try:
            if response.status == 200:
                now = _Finished.model_validate_json(await response.read())
                done = now.summary
                counts = Tally(done.total, done.total, done.succeeded, done.failed)
                return AcceptedBatch(span, counts, is_final=True, outcomes=now.results)
            later = _Accepted.model_validate_json(await response.read())
        except ValueError:
            return Uncertain(f"the server answered {response.status}, but not as Penstock does")
        first_poll = _retry_after(response)
        return AcceptedBatch(
            span,
            Tally(total=len(span)),
            status_url=response.url.join(URL(later.status_url)),
            results_url=response.url.join(URL(later.results_url)),
            first_poll_seconds=self._policy.poll_seconds if first_poll is None else first_poll,
        )

    async def follow(self, batch: AcceptedBatch, changed: Callable[[], None]) -> None:
        """Update the batch's counts until it is final. Raise OutOfReach if they cannot be read.

        Somebody watches them, so this asks more often than the Retry-After of a status says.
        """
        interval = self._policy.poll_seconds
        while not batch.is_final:
            status = await self._repeated(lambda: self._status(batch))
            batch.counts, batch.is_final = status.counts(), status.status in _FINAL
            changed()
            if not batch.is_final:
                await asyncio.sleep(interval)
            interval = min(interval * 1.5, self._policy.poll_max_seconds)

    async def _status(self, batch: AcceptedBatch) -> _Status:
        try:
            async with self._session.get(
                batch.status_url, headers=self._key_for(batch.status_url), timeout=_READ_TIMEOUT
            ) as response:
                await _check_read(response)
                return _Status.model_validate_json(await response.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _Transient(_reason(error)) from error
        except ValidationError as error:
            raise OutOfReach(f"{batch.status_url} does not answer as Penstock does") from error

    def _key_for(self, url: URL) -> dict[str, str]:
        """Return the header with the key, but only for the server that the user has named."""
        return authorization(self._key if url.origin() == self._url.origin() else None)

    async def _repeated(self, ask: Callable[[], Awaitable[T]]) -> T:
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
        if failures >= self._policy.max_attempts:
            raise OutOfReach(f"{error}, {failures} times in a row") from error
        if self._is_reading:  # one sentence for all reads that fail at the same time
            self._screen.say(f"The server cannot be read ({error}). Trying again.")
            self._is_reading = False
        after = error.after_seconds
        await asyncio.sleep(self._policy.backoff(failures) if after is None else after)

    async def outcomes(self, batch: AcceptedBatch, *, only_failed: bool) -> AsyncGenerator[OutcomeJson, None]:
        """Stream the outcomes of a final batch, in the order of its operations: they need not fit into memory.

        If the stream breaks, it is requested again, and what was read before is skipped: final results do not change.
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

    async def _stream(self, url: URL) -> AsyncGenerator[OutcomeJson, None]:
        try:
            headers = {"Accept": _NDJSON_TYPE, **self._key_for(url)}
            async with self._session.get(url, headers=headers, timeout=_READ_TIMEOUT) as response:
                await _check_read(response)
                async with aclosing(_lines(response.content)) as lines:
                    async for line in lines:
                        yield json.loads(line)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _Transient(_reason(error)) from error
        except ValueError as error:
            raise OutOfReach(f"{url} does not answer in NDJSON") from error


async def _lines(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """Read lines of any length. The method of aiohttp fails on lines over 128 KiB, and a result may be longer."""
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
    reason = f"{response.url} answered {response.status} {await read_problem(response)}"
    if response.status == 429 or response.status >= 500:
        raise _Transient(reason, _retry_after(response))
    raise OutOfReach(reason)


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Return the header in seconds. It holds a number of seconds or a date."""
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
    """Return True if nothing listens there. Other reasons have to be shown: an unknown name, a certificate."""
    return not isinstance(error, aiohttp.ClientConnectorDNSError | aiohttp.ClientSSLError)


def encode_batch(file: OperationsFile, span: range) -> bytes:
    """Return the body of one batch. Each operation is already encoded."""
    head = b"".join(f"{json.dumps(key)}:{json.dumps(value)},".encode() for key, value in file.envelope.items())
    operations = file.operations[span.start : span.stop]
    return b'{%b"operations":[%b]}' % (head, b",".join(operation.encoded for operation in operations))


@dataclass(frozen=True, slots=True)
class KnownLimits:
    """What one batch may hold, as far as the server has said."""

    operations: int
    body_bytes: int | None = None

    def cut(self, operations: Sequence[FileOperation], span: range, envelope_bytes: int) -> int:
        """Return how many operations from the start of the span fit into one batch.

        It is at least one: if even that is too large, the server says so.
        """
        most = min(self.operations, len(span))
        if self.body_bytes is None:
            return most
        size = envelope_bytes
        for count in range(most):
            size += len(operations[span.start + count].encoded) + 1
            if size > self.body_bytes:
                return max(count, 1)
        return most

    def lowered(self, posted: int, posted_bytes: int, problem: Problem) -> "KnownLimits | None":
        """Return the limits after a 413, or None if smaller batches would not help."""
        most, most_bytes = problem.max_operations, problem.max_body_bytes
        if posted == 1:
            return None
        if most is None and most_bytes is None and not problem.errors:  # from a proxy, which names no limit
            most_bytes = posted_bytes // 2
        if most is not None and most < posted:
            return KnownLimits(max(1, min(most, self.operations)), self.body_bytes)
        if most_bytes is not None and most_bytes < posted_bytes:
            return KnownLimits(self.operations, min(most_bytes, self.body_bytes or most_bytes))
        return None


class FileSubmission:
    """Submits the operations of a file and follows them.

    Its life: cut off a batch, post it, and act on the answer. An accepted batch is followed until it is final. A batch
    that is too large is cut again, with the limit that the answer names. If the server asks to wait, all posting
    pauses. If it rejects a batch, posting ends, but the batches accepted before are still followed.

    At any time, also after Ctrl-C, every operation is in `accepted`, in `uncertain` or in `unsubmitted`.
    """

    def __init__(
        self, client: Client, file: OperationsFile, batch_operations: int, policy: RequestPolicy, screen: Screen
    ) -> None:
        self.file = file
        self.accepted: list[AcceptedBatch] = []
        self.stopped_by: tuple[range, PostResult] | None = None
        self._client = client
        self._policy = policy
        self._screen = screen
        # An atomic batch cannot be split: the server says if it is too large.
        everything = range(len(file.operations))
        self._limits = KnownLimits(len(everything) if file.is_atomic else batch_operations)
        self._envelope_bytes = len(encode_batch(file, range(0)))
        self._open = [(everything.start, everything)]  # a heap: the file is submitted from its start
        self._posting: list[range] = []
        self._uncertain: list[range] = []
        self._waits = 0
        self._resume_at = 0.0
        self._following = asyncio.Semaphore(policy.followed_at_once)

    @property
    def counts(self) -> Tally:
        """Return the counts of all accepted batches. The total includes what may still be submitted."""
        counts = sum((batch.counts for batch in self.accepted), Tally())
        waiting = 0 if self.stopped_by else len(self.file.operations) - counts.total
        return counts + Tally(total=waiting)

    @property
    def unsubmitted(self) -> list[range]:
        return sorted((span for _, span in self._open), key=lambda span: span.start)

    @property
    def uncertain(self) -> list[range]:
        """Return what was sent without an answer. After Ctrl-C this includes what was being posted."""
        return sorted([*self._uncertain, *self._posting], key=lambda span: span.start)

    async def run(self) -> None:
        """Post all operations and follow them until they have finished.

        The first batch is posted alone. So a limit, an invalid path or a missing server is reported once.
        """
        async with asyncio.TaskGroup() as tasks:
            await self._post_next(tasks)
            for _ in range(self._policy.posts_in_flight):
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

    def _settle(self, span: range, answer: PostResult, tasks: asyncio.TaskGroup) -> None:
        match answer:
            case AcceptedBatch():
                self._waits = 0
                self.accepted.append(answer)
                self._screen.show(self.counts)
                tasks.create_task(self._follow(answer))
            case Uncertain():
                self._uncertain.append(span)
                self._stop(span, answer)
            case TooLarge() if limits := self._lowered_limits(span, answer):
                self._put_back(span)
                self._limits = limits
            case AskedToWait() if self._is_waiting or self._waits < self._policy.max_waits:
                self._put_back(span)
                self._pause(answer)
            case _:
                self._put_back(span)
                self._stop(span, answer)

    def _stop(self, span: range, answer: PostResult) -> None:
        """Stop posting. Only the first reason is kept: batches posted at the same time fail for the same one."""
        if self.stopped_by is None:
            self.stopped_by = (span, answer)

    def _lowered_limits(self, span: range, answer: TooLarge) -> KnownLimits | None:
        if self.file.is_atomic:
            return None
        limits = self._limits.lowered(len(span), len(encode_batch(self.file, span)), answer.problem)
        if limits and limits != self._limits:
            self._screen.say(
                f"The batch is too large for the server ({answer.problem}). Continuing with smaller batches."
            )
        return limits

    @property
    def _is_waiting(self) -> bool:
        """Return True if the server has asked to wait already. Batches posted at the same time get the same answer."""
        return self._resume_at > time.monotonic()

    def _pause(self, answer: AskedToWait) -> None:
        is_first = not self._is_waiting
        self._waits += is_first
        after = answer.after_seconds
        wait = self._policy.backoff(self._waits) if after is None else after
        if is_first:
            self._screen.say(
                f"The server asks to wait ({answer.status} {answer.problem}). Trying again in {wait:.0f} s."
            )
        self._resume_at = max(self._resume_at, time.monotonic() + wait)

    async def outcomes(self, *, only_failed: bool) -> AsyncGenerator[tuple[FileOperation, OutcomeJson], None]:
        """Stream the outcomes of all final batches, in the order of the file."""
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
                batch.unreadable = str(error)
            else:
                if seen < due:
                    batch.unreadable = f"the server returned {seen:,} of {due:,} outcomes"

    async def _follow(self, batch: AcceptedBatch) -> None:
        await asyncio.sleep(batch.first_poll_seconds)
        async with self._following:
            try:
                await self._client.follow(batch, lambda: self._screen.show(self.counts))
            except OutOfReach as error:
                batch.unreadable = str(error)
