"""`penstock submit` as a person or a script meets it: what it prints where, and its exit code."""

import asyncio
import io
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
from aiohttp import web
from aiohttp.test_utils import TestServer
from rich.console import Console
from typer.testing import CliRunner, Result

from penstock.cli.progress import ProgressBar, ProgressLines
from penstock.cli.submission import Tally
from penstock.cli.submit import submit
from penstock.client import Patience
from penstock.files.csv_lines import CsvLines
from penstock.files.template import Template
from tests.support.programs import free_port

app = typer.Typer()
app.command()(submit)

Operation = dict[str, Any]


@dataclass
class Server:
    """Accepts batches and has them finished at once. A name that starts with "Bad" is refused by its handler."""

    refusal: Callable[[list[Operation]], web.Response | None] = lambda _: None
    is_hanging: bool = False  # batches never end
    redelivered: int = 0  # in each batch
    unavailable: str = ""  # the path of a request that is answered with 503
    was_asked: asyncio.Event = field(default_factory=asyncio.Event)  # for a status
    url: str = ""
    batches: list[list[Operation]] = field(default_factory=list)
    envelopes: list[dict[str, Any]] = field(default_factory=list)  # what came beside them

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.between])
        app.router.add_post("/batch", self.post)
        app.router.add_get("/batch/{id}", self.status)
        app.router.add_get("/batch/{id}/results", self.results)
        app.router.add_get("/batch/{id}/rejected", self.rejected)
        return app

    @web.middleware
    async def between(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        return web.Response(status=503) if request.path == self.unavailable else await handler(request)

    async def post(self, request: web.Request) -> web.Response:
        operations = read_operations(request, await request.read())
        rows = ("method", "path", "charset", "delimiter")
        self.envelopes.append({name: value for name, value in request.query.items() if name not in rows})
        if refused := self.refusal(operations):
            return refused
        self.batches.append(operations)
        return web.json_response({"batchId": str(len(self.batches) - 1)}, status=202)

    async def status(self, request: web.Request) -> web.Response:
        outcomes = [outcome(operation) for operation in self.batches[int(request.match_info["id"])]]
        failed = sum("error" in each for each in outcomes)
        counts = {"total": len(outcomes), "completed": len(outcomes), "succeeded": len(outcomes) - failed}
        self.was_asked.set()
        state = {"batchId": request.match_info["id"], "status": "processing" if self.is_hanging else "completed"}
        return web.json_response({**state, **counts, "failed": failed, "redelivered": self.redelivered})

    async def results(self, request: web.Request) -> web.Response:
        outcomes = [outcome(operation) for operation in self.batches[int(request.match_info["id"])]]
        wanted = [each for each in outcomes if "error" in each or "status" not in request.query]
        return web.json_response({"results": wanted, "nextCursor": None})

    async def rejected(self, request: web.Request) -> web.Response:
        outcomes = [outcome(operation) for operation in self.batches[int(request.match_info["id"])]]
        failed = [each for each in outcomes if "error" in each]
        if request.query["format"] == "ndjson":
            return web.Response(text="".join(json.dumps({"id": each["id"]}) + "\n" for each in failed))
        return web.Response(text="".join(f"{each['id']},{each['status']}\n" for each in failed))


def read_operations(request: web.Request, content: bytes) -> list[Operation]:
    """Return the operations of a stream, or of the rows of a CSV file."""
    if request.content_type == "application/x-ndjson":
        return [json.loads(line) for line in content.splitlines()]
    charset = request.query.get("charset", "utf-8")
    rows = CsvLines(most_bytes=1 << 30, most_lines=1 << 30, charset=charset)
    template = Template(request.query["method"], request.query["path"])
    operations = [template.operation_of_row(row) for row in [*rows.feed(content), *rows.end()]]
    return [operation for operation in operations if isinstance(operation, dict)]


def outcome(operation: Operation) -> Operation:
    name = operation["body"]["name"]
    if name.startswith("Bad"):
        error = {"title": "Conflict", "detail": f"{name} is\ntaken \x1b[31m"}
        return {"id": operation["id"], "status": 409, "error": error}
    return {"id": operation["id"], "status": 201, "result": {"name": name}}


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """A server, and an empty folder to stand in."""
    monkeypatch.chdir(tmp_path)
    server = Server()
    async with TestServer(server.app(), port=free_port()) as running:
        server.url = str(running.make_url("/")).rstrip("/")
        yield server


async def penstock_submit(*arguments: str, url: str, stdin: str | None = None) -> Result:
    """The command as typed, in a thread of its own: it brings its own event loop."""
    command = [*arguments, "--url", url]
    return await asyncio.to_thread(CliRunner().invoke, app, command, input=stdin, catch_exceptions=False)


def write_users(*names: str, expect: list[str] | None = None) -> None:
    """users.csv, its first row on line 2."""
    rows = [f"{name},{status}" for name, status in zip(names, expect or [""] * len(names), strict=True)]
    write("users.csv", "\n".join(["name,expect", *rows]))


def write(name: str, content: str) -> None:
    Path(name).write_text(content)


def read(name: str) -> str:
    return Path(name).read_text()


def files() -> list[str]:
    return [path.name for path in Path().iterdir()]


USERS = ("users.csv", "--method", "POST", "--path", "/users")


async def test_all_well_is_a_summary_and_exit_0(server: Server) -> None:
    write_users(*["Ann"] * 2500)
    result = await penstock_submit(*USERS, url=server.url)
    assert result.exit_code == 0
    rows = dict(line.split() for line in result.stdout.splitlines())
    assert float(rows.pop("seconds")) < 60
    assert int(rows.pop("operations/s").replace(",", "")) > 0
    assert rows == {"total": "2,500", "succeeded": "2,500", "failed": "0", "cancelled": "0", "expired": "0"}
    assert [len(batch) for batch in server.batches] == [2500]
    assert result.stderr.splitlines() == [
        f"users.csv: 12.5 KB to {server.url}",
        "Accepted as the batch 0.",
        "100%  2,500 of 2,500, 0 failed",
    ]


async def test_rows_that_failed_are_written_to_a_file(server: Server) -> None:
    write_users("Ann", "Bad Bo", "Bad Cy")
    result = await penstock_submit(*USERS, "--rejected", "bad.csv", url=server.url)
    assert (result.exit_code, read("bad.csv")) == (1, "3,409\n4,409\n")
    assert "2 failed rows are in bad.csv, with the reasons." in result.stderr


async def test_rows_that_failed_in_several_batches_are_written_to_one_ndjson_file(server: Server) -> None:
    write_users("Bad Bo", "Ann", "Bad Cy")
    result = await penstock_submit(*USERS, "--batch-size", "2", "--rejected", "bad.ndjson", url=server.url)
    assert (result.exit_code, [json.loads(line)["id"] for line in read("bad.ndjson").splitlines()]) == (1, ["2", "4"])


@pytest.mark.parametrize("name", ["users.csv", "users.json"])
async def test_file_that_would_be_split_is_not_submitted_if_rejected_rows_go_to_csv(server: Server, name: str) -> None:
    def limit(operations: list[Operation]) -> web.Response | None:
        problem = {"title": "Too many operations", "maxOperations": 2}
        is_large = len(operations) > 2
        return web.json_response(problem, status=413, content_type="application/problem+json") if is_large else None

    server.refusal = limit
    write_users("Ann", "Bad Bo", "Cy")
    write("users.json", json.dumps([{"method": "POST", "path": "/users", "body": {"name": "Bad Bo"}}] * 3))
    arguments = USERS if name == "users.csv" else (name,)

    result = await penstock_submit(*arguments, "--rejected", "bad.csv", url=server.url)
    assert (result.exit_code, server.batches) == (2, [])
    sentence, last = result.stderr.splitlines()[-2:]
    assert sentence.startswith("It needs several batches, and a CSV file holds the rejected rows of one.")
    assert last == "Nothing was submitted."

    result = await penstock_submit(*arguments, "--rejected", "bad.ndjson", url=server.url)
    assert (result.exit_code, [len(batch) for batch in server.batches]) == (1, [2, 1])


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ((*USERS, "--rejected", "bad.csv"), "submit that file with the same method and path."),
        ((*USERS, "--batch-size", "5", "--rejected", "bad.ndjson"), "submit that file. Each row names its method"),
        (("users.json", "--rejected", "bad.ndjson"), "submit that file. Each row names its method and path."),
        ((*USERS, "--rejected", "bad.ndjson"), "1 failed row is in bad.ndjson, with the reasons."),
        (("users.json", "--rejected", "bad.csv"), "1 failed row is in bad.csv, with the reasons."),
    ],
)
async def test_advice_on_rejected_rows_fits_their_file(server: Server, arguments: list[str], advice: str) -> None:
    write_users("Bad Bo")
    write("users.json", json.dumps([{"method": "POST", "path": "/users", "body": {"name": "Bad Bo"}}]))
    result = await penstock_submit(*arguments, url=server.url)
    assert (result.exit_code, advice in result.stderr.splitlines()[-1]) == (1, True)


async def test_without_waiting_the_id_is_printed(server: Server) -> None:
    write_users("Ann", "Bad Bo")
    result = await penstock_submit(*USERS, "--no-wait", url=server.url)
    assert (result.exit_code, result.stdout) == (0, "0\n")


async def test_without_waiting_the_ids_can_be_printed_as_json(server: Server) -> None:
    write_users("Ann", "Bad Bo")
    result = await penstock_submit(*USERS, "--no-wait", "--batch-size", "1", "--json", url=server.url)
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"batches": [{"batchId": "0"}, {"batchId": "1"}]})


async def test_summary_can_be_printed_as_json(server: Server) -> None:
    write_users("Ann", "Bad Bo")
    result = await penstock_submit(*USERS, "--json", url=server.url)
    summary = json.loads(result.stdout)
    assert (result.exit_code, summary["succeeded"], summary["failed"]) == (1, 1, 1)
    assert [batch["batchId"] for batch in summary["batches"]] == ["0"]


async def test_rows_may_go_as_several_batches(server: Server) -> None:
    write_users(*["Ann"] * 25)
    result = await penstock_submit(*USERS, "--batch-size", "10", url=server.url)
    assert result.exit_code == 0
    assert [len(batch) for batch in server.batches] == [10, 10, 5]
    assert result.stderr.splitlines()[0] == f"users.csv: 25 operations to {server.url}"


async def test_repeated_deliveries_are_shown_if_there_are_any(server: Server) -> None:
    server.redelivered = 1_200
    write_users("Ann")
    result = await penstock_submit(*USERS, url=server.url)
    assert dict(line.split() for line in result.stdout.splitlines())["redelivered"] == "1,200"


@pytest.mark.parametrize(
    ("content", "arguments", "envelope"),
    [
        ({}, [], {}),
        ({}, ["--priority", "high"], {"priority": "high"}),
        ({}, ["--not-before", "2026-12-24T18:00:00Z"], {"notBefore": "2026-12-24T18:00:00Z"}),
        ({"priority": "low", "maxFailures": 3}, [], {"priority": "low", "maxFailures": "3"}),
        ({"priority": "low", "maxFailures": 3}, ["--priority", "normal"], {"priority": "normal", "maxFailures": "3"}),
        ({}, ["--title", "Friday", "--metadata", "a=b"], {"metadata.title": "Friday", "metadata.a": "b"}),
    ],
)
async def test_what_the_command_asks_for_goes_before_what_the_file_says(
    server: Server, content: dict[str, Any], arguments: list[str], envelope: dict[str, Any]
) -> None:
    operation = {"method": "POST", "path": "/users", "body": {"name": "Ann"}}
    write("users.json", json.dumps({"operations": [operation], **content}))
    result = await penstock_submit("users.json", *arguments, url=server.url)
    assert result.exit_code == 0
    assert server.envelopes == [envelope]


async def test_priority_that_there_is_not_is_told_before_anything_is_posted(server: Server) -> None:
    write_users("Ann")
    result = await penstock_submit(*USERS, "--priority", "urgent", url=server.url)
    assert (result.exit_code, server.envelopes) == (2, [])


@pytest.mark.parametrize("path", ["", "/results", "/rejected"])
async def test_outcomes_that_cannot_be_read_are_exit_2(
    server: Server, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr("penstock.cli.submit._PATIENCE", Patience(0, 0, 0, 0))
    server.unavailable = f"/batch/0{path}"
    write_users("Ann", "Bad Bo")
    result = await penstock_submit(*USERS, "--rejected", "bad.csv", url=server.url)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("Not everything of the batch could be read: ")


async def test_failures_are_listed_with_their_lines_and_exit_1(server: Server) -> None:
    write_users("Ann", "Bad Bo", "Cy")
    result = await penstock_submit(*USERS, url=server.url)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-2:] == ["Failures:", "  line 3  409  Conflict: Bad Bo is taken ?[31m"]


async def test_only_the_first_failures_are_listed(server: Server) -> None:
    write_users(*[f"Bad {number}" for number in range(25)])
    result = await penstock_submit(*USERS, "--batch-size", "8", url=server.url)
    listed = result.stdout.partition("Failures, the first 10:\n")[2].splitlines()
    assert [line.split()[1] for line in listed] == [str(number) for number in range(2, 12)]


async def test_ids_of_the_file_are_told(server: Server) -> None:
    stdin = "".join(
        json.dumps({"id": f"u-{name}", "method": "POST", "path": "/users", "body": {"name": name}}) + "\n"
        for name in ("Ann", "Bad", "Bad Bo")
    )
    result = await penstock_submit("-", "--format", "ndjson", url=server.url, stdin=stdin)
    assert result.stdout.splitlines()[-2:] == [
        "  line 2  u-Bad     409  Conflict: Bad is taken ?[31m",
        "  line 3  u-Bad Bo  409  Conflict: Bad Bo is taken ?[31m",
    ]


async def test_failures_that_were_expected_are_well(server: Server) -> None:
    write_users("Ann", "Bad Bo", expect=["201", "400|409"])
    result = await penstock_submit(*USERS, "--expect", "expect", url=server.url)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "as expected: 2 of 2"
    assert server.batches[0][0]["body"] == {"name": "Ann"}


async def test_what_was_not_expected_is_listed_and_exit_1(server: Server) -> None:
    write_users("Ann", "Bad Bo", "Cy", expect=["409", "409", "201"])
    result = await penstock_submit(*USERS, "--expect", "expect", url=server.url)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-4:] == [
        "as expected: 2 of 3",
        "",
        "Not as expected:",
        "  line 2  201, expected 409  succeeded",
    ]


async def test_output_holds_every_outcome_in_file_order(server: Server) -> None:
    write_users("Ann", "Bad Bo", *["Cy"] * 48)
    result = await penstock_submit(*USERS, "--output", "outcomes.ndjson", "--batch-size", "7", url=server.url)
    outcomes = [json.loads(line) for line in read("outcomes.ndjson").splitlines()]
    assert result.exit_code == 1
    assert [each["id"] for each in outcomes] == [str(line) for line in range(2, 52)]
    assert [each["status"] for each in outcomes[:3]] == [201, 409, 201]


async def test_refused_file_is_told_by_its_lines_and_exit_2(server: Server) -> None:
    def refuse(operations: list[Operation]) -> web.Response | None:
        wrong = [index for index, operation in enumerate(operations) if operation["body"]["name"] == "?"]
        errors = [{"pointer": f"/operations/{index}/body/name", "detail": "is no name"} for index in wrong]
        body = {"title": "Invalid operations", "errors": [*errors, {"pointer": "/atomic", "detail": "is off"}]}
        return web.json_response(body, status=422, content_type="application/problem+json") if wrong else None

    server.refusal = refuse
    write_users("Ann", "Bo", "Cy", "?", "Di", "Ed")
    result = await penstock_submit(*USERS, "--batch-size", "2", url=server.url)
    assert result.exit_code == 2
    assert result.stdout.startswith("total")
    told = result.stderr.splitlines()
    assert told[-4:-1] == [
        "The server rejected lines 4 to 5 (422 Invalid operations).",
        "  line 5, body/name: is no name",
        "  /atomic: is off",
    ]
    assert told[-1].startswith("Not submitted: line")

    write_users("?", "Ann")
    result = await penstock_submit(*USERS, url=server.url)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == "Nothing was submitted."


async def test_many_errors_are_cut_short(server: Server) -> None:
    errors = [{"pointer": f"/operations/{index}/body/name", "line": index + 2, "detail": "no"} for index in range(25)]
    server.refusal = lambda _: web.json_response(
        {"title": "Invalid", "errors": errors, "errorCount": 2000}, status=422, content_type="application/problem+json"
    )
    write_users(*["Ann"] * 25)
    result = await penstock_submit(*USERS, url=server.url)
    assert result.stderr.splitlines()[-4:] == [
        "  line 11, body/name: no",
        "  and 1,990 more",
        "Correct the file, or let these rows fail and run the others: --skip-invalid --rejected FILE.",
        "Nothing was submitted.",
    ]


@pytest.mark.parametrize(
    ("member", "detail", "helps"),
    [
        ("/body/age", "Input should be a valid integer.", True),
        ("/path", "user_id: Input should be a valid integer.", True),
        ("/path", "There is no operation POST /user. Available operations: POST /users.", False),
        ("", "The row has 2 cells, and the first row has 3.", False),
        ("/key", "String should have at most 255 characters.", False),
    ],
)
async def test_skip_invalid_is_advised_only_where_it_helps(
    server: Server, member: str, detail: str, helps: bool
) -> None:
    errors = [
        {"pointer": "/operations/0/body/name", "line": 2, "detail": "This is no name."},
        {"pointer": f"/operations/1{member}", "line": 3, "detail": detail},
    ]
    server.refusal = lambda _: web.json_response(
        {"title": "Invalid", "errors": errors, "errorCount": 2}, status=422, content_type="application/problem+json"
    )
    write_users("?", "Ann")
    result = await penstock_submit(*USERS, url=server.url)
    assert ("--skip-invalid" in result.stderr) is helps


async def test_option_that_was_given_and_is_of_no_use_is_not_advised(server: Server) -> None:
    errors = [{"pointer": "/operations/0/path", "line": 2, "detail": "There is no operation POST /users."}]
    server.refusal = lambda _: web.json_response(
        {"title": "Invalid", "errors": errors, "errorCount": 1}, status=422, content_type="application/problem+json"
    )
    write_users("Ann")
    result = await penstock_submit(*USERS, "--skip-invalid", url=server.url)
    assert result.stderr.splitlines()[-3:] == [
        "  line 2, path: There is no operation POST /users.",
        "Correct these rows, or the options: --skip-invalid is of no use here.",
        "Nothing was submitted.",
    ]


async def test_atomic_file_that_is_too_large_is_told_so(server: Server) -> None:
    server.refusal = lambda _: web.json_response(
        {"title": "Too many operations", "maxOperations": 1}, status=413, content_type="application/problem+json"
    )
    operation = {"method": "POST", "path": "/users", "body": {"name": "Ann"}}
    write("users.json", json.dumps({"atomic": True, "operations": [operation] * 2}))
    result = await penstock_submit("users.json", url=server.url)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-3:] == [
        "The server rejected operations 1 to 2 (413 Too many operations).",
        "users.json is atomic, so it cannot be split into smaller batches.",
        "Nothing was submitted.",
    ]


async def test_what_may_have_been_accepted_is_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.cli.submit._PATIENCE", Patience(0, 0, 0, 0))
    server.refusal = lambda _: web.Response(status=502)
    write_users("Ann", "Bo", "Cy")
    result = await penstock_submit(*USERS, "--batch-size", "2", url=server.url)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-3:] == [
        "There was no usable answer for lines 2 to 3: The server answered 502: Bad Gateway.",
        "Possibly accepted: lines 2 to 3. `penstock list` shows if it was.",
        "Not submitted: line 4.",
    ]


async def test_server_that_is_something_else_is_told(server: Server) -> None:
    write_users("Ann")
    result = await penstock_submit(*USERS, url=f"{server.url}/elsewhere")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-3:] == [
        "The server answered 404: Not Found.",
        f"Is {server.url}/elsewhere the URL of Penstock for clients? Name that URL with --url.",
        "Nothing was submitted.",
    ]


async def test_server_may_be_named_by_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_URL", server.url)
    write_users("Ann")
    result = await asyncio.to_thread(CliRunner().invoke, app, list(USERS), catch_exceptions=False)
    assert (result.exit_code, len(server.batches)) == (0, 1)


async def test_no_server_is_told_and_exit_2(server: Server) -> None:
    write_users("Ann")
    url = f"http://127.0.0.1:{free_port()}"
    result = await penstock_submit(*USERS, url=url)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"Nothing answers at {url}. Start Penstock with `penstock up`, or name its URL with --url." in result.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["missing.json"], "missing.json: cannot be read (No such file or directory)."),
        (["users.csv"], "users.csv: a CSV file needs --method and --path"),
        ([*USERS, "--output", "no/such/folder"], "No such file or directory"),
        ([*USERS, "--output", "users.csv"], "this is the file to submit"),
        ([*USERS, "--skip-invalid", "--batch-size", "5"], "cannot be combined with --expect or --batch-size"),
        (
            [*USERS, "--batch-size", "5", "--rejected", "bad.csv"],
            "a CSV file cannot be combined with --expect or --batch-size. Use a name that ends with .ndjson.",
        ),
        ([*USERS, "--expect", "expect", "--rejected", "bad.CSV"], "a CSV file cannot be combined"),
        ([*USERS, "--no-wait", "--output", "out.ndjson"], "--output: cannot be combined with --no-wait."),
        ([*USERS, "--no-wait", "--rejected", "bad.csv"], "--rejected: cannot be combined with --no-wait."),
        ([*USERS, "--validate-only", "--output", "out.ndjson"], "--output: cannot be combined with --validate-only."),
        ([*USERS, "--validate-only", "--rejected", "bad.csv"], "--rejected: cannot be combined with --validate-only."),
        ([*USERS, "--validate-only", "--upload"], "--upload: cannot be combined with --validate-only."),
        ([*USERS, "--validate-only", "--batch-size", "5"], "--batch-size: cannot be combined with --validate-only."),
        ([*USERS, "--validate-only", "--no-wait"], "--no-wait: cannot be combined with --validate-only."),
        ([*USERS, "--output", "out", "--rejected", "./out"], "this is the file of --output. Name another file."),
        (["missing.json", "--output", "out.ndjson"], "missing.json: cannot be read"),
        ([*USERS, "--batch-size", "0"], "should be greater than or equal to 1"),
    ],
)
async def test_wrong_file_or_option_posts_nothing_and_exits_2(server: Server, arguments: list[str], told: str) -> None:
    write_users("Ann")
    before = read("users.csv")
    result = await penstock_submit(*arguments, url=server.url)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.replace("│", " ").split())
    assert server.batches == []
    assert read("users.csv") == before
    assert files() == ["users.csv"]


@pytest.mark.parametrize("url", ["localhost:8080", "http://", "ftp://localhost", "http://[::1"])
async def test_url_that_is_none_is_told(server: Server, url: str) -> None:
    write_users("Ann")
    result = await penstock_submit(*USERS, url=url)
    assert result.exit_code == 2
    assert "should look like" in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.usefixtures("ctrl_c")
async def test_ctrl_c_tells_what_goes_on_and_exits_130(server: Server) -> None:
    server.is_hanging = True
    write_users("Ann", "Bo")
    program = "import typer; from penstock.cli.submit import submit; typer.run(submit)"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, *USERS, "--url", server.url, stderr=subprocess.PIPE
    )
    await server.was_asked.wait()
    process.send_signal(signal.SIGINT)
    _, stderr = await process.communicate()
    assert process.returncode == 130
    assert stderr.decode().splitlines()[-2:] == [
        "Stopped watching. 1 batch still runs on the server:",
        f"  {server.url}/batch/0",
    ]


def test_plain_progress_is_a_line_for_each_tenth_or_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    lines = ProgressLines(clock=lambda: now)
    for second, completed in [(0, 0), (1, 9), (2, 10), (3, 10), (4, 19), (9, 19), (10, 21), (20, 21), (21, 100)]:
        now = float(second)
        lines.show(Tally(total=100, completed=completed, failed=completed // 10))
    assert capsys.readouterr().err.splitlines() == [
        " 10%  10 of 100, 1 failed, 5/s, about 18 s left",
        " 19%  19 of 100, 1 failed, 2/s, about 38 s left",
        " 21%  21 of 100, 2 failed, 1/s, about 75 s left",
        "100%  100 of 100, 10 failed, 5/s",
    ]


def test_progress_bar_shows_what_is_done_and_what_failed() -> None:
    screen = io.StringIO()
    with ProgressBar(Console(file=screen, force_terminal=True, width=100, color_system=None)) as bar:
        bar.show(Tally(total=5000, completed=1250, succeeded=1200, failed=50))
        bar.say("The server asks to wait [429].")
    assert "25% 1,250 of 5,000 50 failed" in screen.getvalue()
    assert "The server asks to wait [429]." in screen.getvalue()


async def test_rejected_key_is_told_without_the_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def reject(_: list[Operation]) -> web.Response:
        problem = {"title": "A valid key is missing", "detail": "The key abc was revoked."}
        return web.json_response(problem, status=401, content_type="application/problem+json")

    server.refusal = reject
    monkeypatch.setenv("PENSTOCK_API_KEY", "the-secret-key")
    write_users("Ann")
    result = await penstock_submit(*USERS, url=server.url)
    assert result.exit_code == 2
    assert "The server answered 401: The key abc was revoked." in result.stderr
    assert "PENSTOCK_API_KEY" in result.stderr
    assert "the-secret-key" not in result.output
