"""A submission against a server that speaks the contract: what each answer makes it do, and never makes it do."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from penstock.cli.operations_file import Reading
from penstock.cli.progress import Counts
from penstock.cli.submission import Submission, Tally
from penstock.cli.submitted_file import OperationsToSubmit, ToSubmit, read_file
from penstock.client import AsyncClient, InvalidBatch, Patience, RateLimited, ServerUnreachable, TooLarge
from tests.support.programs import free_port

PATIENCE = Patience(seconds=30, quota_seconds=30, backoff_seconds=0, longest_backoff_seconds=0)

Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


def problem(status: int, title: str, headers: dict[str, str] | None = None, **members: Any) -> web.Response:
    body = {"type": "urn:penstock:problem:test", "title": title, "status": status, **members}
    return web.json_response(body, status=status, headers=headers, content_type="application/problem+json")


async def pass_by(request: web.Request) -> None:
    """Leaves the request to the server's own answer."""


async def drop(request: web.Request) -> web.Response:
    """Takes the request and closes the connection without an answer."""
    await request.read()
    assert request.transport
    request.transport.abort()
    return web.Response()


@dataclass
class Server:
    """Takes batches and has them finished at their second status. A test puts endpoints before its own.

    Operations whose path is /fail fail with 409, all others succeed with 201.
    """

    max_operations: int = 1000
    before_post: Endpoint = pass_by
    before_status: Endpoint = pass_by
    before_results: Endpoint = pass_by
    url: str = ""
    posts: list[list[dict[str, Any]]] = field(default_factory=list)  # the operations of every POST
    queries: list[dict[str, str]] = field(default_factory=list)  # of every POST
    batches: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # accepted, by the key of the request
    asked: Counter[str] = field(default_factory=Counter)  # how often each path was

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 30, middlewares=[self.count])
        app.router.add_post("/batch", self.post)
        app.router.add_get("/batch/{id}", self.status)
        app.router.add_get("/batch/{id}/results", self.results)
        return app

    @web.middleware
    async def count(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.asked[request.path] += 1
        return await handler(request)

    async def post(self, request: web.Request) -> web.StreamResponse:
        operations = [json.loads(line) for line in (await request.read()).splitlines()]
        self.posts.append(operations)
        self.queries.append(dict(request.query))
        if answer := await self.before_post(request):
            return answer
        if len(operations) > self.max_operations:
            return problem(413, "Too many operations", maxOperations=self.max_operations)
        key = request.headers["Idempotency-Key"]
        self.batches.setdefault(key, operations)
        if request.query.get("atomic") == "true":
            return web.json_response({"results": [outcome(operation) for operation in operations]})
        return web.json_response({"batchId": str(list(self.batches).index(key))}, status=202)

    def operations(self, request: web.Request) -> list[dict[str, Any]]:
        return list(self.batches.values())[int(request.match_info["id"])]

    async def status(self, request: web.Request) -> web.StreamResponse:
        if answer := await self.before_status(request):
            return answer
        operations = self.operations(request)
        is_final = self.asked[request.path] > 1
        done = len(operations) if is_final else len(operations) // 2
        failed = sum("error" in outcome(operation) for operation in operations[:done])
        body = {
            "batchId": request.match_info["id"],
            "status": "completed" if is_final else "processing",
            "total": len(operations),
            "completed": done,
            "succeeded": done - failed,
            "failed": failed,
        }
        return web.json_response(body, headers={"Retry-After": "0"})

    async def results(self, request: web.Request) -> web.StreamResponse:
        if answer := await self.before_results(request):
            return answer
        outcomes = map(outcome, self.operations(request))
        found = [each for each in outcomes if "error" in each or "status" not in request.query]
        return web.json_response({"results": found, "nextCursor": None})


def outcome(operation: dict[str, Any]) -> dict[str, Any]:
    if operation["path"] == "/fail":
        return {"id": operation["id"], "status": 409, "error": {"title": "Taken"}}
    return {"id": operation["id"], "status": 201, "result": operation.get("body")}


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    monkeypatch.setattr("penstock.client.async_batch._SMALL_SECONDS", 0)
    server = Server()
    async with TestServer(server.app(), port=free_port()) as running:
        server.url = str(running.make_url(""))
        yield server


class Record:
    """A screen that keeps what it is told."""

    def __init__(self) -> None:
        self.counts: list[tuple[int, int]] = []
        self.sentences: list[str] = []

    def show(self, counts: Counts) -> None:
        self.counts.append((counts.completed, counts.total))

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)


class MakeFile:
    """Makes files with operations on the lines 1 to `count`. Those on the lines in `fail` will fail."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, count: int, *, fail: frozenset[int] = frozenset(), pad: int = 0, **options: Any) -> ToSubmit:
        operations = [
            {"method": "POST", "path": "/fail" if number in fail else "/users", "body": "x" * pad}
            for number in range(1, count + 1)
        ]
        path = self._folder / ("a.json" if options else "a.ndjson")
        lines = "".join(json.dumps(operation) + "\n" for operation in operations)
        path.write_text(json.dumps({"operations": operations, **options}) if options else lines)
        return read_file(path, Reading(), one_by_one=False)


@pytest.fixture
def a_file(tmp_path: Path) -> MakeFile:
    return MakeFile(tmp_path)


@asynccontextmanager
async def submitting(
    server: Server, file: ToSubmit, most: int | None = None, patience: Patience = PATIENCE
) -> AsyncIterator[tuple[Submission, Record]]:
    """A submission that has run, its client still open."""
    screen = Record()
    with file:
        async with AsyncClient(server.url, patience=patience, tell=screen.say) as client:
            submission = Submission(client, file, {}, screen, most)
            await submission.post()
            await submission.follow()
            yield submission, screen


async def collected(submission: Submission, *, only_failed: bool = False) -> list[int]:
    return [int(outcome.id) async for _, outcome in submission.outcomes(only_failed=only_failed)]


def sizes(server: Server) -> list[int]:
    return list(map(len, server.batches.values()))


def unsubmitted(submission: Submission) -> str:
    assert isinstance(submission.file, OperationsToSubmit)
    return submission.file.places(submission.unsubmitted)


async def test_batch_answered_immediately_is_not_followed(server: Server, a_file: MakeFile) -> None:
    async with submitting(server, a_file(5, fail=frozenset({2, 4}), atomic=True)) as (submission, _):
        assert submission.counts == Tally(total=5, completed=5, succeeded=3, failed=2)
        assert await collected(submission) == [1, 2, 3, 4, 5]
        assert await collected(submission, only_failed=True) == [2, 4]
    assert set(server.asked) == {"/batch"}


async def test_batch_in_the_background_is_followed_to_its_end(server: Server, a_file: MakeFile) -> None:
    async with submitting(server, a_file(10, fail=frozenset({3, 8}))) as (submission, screen):
        assert screen.counts == [(5, 10), (10, 10)]
        assert submission.counts == Tally(total=10, completed=10, succeeded=8, failed=2)
        assert await collected(submission) == list(range(1, 11))
        assert await collected(submission, only_failed=True) == [3, 8]


async def test_file_goes_as_several_batches_followed_as_one(server: Server, a_file: MakeFile) -> None:
    async with submitting(server, a_file(95, fail=frozenset({90})), 10) as (submission, screen):
        assert {total for _, total in screen.counts} == {95}
        assert screen.counts == sorted(screen.counts)
        assert submission.counts == Tally(total=95, completed=95, succeeded=94, failed=1)
        assert [(index, one.id) async for index, one in submission.outcomes(only_failed=False)] == [
            (index, str(index + 1)) for index in range(95)
        ]
    assert sizes(server) == [*[10] * 9, 5]


async def test_file_is_split_by_the_number_that_the_server_accepts(server: Server, a_file: MakeFile) -> None:
    server.max_operations = 30
    async with submitting(server, a_file(100)) as (submission, screen):
        assert submission.counts.succeeded == 100
    assert sizes(server) == [30, 30, 30, 10]
    assert list(map(len, server.posts)) == [100, 30, 30, 30, 10]
    assert screen.sentences == [
        "The batch is too large for the server (Too many operations). Continuing with smaller batches."
    ]


async def test_file_is_halved_if_no_number_is_named(server: Server, a_file: MakeFile) -> None:
    async def reject(request: web.Request) -> web.Response | None:
        return web.Response(status=413) if len(server.posts[-1]) > 20 else None

    server.before_post = reject
    async with submitting(server, a_file(64)) as (submission, _):
        assert submission.counts.succeeded == 64
    assert sizes(server) == [16] * 4


async def test_limit_answered_before_the_body_is_read_is_understood(server: Server, a_file: MakeFile) -> None:
    """As aiohttp's own limit and many a proxy do it: with most of the body still under way."""

    async def reject(request: web.Request) -> web.StreamResponse:
        if request.headers["Idempotency-Key"] not in known:
            known.add(request.headers["Idempotency-Key"])
            if len(known) == 1:
                return problem(413, "Body too large", maxStreamBytes=1_000_000)
        return await server.post(request)

    known: set[str] = set()
    app = web.Application(client_max_size=1 << 30, middlewares=[server.count])
    app.router.add_post("/batch", reject)
    app.router.add_get("/batch/{id}", server.status)
    async with TestServer(app, port=free_port()) as running:
        server.url = str(running.make_url("/"))
        file = a_file(20, pad=400_000)
        async with submitting(server, file):
            pass
    assert sizes(server) == [10, 10]


@pytest.mark.parametrize("options", [{}, {"atomic": True}])
async def test_batch_that_cannot_be_split_is_not_sent_again(
    server: Server, a_file: MakeFile, options: dict[str, Any]
) -> None:
    async def reject(request: web.Request) -> web.Response:
        return problem(413, "Too large")

    server.before_post = reject
    count = 200 if options else 1
    async with submitting(server, a_file(count, **options), 50) as (submission, _):
        assert submission.stop
        assert isinstance(submission.stop.error, TooLarge)
    assert list(map(len, server.posts)) == [count]
    assert submission.unsubmitted == [range(count)]


async def test_options_of_a_document_are_in_the_query(server: Server, a_file: MakeFile) -> None:
    options: dict[str, Any] = {"priority": "low", "maxFailures": 3, "metadata": {"team": "growth"}, "notBefore": None}
    async with submitting(server, a_file(1, **options)):
        pass
    assert server.queries == [{"priority": "low", "maxFailures": "3", "metadata.team": "growth"}]


@pytest.mark.parametrize("status", [429, 503])
async def test_batch_turned_away_is_posted_again(server: Server, a_file: MakeFile, status: int) -> None:
    async def turn_away(request: web.Request) -> web.Response | None:
        return problem(status, "Busy", {"Retry-After": "0"}) if len(server.posts) <= 3 else None

    server.before_post = turn_away
    async with submitting(server, a_file(5)) as (submission, screen):
        assert submission.counts.succeeded == 5
    assert screen.sentences == [f"The server answered {status}: Busy. Trying again."]
    assert len(server.posts) == 4


async def test_patience_with_a_busy_server_is_bounded(server: Server, a_file: MakeFile) -> None:
    async def turn_away(request: web.Request) -> web.Response:
        return problem(429, "Busy", {"Retry-After": "60"})

    server.before_post = turn_away
    async with submitting(server, a_file(5)) as (submission, _):
        assert submission.stop
        assert isinstance(submission.stop.error, RateLimited)
    assert len(server.posts) == 1
    assert submission.unsubmitted == [range(5)]


async def unavailable(request: web.Request) -> web.Response:
    return web.Response(status=503)


async def crash(request: web.Request) -> web.Response:
    return problem(500, "Internal error")


async def not_penstock(request: web.Request) -> web.Response:
    return web.Response(text="It works!")


@pytest.mark.parametrize("answer", [drop, crash, unavailable, not_penstock])
async def test_batch_without_a_usable_answer_may_have_been_accepted(
    server: Server, a_file: MakeFile, answer: Endpoint
) -> None:
    async def second(request: web.Request) -> web.StreamResponse | None:
        return await answer(request) if len(server.posts) > 1 else None

    server.before_post = second
    async with submitting(server, a_file(50), 10, Patience(0, 0, 0, 0)) as (submission, _):
        assert submission.stop
        assert submission.stop.is_uncertain
        assert submission.counts == Tally(total=10, completed=10, succeeded=10)
    assert submission.stop.span == range(10, 20)
    assert submission.unsubmitted == [range(20, 50)]


async def test_rejection_ends_posting_and_what_was_accepted_is_followed(server: Server, a_file: MakeFile) -> None:
    async def reject(request: web.Request) -> web.Response | None:
        ids = [operation["id"] for operation in server.posts[-1]]
        errors = [{"pointer": "/operations/4/body", "detail": "is wrong"}]
        return problem(422, "Invalid", errors=errors) if "25" in ids else None

    server.before_post = reject
    async with submitting(server, a_file(50), 10) as (submission, _):
        assert submission.stop
        assert submission.counts == Tally(total=20, completed=20, succeeded=20)
        assert await collected(submission) == list(range(1, 21))
        assert isinstance(submission.stop.error, InvalidBatch)
        assert isinstance(submission.file, OperationsToSubmit)
        [error] = submission.stop.error.errors
        assert submission.file.place_of_error(range(20, 30), error) == ("line 25", "body")
        assert unsubmitted(submission) == "lines 21 to 50"


async def test_if_nothing_answers_nothing_is_uncertain(server: Server, a_file: MakeFile) -> None:
    server.url = f"http://127.0.0.1:{free_port()}"
    async with submitting(server, a_file(5000)) as (submission, _):
        assert submission.stop
        assert isinstance(submission.stop.error, ServerUnreachable)
        assert not submission.stop.is_uncertain
        assert unsubmitted(submission) == "lines 1 to 5000"


async def test_what_a_cancelled_submission_had_under_way_is_uncertain(server: Server, a_file: MakeFile) -> None:
    arrived = asyncio.Event()

    async def hold(request: web.Request) -> None:
        arrived.set()
        await asyncio.Event().wait()

    server.before_post = hold
    with a_file(30) as file:
        async with AsyncClient(server.url, patience=PATIENCE) as client:
            submission = Submission(client, file, {}, Record(), 10)
            running = asyncio.create_task(submission.post())
            await arrived.wait()
            running.cancel()
            await asyncio.wait([running])
    assert submission.stop
    assert (submission.stop.span, submission.stop.is_uncertain) == (range(10), True)
    assert submission.unsubmitted == [range(10, 30)]


async def test_batch_whose_status_cannot_be_read_is_reported_and_the_others_go_on(
    server: Server, a_file: MakeFile
) -> None:
    async def fail(request: web.Request) -> web.Response | None:
        return web.Response(status=500) if request.path == "/batch/0" else None

    server.before_status = fail
    async with submitting(server, a_file(20), 10) as (submission, _):
        assert submission.counts == Tally(total=20, completed=10, succeeded=10)
        assert [part.unreadable for part in submission.parts] == [
            "The server answered 500: Internal Server Error.",
            "",
        ]
        assert await collected(submission) == list(range(11, 21))


async def test_outcomes_that_are_missing_are_noticed(server: Server, a_file: MakeFile) -> None:
    async def few(request: web.Request) -> web.Response:
        return web.json_response({"results": [outcome(one) for one in server.operations(request)[:7]]})

    server.before_results = few
    async with submitting(server, a_file(10)) as (submission, _):
        assert await collected(submission) == list(range(1, 8))
        assert submission.parts[0].unreadable == "The server returned 7 of 10 outcomes."


async def test_outcome_longer_than_any_buffer_is_read(server: Server, a_file: MakeFile) -> None:
    async with submitting(server, a_file(3, pad=2_000_000)) as (submission, _):
        lengths = [len(one.result) async for _, one in submission.outcomes(only_failed=False)]
    assert lengths == [2_000_000] * 3
