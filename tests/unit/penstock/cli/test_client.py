"""The client against a real server that speaks the contract: what each answer makes it do, and never makes it do."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port
from yarl import URL

from penstock.cli.client import (
    AskedToWait,
    Client,
    FileSubmission,
    KnownLimits,
    Rejected,
    RequestPolicy,
    Tally,
    TooLarge,
    Uncertain,
    Unreachable,
)
from penstock.cli.operations_file import FileOperation, OperationsFile
from penstock.cli.server import Problem

POLICY = RequestPolicy(
    poll_seconds=0.0, poll_max_seconds=0.0, backoff_seconds=0.0, backoff_max_seconds=0.0, max_attempts=3
)

Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


def problem(status: int, title: str, headers: dict[str, str] | None = None, **members: Any) -> web.Response:
    body = {"type": "about:blank", "title": title, "status": status, **members}
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
    max_body_bytes: int = 10 * 1024 * 1024
    sync_max_operations: int = 0
    before_post: Endpoint = pass_by
    before_status: Endpoint = pass_by
    before_results: Endpoint = pass_by
    url: URL = field(default_factory=URL)
    bodies: list[dict[str, Any]] = field(default_factory=list)  # of every POST
    batches: list[list[dict[str, Any]]] = field(default_factory=list)  # accepted
    asked: Counter[str] = field(default_factory=Counter)  # how often each path was

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 30, middlewares=[self.count])
        app.router.add_post("/batch", self.post)
        app.router.add_get("/batch/{id}/status", self.status)
        app.router.add_get("/batch/{id}/results", self.results)
        return app

    @web.middleware
    async def count(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.asked[request.path] += 1
        return await handler(request)

    async def post(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        body = json.loads(text)
        self.bodies.append(body)
        if answer := await self.before_post(request):
            return answer
        operations = body["operations"]
        if len(operations) > self.max_operations:
            return problem(413, "Too many operations", maxOperations=self.max_operations)
        if len(text.encode()) > self.max_body_bytes:
            return problem(413, "Body too large", maxBodyBytes=self.max_body_bytes)
        self.batches.append(operations)
        if len(operations) <= self.sync_max_operations:
            results = [outcome(operation) for operation in operations]
            failed = sum("error" in result for result in results)
            summary = {"total": len(results), "succeeded": len(results) - failed, "failed": failed}
            return web.json_response({"summary": summary, "results": results})
        place = f"/batch/{len(self.batches) - 1}"
        urls = {"statusUrl": f"{place}/status", "resultsUrl": f"{place}/results"}
        return web.json_response(
            {"batchId": place, **urls}, status=202, headers={"Location": urls["statusUrl"], "Retry-After": "0"}
        )

    async def status(self, request: web.Request) -> web.StreamResponse:
        if answer := await self.before_status(request):
            return answer
        operations = self.batches[int(request.match_info["id"])]
        is_final = self.asked[request.path] > 1
        done = len(operations) if is_final else len(operations) // 2
        failed = sum("error" in outcome(operation) for operation in operations[:done])
        return web.json_response(
            {
                "status": "completed" if is_final else "processing",
                "total": len(operations),
                "completed": done,
                "succeeded": done - failed,
                "failed": failed,
                "cancelled": 0,
                "expired": 0,
                "progress": done / len(operations),
            }
        )

    async def results(self, request: web.Request) -> web.StreamResponse:
        if answer := await self.before_results(request):
            return answer
        assert request.headers["Accept"] == "application/x-ndjson"
        outcomes = map(outcome, self.batches[int(request.match_info["id"])])
        lines = [json.dumps(each) + "\n" for each in outcomes if "error" in each or "status" not in request.query]
        return web.Response(text="".join(lines), content_type="application/x-ndjson")


def outcome(operation: dict[str, Any]) -> dict[str, Any]:
    if operation["path"] == "/fail":
        return {"id": operation["id"], "status": 409, "error": {"title": "Taken"}}
    return {"id": operation["id"], "status": 201, "result": operation.get("body")}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    async with TestServer(server.app()) as running:
        server.url = running.make_url("/")
        yield server


class Record:
    """A screen that keeps what it is told."""

    def __init__(self) -> None:
        self.counts: list[Tally] = []
        self.sentences: list[str] = []

    def show(self, counts: Tally) -> None:
        self.counts.append(counts)

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)


def a_file(count: int, *, fail: frozenset[int] = frozenset(), pad: int = 0, **envelope: Any) -> OperationsFile:
    """Operations on the lines 1 to `count`; those on the lines in `fail` will fail."""
    return OperationsFile(
        "a.ndjson",
        "line",
        tuple(an_operation(n, "/fail" if n in fail else "/users", pad) for n in range(1, count + 1)),
        envelope,
    )


def an_operation(number: int, path: str, pad: int) -> FileOperation:
    operation = {"id": str(number), "method": "POST", "path": path, "body": "x" * pad}
    return FileOperation(number, str(number), json.dumps(operation).encode(), None)


@asynccontextmanager
async def submitting(
    server: Server, file: OperationsFile, batch_operations: int = 1000, policy: RequestPolicy = POLICY
) -> AsyncIterator[tuple[FileSubmission, Record]]:
    """A submission that has run, its client still open."""
    screen = Record()
    async with Client(server.url, policy, screen) as client:
        submission = FileSubmission(client, file, batch_operations, policy, screen)
        await submission.run()
        yield submission, screen


async def collected(submission: FileSubmission, *, only_failed: bool = False) -> list[int]:
    return [operation.number async for operation, _ in submission.outcomes(only_failed=only_failed)]


def sizes(server: Server) -> list[int]:
    return sorted(map(len, server.batches))


def accepted_ids(server: Server) -> list[int]:
    return sorted(int(operation["id"]) for batch in server.batches for operation in batch)


async def test_batch_answered_at_once_is_not_followed(server: Server) -> None:
    server.sync_max_operations = 100
    async with submitting(server, a_file(5, fail=frozenset({2, 4}))) as (submission, _):
        assert submission.counts == Tally(total=5, completed=5, succeeded=3, failed=2)
        assert await collected(submission) == [1, 2, 3, 4, 5]
        assert await collected(submission, only_failed=True) == [2, 4]
    assert set(server.asked) == {"/batch"}


async def test_batch_in_the_background_is_followed_to_its_end(server: Server) -> None:
    async with submitting(server, a_file(10, fail=frozenset({3, 8}))) as (submission, screen):
        assert [counts.completed for counts in screen.counts] == [0, 5, 10]
        assert submission.counts == Tally(total=10, completed=10, succeeded=8, failed=2)
        assert await collected(submission) == list(range(1, 11))
        assert await collected(submission, only_failed=True) == [3, 8]


async def test_file_goes_as_several_batches_followed_as_one(server: Server) -> None:
    async with submitting(server, a_file(95, fail=frozenset({90})), batch_operations=10) as (submission, screen):
        assert {counts.total for counts in screen.counts} == {95}
        assert [counts.completed for counts in screen.counts] == sorted(counts.completed for counts in screen.counts)
        assert submission.counts == Tally(total=95, completed=95, succeeded=94, failed=1)
        assert await collected(submission) == list(range(1, 96))
    assert sizes(server) == [5, *[10] * 9]
    assert server.asked["/batch/0/results"] == 1


async def test_at_most_four_posts_are_in_flight_and_the_first_goes_alone(server: Server) -> None:
    in_flight = most = 0
    together = asyncio.Event()

    async def hold(request: web.Request) -> None:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        if len(server.bodies) == 1:
            assert in_flight == 1
        else:
            if in_flight == 4:
                together.set()
            await together.wait()
        in_flight -= 1

    server.before_post = hold
    async with submitting(server, a_file(40), batch_operations=1):
        pass
    assert most == 4
    assert accepted_ids(server) == list(range(1, 41))


async def test_file_is_split_by_the_number_the_server_takes(server: Server) -> None:
    server.max_operations = 30
    async with submitting(server, a_file(100)) as (submission, screen):
        assert submission.counts.succeeded == 100
    assert sizes(server) == [10, 30, 30, 30]
    assert [len(body["operations"]) for body in server.bodies].count(100) == 1
    assert screen.sentences == [
        "The batch is too large for the server (Too many operations). Continuing with smaller batches."
    ]


async def test_file_is_split_by_the_bytes_the_server_takes(server: Server) -> None:
    server.max_body_bytes = 10_000
    async with submitting(server, a_file(100, pad=900)) as (submission, _):
        assert submission.counts.succeeded == 100
    assert sizes(server) == [10] * 10
    assert len(server.bodies) == 11


async def test_file_is_halved_where_a_proxy_names_no_limit(server: Server) -> None:
    async def refuse(request: web.Request) -> web.Response | None:
        return web.Response(status=413) if len(server.bodies[-1]["operations"]) > 20 else None

    server.before_post = refuse
    async with submitting(server, a_file(64, pad=100)) as (submission, _):
        assert submission.counts.succeeded == 64
    assert accepted_ids(server) == list(range(1, 65))


async def test_limit_answered_before_the_body_is_read_is_understood(server: Server) -> None:
    """As aiohttp's own limit and many a proxy do it: with most of the body still under way."""

    async def refuse(request: web.Request) -> web.StreamResponse:
        if (request.content_length or 0) > 1_000_000:
            return problem(413, "Body too large", maxBodyBytes=1_000_000)
        return await server.post(request)

    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/batch", refuse)
    server.sync_max_operations = 1000
    async with TestServer(app) as running:
        server.url = running.make_url("/")
        async with submitting(server, a_file(20, pad=900_000)) as (submission, _):
            assert submission.counts.succeeded == 20


async def test_operation_too_large_by_itself_is_named_and_not_sent_again(server: Server) -> None:
    server.max_body_bytes = 500
    async with submitting(server, a_file(1, pad=1000)) as (submission, _):
        assert submission.stopped_by
        span, answer = submission.stopped_by
    assert (span, type(answer), len(server.bodies)) == (range(1), TooLarge, 1)
    assert submission.unsubmitted == [range(1)]


async def test_atomic_batch_is_never_split(server: Server) -> None:
    server.max_operations = 100
    async with submitting(server, a_file(200, atomic=True), batch_operations=50) as (submission, _):
        assert isinstance(submission.stopped_by and submission.stopped_by[1], TooLarge)
    assert [(len(body["operations"]), body["atomic"]) for body in server.bodies] == [(200, True)]
    assert submission.unsubmitted == [range(200)]


@pytest.mark.parametrize("status", [429, 503])
async def test_batch_turned_away_is_posted_again(server: Server, status: int) -> None:
    async def turn_away(request: web.Request) -> web.Response | None:
        return problem(status, "Busy", {"Retry-After": "0"}) if len(server.bodies) <= 3 else None

    server.before_post = turn_away
    async with submitting(server, a_file(5)) as (submission, screen):
        assert submission.counts.succeeded == 5
    assert screen.sentences == [f"The server asks to wait ({status} Busy). Trying again in 0 s."] * 3
    assert len(server.bodies) == 4


async def test_patience_with_a_busy_server_is_bounded(server: Server) -> None:
    async def turn_away(request: web.Request) -> web.Response:
        return problem(429, "Busy", {"Retry-After": "0"})

    server.before_post = turn_away
    async with submitting(server, a_file(5)) as (submission, _):
        assert isinstance(submission.stopped_by and submission.stopped_by[1], AskedToWait)
    assert len(server.bodies) == POLICY.max_waits + 1
    assert submission.unsubmitted == [range(5)]


async def test_batches_turned_away_at_the_same_time_are_one_wait(server: Server) -> None:
    all_arrived = asyncio.Barrier(4)

    async def turn_away(request: web.Request) -> web.Response | None:
        if not 2 <= len(server.bodies) <= 5:
            return None
        await all_arrived.wait()
        return problem(429, "Busy", {})

    server.before_post = turn_away
    policy = replace(POLICY, posts_in_flight=4, max_waits=1, backoff_seconds=0.05, backoff_max_seconds=1)
    async with submitting(server, a_file(5), batch_operations=1, policy=policy) as (submission, screen):
        assert submission.counts.succeeded == 5
    assert screen.sentences == ["The server asks to wait (429 Busy). Trying again in 0 s."]


async def unavailable(request: web.Request) -> web.Response:
    return web.Response(status=503)


async def crash(request: web.Request) -> web.Response:
    return problem(500, "Internal error")


async def not_penstock(request: web.Request) -> web.Response:
    return web.Response(text="It works!")


@pytest.mark.parametrize("answer", [drop, crash, unavailable, not_penstock])
async def test_batch_that_may_have_been_accepted_is_not_posted_again(server: Server, answer: Endpoint) -> None:
    async def second(request: web.Request) -> web.StreamResponse | None:
        return await answer(request) if len(server.bodies) == 2 else None

    server.before_post = second
    policy = RequestPolicy(0.0, 0.0, 0.0, 0.0, posts_in_flight=1)
    async with submitting(server, a_file(50), batch_operations=10, policy=policy) as (submission, _):
        assert isinstance(submission.stopped_by and submission.stopped_by[1], Uncertain)
        assert submission.counts == Tally(total=10, completed=10, succeeded=10)
    assert len(server.bodies) == 2
    assert submission.uncertain == [range(10, 20)]
    assert submission.unsubmitted == [range(20, 50)]


async def test_refusal_ends_posting_and_what_was_accepted_is_followed(server: Server) -> None:
    async def refuse(request: web.Request) -> web.Response | None:
        ids = [operation["id"] for operation in server.bodies[-1]["operations"]]
        errors = [{"pointer": "/operations/4/body", "detail": "is wrong"}]
        return problem(422, "Invalid", errors=errors) if "25" in ids else None

    server.before_post = refuse
    policy = RequestPolicy(0.0, 0.0, 0.0, 0.0, posts_in_flight=1)
    async with submitting(server, a_file(50), batch_operations=10, policy=policy) as (submission, _):
        assert submission.stopped_by
        span, answer = submission.stopped_by
        assert submission.counts == Tally(total=20, completed=20, succeeded=20)
        assert await collected(submission) == list(range(1, 21))
    assert isinstance(answer, Rejected)
    assert (span, answer.status, answer.problem.errors[0].pointer) == (range(20, 30), 422, "/operations/4/body")
    assert submission.file.places(submission.unsubmitted) == "lines 21 to 50"


async def test_where_nothing_answers_nothing_is_uncertain(server: Server) -> None:
    server.url = URL(f"http://127.0.0.1:{unused_port()}")
    async with submitting(server, a_file(5000)) as (submission, _):
        assert submission.stopped_by == (range(1000), Unreachable(""))
    assert (submission.file.places(submission.unsubmitted), submission.uncertain) == ("lines 1 to 5000", [])


async def test_what_a_cancelled_submission_had_under_way_is_uncertain(server: Server) -> None:
    arrived = asyncio.Event()

    async def hold(request: web.Request) -> None:
        arrived.set()
        await asyncio.Event().wait()

    server.before_post = hold
    async with Client(server.url, POLICY, Record()) as client:
        submission = FileSubmission(client, a_file(30), 10, POLICY, Record())
        running = asyncio.create_task(submission.run())
        await arrived.wait()
        running.cancel()
        await asyncio.wait([running])
    assert (submission.uncertain, submission.unsubmitted) == ([range(10)], [range(10, 30)])


@pytest.mark.parametrize("answer", [drop, crash, unavailable])
async def test_status_that_fails_for_a_while_is_asked_again(server: Server, answer: Endpoint) -> None:
    async def fail(request: web.Request) -> web.StreamResponse | None:
        return await answer(request) if server.asked[request.path] <= 2 else None

    server.before_status = fail
    async with submitting(server, a_file(10)) as (submission, screen):
        assert submission.counts.succeeded == 10
        assert not submission.accepted[0].unreadable
    assert [sentence.partition(" (")[0] for sentence in screen.sentences] == ["The server cannot be read"]


async def test_batch_whose_status_stays_away_is_lost_and_the_others_go_on(server: Server) -> None:
    async def fail(request: web.Request) -> web.Response | None:
        return web.Response(status=502) if request.path == "/batch/0/status" else None

    server.before_status = fail
    async with submitting(server, a_file(20), batch_operations=10) as (submission, _):
        assert submission.counts == Tally(total=20, completed=10, succeeded=10)
        assert [bool(batch.unreadable) for batch in submission.accepted] == [True, False]
        assert "answered 502 Bad Gateway, 3 times in a row" in submission.accepted[0].unreadable
        assert await collected(submission) == list(range(11, 21))
    assert server.asked["/batch/0/status"] == 3


async def test_results_that_break_off_are_read_on_where_they_broke(server: Server) -> None:
    async def break_off(request: web.Request) -> web.StreamResponse | None:
        if server.asked[request.path] > 2:
            return None
        response = web.StreamResponse()
        await response.prepare(request)
        for operation in server.batches[0][: 4 * server.asked[request.path]]:
            await response.write(json.dumps(outcome(operation)).encode() + b"\n")
        await response.write(b'{"id": "half a li')
        assert request.transport
        request.transport.close()
        return response

    server.before_results = break_off
    async with submitting(server, a_file(20)) as (submission, _):
        assert await collected(submission) == list(range(1, 21))
    assert server.asked["/batch/0/results"] == 3


async def test_outcomes_that_are_missing_are_noticed(server: Server) -> None:
    async def few(request: web.Request) -> web.Response:
        lines = [json.dumps(outcome(operation)) for operation in server.batches[0][:7]]
        return web.Response(text="\n".join(lines))

    server.before_results = few
    async with submitting(server, a_file(10)) as (submission, _):
        assert await collected(submission) == list(range(1, 8))
        assert submission.accepted[0].unreadable == "the server returned 7 of 10 outcomes"


async def test_outcome_longer_than_any_buffer_is_read(server: Server) -> None:
    async with submitting(server, a_file(3, pad=2_000_000)) as (submission, _):
        assert [len(each["result"]) async for _, each in submission.outcomes(only_failed=False)] == [2_000_000] * 3


async def test_urls_may_be_absolute_and_the_server_may_live_below_a_path(server: Server) -> None:
    async def absolute(request: web.Request) -> web.Response:
        server.batches.append(server.bodies[-1]["operations"])
        urls = {"statusUrl": str(server.url / "batch/0/status"), "resultsUrl": "0/results"}
        return web.json_response({"batchId": "0", **urls}, status=202)

    server.before_post = absolute
    async with submitting(server, a_file(3)) as (submission, _):
        assert submission.accepted[0].status_url == server.url / "batch/0/status"
        assert submission.accepted[0].results_url == server.url / "0/results"
        assert submission.counts.succeeded == 3


async def test_retry_after_may_be_a_date(server: Server) -> None:
    past = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)

    async def turn_away(request: web.Request) -> web.Response | None:
        return problem(429, "Busy", {"Retry-After": past}) if len(server.bodies) == 1 else None

    server.before_post = turn_away
    policy = RequestPolicy(0.0, 0.0, backoff_seconds=1e9, backoff_max_seconds=1e9)
    async with submitting(server, a_file(3), policy=policy) as (submission, _):
        assert submission.counts.succeeded == 3


def test_backoff_doubles_up_to_its_limit() -> None:
    assert [RequestPolicy().backoff(failures) for failures in range(1, 8)] == [0.5, 1, 2, 4, 8, 10, 10]


@pytest.mark.parametrize(
    ("problem", "limits"),
    [
        (Problem(max_operations=100), KnownLimits(100)),
        (Problem(max_operations=0), KnownLimits(1)),
        (Problem(max_operations=400, max_body_bytes=5000), KnownLimits(400)),
        (Problem(max_body_bytes=5000), KnownLimits(1000, 5000)),
        (Problem(), KnownLimits(1000, 4500)),  # a proxy's: half of what it refused
        (Problem(max_operations=500), None),  # no less than was posted
        (Problem(max_body_bytes=9000), None),
        (Problem.model_validate({"errors": [{"pointer": "/operations/7"}]}), None),  # one operation, not the batch
    ],
)
def test_limits_learned_from_a_refusal(problem: Problem, limits: KnownLimits | None) -> None:
    assert KnownLimits(1000).lowered(500, 9000, problem) == limits


async def test_key_goes_to_the_named_server_and_nowhere_else(server: Server) -> None:
    seen: list[tuple[str, str | None]] = []

    async def note(request: web.Request) -> None:
        seen.append((request.path, request.headers.get("Authorization")))

    server.before_post = server.before_status = server.before_results = note
    file, screen = a_file(1), Record()
    async with Client(server.url, POLICY, screen, "the-key") as client:
        submission = FileSubmission(client, file, 1000, POLICY, screen)
        await submission.run()
        assert await collected(submission) == [1]
        assert {key for _, key in seen} == {"Bearer the-key"}
        assert {path for path, _ in seen} == {"/batch", "/batch/0/status", "/batch/0/results"}

        seen.clear()
        [batch] = submission.accepted
        batch.results_url = batch.results_url.with_host("localhost")  # as a proxy that is not configured might answer
        assert await collected(submission) == [1]
        assert seen == [("/batch/0/results", None)]
