"""A person looks at a file, says what its columns mean, and sends it as a batch."""

import json
from typing import Any

import pytest
from pydantic import BaseModel
from pytest_aiohttp import AiohttpClient

from penstock import Operations
from penstock.service.console import files
from penstock.testing.http import Answer
from tests.support.plant import Plant, build_plant
from tests.unit.service.console.conftest import Browser, text_of

CSV, NDJSON = "text/csv", "application/x-ndjson"


class NewUser(BaseModel, extra="forbid"):
    email: str
    age: int | None = None
    is_staff: bool = False


@pytest.fixture
def received() -> list[Any]:
    return []


@pytest.fixture
async def plant(aiohttp_client: AiohttpClient, received: list[Any]) -> Plant:
    operations = Operations()

    @operations.delete("/users/{id}")
    async def delete_user(id: int) -> None:  # noqa: A002
        received.append(id)

    @operations.post("/users")
    async def create_user(user: NewUser) -> None:
        received.append(user)

    @operations.put("/users/{id}")
    async def change_user(id: int, user: NewUser) -> None:  # noqa: A002
        received.append((id, user))

    return await build_plant(aiohttp_client, operations)


@pytest.fixture
async def browser(plant: Plant) -> Browser:
    return Browser(plant.service.client)


async def look(browser: Browser, content: bytes, kind: str = CSV, **query: str) -> Answer:
    return await browser.post("/console/file/look", content, query, **{"Content-Type": kind})


async def send(browser: Browser, content: bytes, kind: str = CSV, key: str = "k", **query: str) -> Answer:
    """Send a file as the script of the page does."""
    headers = {"Content-Type": kind, "Prefer": "respond-async", "Idempotency-Key": f'"{key}"'}
    return await browser.post("/console/file", content, query, **headers)


async def test_page_offers_the_operations_of_the_application(browser: Browser) -> None:
    text = text_of(await browser.get("/console/file"))
    assert "POST /users PUT /users/{id}" in text or "DELETE /users/{id}" in text
    assert "Up to 1,000,000 rows" in text


@pytest.mark.parametrize(
    ("header", "method", "path"),
    [
        (b"email,expect", "POST", "/users"),
        (b"id", "DELETE", "/users/{id}"),
        (b"E-Mail;Id;Is Staff", "PUT", "/users/{id}"),
        (b"nothing,known", "POST", "/users"),
    ],
)
async def test_operation_that_fits_the_columns_is_proposed(
    browser: Browser, header: bytes, method: str, path: str
) -> None:
    page = (await look(browser, header + b"\n1,2\n")).content.decode()
    assert f'data-method="{method}" data-path="{path}"' in page


async def test_columns_are_named_like_the_members_that_they_mean(browser: Browser) -> None:
    page = (await look(browser, b"Id;E-Mail;expect\n1;<b>;3\n", method="PUT", path="/users/{id}")).content.decode()
    values = [part.partition('"')[0] for part in page.split(' value="')[1:4]]
    assert values == ["id", "email", ""]
    assert "&lt;b&gt;" in page
    assert "<b>" not in page


async def test_names_of_very_many_columns_are_compared_once(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """With each member of each operation, a thousand columns blocked the front end for seconds."""
    compared: list[str] = []
    plain = files._plain

    def count(name: str) -> str:
        compared.append(name)
        return plain(name)

    monkeypatch.setattr(files, "_plain", count)
    answer = await look(browser, ",".join(f"column {number}" for number in range(1_000)).encode() + b"\n")
    assert answer.status == 200
    assert len(compared) < 3_000


async def test_long_object_is_shown_in_part(browser: Browser) -> None:
    """Each element of it has as many spaces before it as it has levels."""
    content = b'{"a":%b%b0%b}\n' % (b"[" * 190, b"0," * 60_000, b"]" * 190)
    answer = await look(browser, content, NDJSON)
    assert answer.status == 200
    assert len(answer.content) < 20_000


async def test_what_no_column_has_is_said(browser: Browser) -> None:
    text = text_of(await look(browser, b"age\n1\n", method="POST", path="/users"))
    assert "Every row needs email , but no column is sent as that." in text


@pytest.mark.parametrize("charset", ["windows-1252", "utf-16"])
async def test_charset_of_a_file_is_chosen(browser: Browser, received: list[Any], plant: Plant, charset: str) -> None:
    content, kind = "email\nrené@example.com\n".encode(charset), f"{CSV}; charset={charset}"
    assert f'value="{charset}"' in (await browser.get("/console/file")).content.decode()
    assert "rené@example.com" in text_of(await look(browser, content, kind))
    assert (await send(browser, content, kind, method="POST", path="/users")).status == 202
    await plant.work_off()
    assert received == [NewUser(email="rené@example.com")]


async def test_unknown_charset_is_rejected(browser: Browser) -> None:
    answer = await look(browser, b"email\n", f"{CSV}; charset=klingon")
    assert (answer.status, "The charset 'klingon' is not supported." in text_of(answer)) == (400, True)


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (b"", CSV, "The file is empty."),
        ("a\nä\n".encode("cp1252"), CSV, "It seems to be Windows-1252."),
        (b"a,a\n", CSV, "Two columns have the name 'a'."),
        (b"{nothing}\n", NDJSON, "The line is not valid JSON"),
        (b"7\n", NDJSON, "The line is not an object"),
    ],
)
async def test_file_that_cannot_be_read_is_said_before_it_is_sent(
    browser: Browser, content: bytes, kind: str, words: str
) -> None:
    answer = await look(browser, content, kind)
    assert answer.status == 422
    assert words in text_of(answer)


async def test_rows_become_operations_whose_ids_are_their_lines(
    plant: Plant, browser: Browser, received: list[Any]
) -> None:
    content = b"Id;E-Mail;age;expect\r\n7;a@example.com;41;x\r\n;;;\r\n8;b@example.com;;y\r\n"
    columns = json.dumps({"Id": "id", "E-Mail": "email", "expect": None})
    answer = await send(browser, content, method="PUT", path="/users/{id}", columns=columns, priority="low")
    assert answer.status == 202, answer.content
    batch_id = answer.body["batchId"]
    assert (await plant.batch(batch_id)).priority == "low"
    await plant.work_off()
    users = [(7, NewUser(email="a@example.com", age=41)), (8, NewUser(email="b@example.com"))]
    assert sorted(received, key=lambda one: one[0]) == users
    assert await plant.statuses(batch_id) == {"2": 200, "4": 200}


async def test_rows_without_other_columns_have_no_body(plant: Plant, browser: Browser, received: list[Any]) -> None:
    answer = await send(browser, b"id\n5\n6\n", method="DELETE", path="/users/{id}")
    assert answer.status == 202, answer.content
    await plant.work_off()
    assert sorted(received) == [5, 6]


@pytest.mark.parametrize(
    ("content", "query"),
    [
        (b'{"email": "a@example.com", "age": 3}\n', {"method": "POST", "path": "/users"}),
        (b'{"method": "POST", "path": "/users", "body": {"email": "a@example.com", "age": 3}}\n', {}),
        (b'\xef\xbb\xbf{"email": "a@example.com", "age": 3}', {"method": "POST", "path": "/users"}),
    ],
)
async def test_lines_are_bodies_or_whole_operations(
    plant: Plant, browser: Browser, received: list[Any], content: bytes, query: dict[str, str]
) -> None:
    answer = await send(browser, content, NDJSON, **query)
    assert answer.status == 202, answer.content
    await plant.work_off()
    assert received == [NewUser(email="a@example.com", age=3)]


async def test_file_that_arrives_twice_runs_once(browser: Browser) -> None:
    first, second = [await send(browser, b"id\n5\n", method="DELETE", path="/users/{id}") for _ in range(2)]
    assert first.body["batchId"] == second.body["batchId"]
    other = await send(browser, b"id\n5\n", method="DELETE", path="/users/{id}", columns='{"id": "id"}')
    assert other.status == 422
    assert "This file was accepted already" in text_of(other)


async def test_errors_are_shown_by_line_and_nothing_runs(plant: Plant, browser: Browser) -> None:
    content = b'email,age,extra\na@example.com,1,\n<b>,x,1\nc@example.com\n"d\n e",4,\n'
    answer = await send(browser, content, method="POST", path="/users")
    assert answer.status == 422
    text = text_of(answer)
    assert "The file is not valid, so nothing runs It has 3 errors." in text
    assert "3 age Input should be a valid integer" in text
    assert "3 extra Extra inputs are not permitted" in text
    assert "4 The row has 1 cell, and the first row has 3." in text
    assert not plant.messages


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ({"method": "POST"}, 400, "The query needs a method"),
        ({"method": "TRACE", "path": "/users"}, 400, "The query needs a method"),
        ({"method": "POST", "path": "/users", "columns": "[1]"}, 400, "not a JSON object of names"),
        ({"method": "POST", "path": "/nothing"}, 422, "There is no operation POST /nothing."),
        ({"method": "DELETE", "path": "/users/{key}"}, 422, "has no column 'key'. Its only column is 'email'."),
        ({"method": "POST", "path": "/users", "maxFailures": "x"}, 422, "Write this option as a decimal number"),
        ({"method": "POST", "path": "/users", "unknown": "x"}, 422, "unknown"),
    ],
)
async def test_wrong_choice_is_said(browser: Browser, query: dict[str, str], status: int, words: str) -> None:
    answer = await send(browser, b"email\na@example.com\n", **query)
    assert answer.status == status
    assert words in text_of(answer)


async def test_file_without_rows_is_rejected(browser: Browser) -> None:
    assert (await send(browser, b"email\n", method="POST", path="/users")).status == 422
