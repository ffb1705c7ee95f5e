"""A user with a spreadsheet export reaches a finished batch and a file of the bad rows, or reads what to change.

The export is in Windows-1252 with semicolons. Some of its rows are invalid, and some are rejected by the application.
"""

import asyncio
import csv
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import typer
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from penstock.cli import batches
from penstock.cli.submit import submit
from tests.support.full import full
from tests.unit.penstock.client.conftest import Site, site, with_bucket

__all__ = ["site"]  # the fixture

app = typer.Typer()
app.command()(submit)

PEOPLE = ("--method", "PUT", "--path", "/people/{number}")
INVALID, YOUNG = range(113), range(200, 300)  # of the rows
EXPORT, BAD = "export.csv", "bad.csv"

Run = Callable[..., Awaitable[Result]]


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """Keep what the server logs from the output of the command."""
    with capture_logs():
        yield


@pytest.fixture
def run(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("PENSTOCK_URL", site.url)
    monkeypatch.chdir(tmp_path)

    async def run(*words: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, app, list(words))

    return run


def write_export(rows: int, step: int) -> int:
    """Write every `step`-th row of the export. Return how many of them are bad."""
    bad = 0
    with Path(EXPORT).open("w", encoding="cp1252", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["number", "name", "born"])
        for number in range(0, rows, step):
            born = "yesterday" if number in INVALID else "2020-05-05" if number in YOUNG else "1990-05-05"
            bad += number in INVALID or number in YOUNG
            writer.writerow([number, f"Zoë {number}", born])
    return bad


def read_bad() -> list[dict[str, str]]:
    with Path(BAD).open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter=";"))


def correct_bad() -> None:
    text = Path(BAD).read_text("utf-8-sig").replace("yesterday", "1990-05-05").replace("2020-05-05", "1990-05-05")
    Path(BAD).write_text(text, "utf-8-sig")


@pytest.mark.parametrize(("rows", "step"), [(2_130, 30), *full([(2_130, 1)])])
async def test_export_is_submitted_and_its_bad_rows_are_corrected(run: Run, site: Site, rows: int, step: int) -> None:
    bad = write_export(rows, step)
    assert bad == (213 if step == 1 else 7)

    told = await run(EXPORT, *PEOPLE)
    assert (told.exit_code, told.stdout) == (2, "")
    assert told.stderr == (
        "export.csv, line 2: The line is not UTF-8. It seems to be Windows-1252. "
        "Send it with --charset windows-1252, or save it as CSV UTF-8.\n"
    )

    told = await run(EXPORT, *PEOPLE, "--charset", "windows-1252", "--validate-only")
    assert (told.exit_code, told.stdout) == (2, "")
    assert "line 2, body/born: Input should be a valid date" in told.stderr

    told = await run(EXPORT, *PEOPLE, "--charset", "windows-1252", "--validate-only", "--skip-invalid")
    assert told.exit_code == 0, told.output
    invalid = len(INVALID[::step])
    shown = dict(line.split(maxsplit=1) for line in told.stdout.splitlines())
    assert shown["valid"] == f"{rows // step - invalid:,} operations"
    assert shown["invalid"] == f"{invalid} rows, to fail with 422"

    told = await run(EXPORT, *PEOPLE, "--charset", "windows-1252")
    assert (told.exit_code, told.stdout) == (2, "")
    assert "line 2, body/born: Input should be a valid date" in told.stderr
    assert "let these rows fail and run the others: --skip-invalid --rejected FILE." in told.stderr

    told = await run(EXPORT, *PEOPLE, "--charset", "windows-1252", "--skip-invalid", "--rejected", BAD)
    assert told.exit_code == 1, told.output
    assert f"{bad} failed rows are in bad.csv, with the reasons." in told.stderr
    rejected = read_bad()
    assert len(rejected) == bad
    assert list(rejected[0]) == ["number", "name", "born", "error_status", "error_title", "error_detail"]
    assert [row["number"] for row in rejected] == sorted((row["number"] for row in rejected), key=int)
    first, last = rejected[0], rejected[-1]
    assert [first[name] for name in ("number", "name", "born", "error_status")] == ["0", "Zoë 0", "yesterday", "422"]
    assert "valid date" in first["error_detail"]
    assert (last["error_status"], last["error_detail"]) == ("403", f"Zoë {last['number']} is too young.")

    correct_bad()
    told = await run(BAD, *PEOPLE, "--validate-only")
    assert told.exit_code == 0, told.output
    assert told.stdout.splitlines()[0] == f"valid  {bad} operations"
    assert told.stdout.splitlines()[-1].split() == [str(bad), "PUT", "/people/{number}"]

    site.fault = with_bucket(site)
    told = await run(BAD, *PEOPLE, "--upload")
    assert told.exit_code == 0, told.output
    assert dict(line.split() for line in told.stdout.splitlines())["succeeded"] == str(bad)


async def test_invalid_rows_are_told_that_a_consumer_has_found(run: Run, site: Site) -> None:
    write_export(2_130, 30)
    site.fault = with_bucket(site)
    told = await run(EXPORT, *PEOPLE, "--charset", "windows-1252", "--upload")
    assert (told.exit_code, told.stdout) == (2, "")
    accepted, *errors = told.stderr.splitlines()[-6:]
    batch_id = accepted.removeprefix("Accepted as the batch ").rstrip(".")
    reason = f"The batch {batch_id} is failed: The file has 4 errors; nothing was run."
    assert errors[0] == f"Nothing has run. {reason}"
    assert errors[1].startswith("  line 2, /operations/0/body/born: Input should be a valid date")
    assert len(errors) == 5

    shown = await asyncio.to_thread(CliRunner().invoke, batches.app, ["status", batch_id])
    assert "failed: The file has 4 errors; nothing was run." in shown.stdout
    assert "done" not in shown.stdout
    assert shown.stderr.splitlines() == errors[1:]
    assert (await asyncio.to_thread(CliRunner().invoke, batches.app, ["watch", batch_id])).exit_code == 1
