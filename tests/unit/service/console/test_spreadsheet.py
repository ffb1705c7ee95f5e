"""The story of a spreadsheet with bad rows: a batch that finishes, and a file of the bad rows with the reasons.

The file is Windows-1252 with semicolons. In the full test run, a browser sends one of 40 MB.
"""

import csv
import io
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel, Field
from pytest_aiohttp import AiohttpClient

from penstock import Operations, Reject
from tests.support.full import full
from tests.support.plant import Plant, build_plant
from tests.unit.service.console.conftest import Browser, text_of

COLUMNS = ["Nr", "E-Mail", "Größe", "since", "note"]
NAMES = '{"Nr": "number", "E-Mail": "email", "Größe": "size"}'
QUERY = {"method": "PUT", "path": "/customers/{number}", "columns": NAMES}
BAD = 213
WITHOUT_CHARSET = "It seems to be Windows-1252. Send it with charset=windows-1252, or save it as CSV UTF-8."


class Customer(BaseModel, extra="forbid"):
    email: str = Field(pattern="@")
    size: float
    since: date
    note: str = ""


@dataclass
class Spreadsheet:
    """Rows, some of which are bad: every third of these has an invalid cell, the others are rejected."""

    rows: int
    note_characters: int
    bad: dict[int, list[str]] = field(default_factory=dict)

    def content(self) -> bytes:
        """Return the file as a spreadsheet writes it."""
        text = io.StringIO()
        writer = csv.writer(text, delimiter=";", lineterminator="\r\n")
        writer.writerow(COLUMNS)
        step = self.rows // BAD
        for number in range(self.rows):
            row = self._row(number)
            if number % step == 0 and number // step < BAD:
                row[2 if number // step % 3 else 1] = "0" if number // step % 3 else "nobody"
                self.bad[number] = row
            writer.writerow(row)
        return text.getvalue().encode("cp1252")

    def _row(self, number: int) -> list[str]:
        note = f'"né" {number};\n€' if number % 10 == 0 else ""
        return [str(number), f"user{number}@example.com", "-1.5", "2026-11-29", note.ljust(self.note_characters, "ü")]


@pytest.fixture
async def plant(aiohttp_client: AiohttpClient) -> Plant:
    operations = Operations()

    @operations.put("/customers/{number}")
    async def change_customer(number: int, customer: Customer) -> int:
        if customer.size == 0:
            raise Reject(409, "=0 is no size.")
        return number

    return await build_plant(aiohttp_client, operations)


@pytest.mark.parametrize(
    ("path", "rows", "note_characters"),
    [("/batch", 600, 10), ("/console/file", 600, 10), *full([("/console/file", 42_000, 920)])],
)
async def test_bad_rows_of_a_spreadsheet_come_back_with_reasons(
    plant: Plant, path: str, rows: int, note_characters: int
) -> None:
    sheet, browser = Spreadsheet(rows, note_characters), Browser(plant.service.client)
    content = sheet.content()
    answer = await browser.post(path, content, QUERY, **headers(""))
    assert answer.status == 422
    assert WITHOUT_CHARSET in (text_of(answer) if path == "/console/file" else answer.body["errors"][0]["detail"])

    query = {**QUERY, "invalidRows": "fail"}
    answer = await browser.post(path, content, query, **headers("; charset=windows-1252"))
    assert answer.status == 202, answer.content
    batch_id = answer.body["batchId"]
    await plant.work_off()
    status = (await plant.service.get(f"/batch/{batch_id}")).body
    assert (status["status"], status["total"], status["failed"]) == ("completed", rows, BAD)

    url = f"/console/batch/{batch_id}" if path == "/console/file" else f"/batch/{batch_id}"
    rejected = (await browser.get(f"{url}/rejected?format=csv")).content
    header, *lines = read(rejected)
    assert header == [*COLUMNS, "error_status", "error_title", "error_detail"]
    assert [line[: len(COLUMNS)] for line in lines] == list(sheet.bad.values())
    reasons = [line[len(COLUMNS) :] for line in lines]
    assert reasons[0] == ["422", "Invalid operation", "email: String should match pattern '@'."]
    assert reasons[1:3] == [["409", "Rejected", "'=0 is no size."]] * 2

    corrected = rejected.replace(b";nobody;", b";a@example.com;").replace(b";0;", b";-2;")
    answer = await browser.post(path, corrected, QUERY, **headers(""))
    assert answer.status == 202, answer.content
    await plant.work_off()
    status = (await plant.service.get(f"/batch/{answer.body['batchId']}")).body
    assert (status["status"], status["succeeded"]) == ("completed", BAD)


async def test_page_shows_the_columns_of_a_file_that_came_back(plant: Plant) -> None:
    content = b"number;email;error_status;error_title;error_detail\r\n1;x;409;Rejected;No\r\n"
    browser = Browser(plant.service.client)
    text = text_of(await browser.post("/console/file/look", content, QUERY, **{"Content-Type": "text/csv"}))
    assert "2 columns" in text
    assert "error_status" not in text


def headers(charset: str) -> dict[str, str]:
    return {"Content-Type": f"text/csv{charset}", "Prefer": "respond-async"}


def read(content: bytes) -> list[Any]:
    text = content.decode("utf-8-sig")
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=";", strict=True))
