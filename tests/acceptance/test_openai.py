"""OpenAI's own client libraries use files and batches, unchanged. Only their `base_url` and `api_key` are set.

`.ci/run` installs the library for Node. Without it that test is skipped, also in CI.
"""

import asyncio
import io
import itertools
import json
import shutil
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from openai import AsyncOpenAI, OpenAI

from examples.models.server import Quota, create_app
from tests.acceptance.conftest import Install
from tests.acceptance.generated.running import run, skip_without_node, tools_or_skip
from tests.acceptance.generated.tools import OPENAI
from tests.acceptance.installation import Installation, on_any_aws
from tests.acceptance.proxy import proxy_to
from tests.support.programs import free_port
from tests.support.waiting import UNIT_SECONDS, eventually
from tests.unit.docs.pages import REPOSITORY, blocks

SUMS: Any = "/sums"  # the library's types know the endpoints of OpenAI only
LINGERS: Any = "/lingers"
MANY = 50_000
FINAL = {"completed", "failed", "expired", "cancelled"}
BUCKET = {"BUCKET": "files-of-openai"}

pytestmark = [on_any_aws, pytest.mark.timeout(300)]


def jsonl(lines: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def addition(number: int, **changes: Any) -> dict[str, Any]:
    return {"custom_id": f"n-{number}", "method": "POST", "url": SUMS, "body": {"a": number, "b": 1}, **changes}


def lingering(count: int, seconds: float) -> bytes:
    return jsonl(addition(number, url=LINGERS, body={"seconds": seconds}) for number in range(count))


def client_of(penstock: Installation, **options: Any) -> OpenAI:
    return OpenAI(base_url=f"http://127.0.0.1:{penstock.port}/v1", api_key="none", **options)


async def wait_for(client: AsyncOpenAI, batch_id: str) -> Any:
    async def is_final() -> bool:
        return (await client.batches.retrieve(batch_id)).status in FINAL

    await eventually(is_final, 200)
    return await client.batches.retrieve(batch_id)


@pytest.fixture
async def penstock(install: Install) -> Installation:
    made = await install(**BUCKET)
    await asyncio.gather(made.serve(), made.consume())
    return made


async def test_library_for_python_does_all_that_is_offered(penstock: Installation) -> None:
    await asyncio.to_thread(all_that_is_offered, client_of(penstock))


def all_that_is_offered(client: OpenAI) -> None:
    content = jsonl(addition(number) for number in range(25))
    file = client.files.create(
        file=("sums.jsonl", content), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3_600}
    )
    assert client.files.wait_for_processing(file.id) == file
    assert (file.status, file.bytes, file.filename, file.purpose) == ("processed", len(content), "sums.jsonl", "batch")
    assert file.expires_at == file.created_at + 3_600
    assert client.files.content(file.id).read() == content
    for _ in range(4):
        client.files.create(file=content, purpose="batch")
    assert len({one.id for one in client.files.list(limit=2)}) == 5
    assert client.files.list(order="asc").data[0] == file

    raw = client.batches.with_raw_response.create(
        input_file_id=file.id, endpoint=SUMS, completion_window="24h", metadata={"team": "x"}
    )
    assert raw.headers["x-request-id"]
    batch = raw.parse()
    while batch.status not in FINAL:
        threading.Event().wait(0.2)
        batch = client.batches.retrieve(batch.id)
    assert batch.request_counts is not None
    assert (batch.status, batch.request_counts.completed, batch.metadata) == ("completed", 25, {"team": "x"})
    assert batch.error_file_id is None
    assert batch.output_file_id is not None
    output = client.files.retrieve(batch.output_file_id)
    with client.files.with_streaming_response.content(output.id) as streamed:
        lines = [json.loads(line) for line in streamed.iter_lines()]
    assert [line["response"]["body"]["sum"] for line in lines] == list(range(1, 26))
    assert output.bytes == len(client.files.content(output.id).read())
    for _ in range(3):
        client.batches.create(input_file_id=file.id, endpoint=SUMS, completion_window="24h")
    assert len({one.id for one in client.batches.list(limit=2)}) == 4

    broken = client.files.create(file=b'{"custom_id": "a"}\n{', purpose="batch")
    assert (broken.status, broken.status_details is not None) == ("error", True)
    failed = client.batches.create(input_file_id=broken.id, endpoint=SUMS, completion_window="24h")
    assert failed.status == "failed"
    assert failed.errors is not None
    assert [(one.code, one.line) for one in failed.errors.data or ()] == [
        ("missing_required_parameter", 1),
        ("invalid_json_line", 2),
    ]

    assert client.files.delete(file.id).deleted
    for ask in (lambda: client.files.retrieve(file.id), lambda: client.batches.retrieve("batch_none")):
        with pytest.raises(openai.NotFoundError) as missing:
            ask()
        assert missing.value.request_id
    with pytest.raises(openai.BadRequestError) as wrong:
        client.files.create(file=content, purpose="fine-tune")
    assert (wrong.value.param, wrong.value.type) == ("purpose", "invalid_request_error")
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)


async def test_keys_are_the_api_keys_of_the_library(install: Install) -> None:
    operator_key = "0123456789abcdef0123456789abcdef"
    penstock = await install(AUTH="keys", OPERATOR_KEY=operator_key, **BUCKET)
    await penstock.serve()
    with pytest.raises(openai.AuthenticationError):
        await asyncio.to_thread(client_of(penstock).files.list)
    assert (await asyncio.to_thread(client_of(penstock).with_options(api_key=operator_key).files.list)).data == []


async def test_fifty_thousand_lines_from_a_file_of_which_nobody_knows_the_size(penstock: Installation) -> None:
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{penstock.port}/v1", api_key="none") as client:
        pieces: Any = Pieces(addition(number) for number in range(MANY))
        file = await client.files.create(file=pieces, purpose="batch")
        assert file.status == "processed"
        made = await client.batches.create(input_file_id=file.id, endpoint=SUMS, completion_window="24h")
        batch = await wait_for(client, made.id)
        assert batch.request_counts.completed == MANY
        content = await client.files.content(batch.output_file_id)
        found = [json.loads(line)["response"]["body"]["sum"] for line in content.text.splitlines()]
        assert found == list(range(1, MANY + 1))


class Pieces(io.RawIOBase):
    """A file that can only be read, in pieces."""

    name = "many.jsonl"

    def __init__(self, lines: Iterator[Any]) -> None:
        self._lines = lines

    def read(self, _size: int = -1, /) -> bytes:
        return jsonl(itertools.islice(self._lines, 500))


async def test_cancelled_batch_is_told_apart_by_its_lines(penstock: Installation) -> None:
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{penstock.port}/v1", api_key="none") as client:
        file = await client.files.create(file=lingering(100, seconds=2), purpose="batch")
        made = await client.batches.create(input_file_id=file.id, endpoint=LINGERS, completion_window="24h")

        async def some_have_begun() -> bool:
            return bool(penstock.journal.entries("begun"))

        await eventually(some_have_begun)
        cancelling = await client.batches.cancel(made.id)  # those that have begun run on for two seconds
        assert cancelling.status == "cancelling"
        batch = await wait_for(client, made.id)
        assert batch.status == "cancelled"
        entries = [json.loads(line) for line in (await client.files.content(batch.error_file_id)).text.splitlines()]
        assert {entry["error"]["code"] for entry in entries} == {"batch_cancelled"}
        assert len(entries) == 100 - batch.request_counts.completed


@pytest.mark.parametrize(("service", "action"), [("SQS", "SendMessageBatch"), ("DYNAMODB", "UpdateItem")])
async def test_batch_runs_once_although_its_front_end_died_and_the_library_repeated(
    install: Install, service: str, action: str
) -> None:
    penstock = await install(CHUNK_OPERATIONS="1", **BUCKET)
    client = client_of(penstock, max_retries=8)
    async with proxy_to(penstock.endpoint(service)) as proxy:
        doomed, _ = await asyncio.gather(
            penstock.serve(**{f"AWS_ENDPOINT_URL_{service}": proxy.url}), penstock.consume()
        )
        lines = lingering(30, seconds=0.01)
        file = await asyncio.to_thread(client.files.create, file=lines, purpose="batch")
        proxy.hold_back(action)
        creating = asyncio.create_task(
            asyncio.to_thread(client.batches.create, input_file_id=file.id, endpoint=LINGERS, completion_window="24h")
        )
        await asyncio.wait_for(proxy.held_back.wait(), 20 * UNIT_SECONDS)
        doomed.kill()
        await doomed.ended()
        await penstock.serve()
        made = await creating
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{penstock.port}/v1", api_key="none") as waiting:
        batch = await wait_for(waiting, made.id)
    assert batch.request_counts.completed == 30
    assert set(penstock.journal.runs().values()) == {1}
    assert len(penstock.journal.runs()) == 30


# --- Webhooks


@pytest.mark.full
async def test_libraries_verify_the_events_that_are_delivered(install: Install, tmp_path: Path) -> None:
    penstock = await install(WEBHOOK_SECRET="a secret of at least 32 characters", WEBHOOK_ALLOW="127.0.0.0/8", **BUCKET)
    await asyncio.gather(penstock.serve(), penstock.consume())
    client = AsyncOpenAI(base_url=f"http://127.0.0.1:{penstock.port}/v1", api_key="none")
    async with receiver() as (url, received), client:
        made: Any = await client.post("/webhook_endpoints", cast_to=object, body={"url": url})
        secret = made["secret"]
        ids = {}
        for kind, lines in (("batch.completed", [addition(1)]), ("batch.failed", [addition(1), addition(1)])):
            file = await client.files.create(file=jsonl(lines), purpose="batch")
            batch = await client.batches.create(input_file_id=file.id, endpoint=SUMS, completion_window="24h")
            ids[kind] = batch.id
        got = [await asyncio.wait_for(received.get(), 20 * UNIT_SECONDS) for _ in ids]
        events: list[Any] = [client.webhooks.unwrap(body, headers, secret=secret) for body, headers in got]
        assert {event.type: event.data.id for event in events} == ids
        with pytest.raises(openai.InvalidWebhookSignatureError):
            client.webhooks.unwrap(got[0][0] + b" ", got[0][1], secret=secret)
    if OPENAI.folder.exists():  # where the library for Node is installed, Node is, too
        body, headers = got[0]
        sent = json.dumps({"body": body.decode(), "headers": headers, "secret": secret})
        unwrapped = await run("node", "webhook.js", sent, folder=with_library_for_node(tmp_path))
        assert json.loads(unwrapped) == [events[0].type, events[0].data.id]


def with_library_for_node(folder: Path) -> Path:
    """Put the programs for Node into a folder, with the library."""
    (folder / "node_modules").symlink_to(tools_or_skip(OPENAI) / "node_modules")
    for name in ("package.json", "story.js", "webhook.js"):
        shutil.copy(OPENAI.source / name, folder)
    return folder


@asynccontextmanager
async def receiver() -> AsyncIterator[tuple[str, asyncio.Queue[tuple[bytes, dict[str, str]]]]]:
    """Yield the URL of a receiver of webhooks, and the bodies and headers that it has received."""
    received: asyncio.Queue[tuple[bytes, dict[str, str]]] = asyncio.Queue()

    async def receive(request: web.Request) -> web.Response:
        await received.put((await request.read(), dict(request.headers)))
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/hook", receive)
    async with TestServer(app, port=free_port()) as server:
        yield str(server.make_url("/hook")), received


# --- Before a server of models


@pytest.fixture
async def models() -> AsyncIterator[str]:
    async with TestServer(create_app(Quota(10_000)), port=free_port()) as server:
        yield str(server.make_url("")).rstrip("/")


async def in_front_of(install: Install, models: str) -> str:
    penstock = await install(APP="", UPSTREAM=models, **BUCKET)
    await asyncio.gather(penstock.serve(), penstock.consume())
    return f"http://127.0.0.1:{penstock.port}"


async def test_blocks_of_the_page_work(install: Install, models: str, capsys: pytest.CaptureFixture[str]) -> None:
    url = await in_front_of(install, models)
    [source] = blocks(REPOSITORY / "docs" / "openai.md", "py")
    code = compile(source.replace("http://localhost:8080", url), "docs/openai.md", "exec")
    await asyncio.to_thread(exec, code, {})
    assert len(capsys.readouterr().out.splitlines()) == 1_000


async def test_library_for_node_does_all_that_is_offered(install: Install, models: str, tmp_path: Path) -> None:
    skip_without_node()
    folder = with_library_for_node(tmp_path)
    got = json.loads(await run("node", "story.js", f"{await in_front_of(install, models)}/v1", folder=folder))
    assert got["files"] == 3
    assert got["file"]["status"] == "processed"
    assert got["batch"]["request_counts"] == {"total": 200, "completed": 199, "failed": 1}
    assert (got["batch"]["status"], got["batches"]) == ("completed", 2)
    assert got["answers"] == 199
    assert got["error"]["response"]["status_code"] == 404
    assert got["error"]["response"]["body"]["error"]["message"] == "There is no model 'other'."
    assert got["failed"] == [["duplicate_custom_id", 2]]
    assert got["missing"] == [404, "id"]
    assert got["deleted"] is True
