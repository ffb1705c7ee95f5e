"""The console in a real browser: a customer sends a file, and an operator has a bad night."""

import os
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, ViewportSize, async_playwright, expect

from tests.acceptance.installation import USERS
from tests.support.aws import scrubbed_environment
from tests.support.programs import Program, Programs, free_port, programs
from tests.support.waiting import UNIT_SECONDS

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
OPERATOR_KEY = "0123456789abcdef0123456789abcdef"
SECONDS = 20 * UNIT_SECONDS
PHONE: ViewportSize = {"width": 390, "height": 800}
HEADER = "email,name,born_on,country,plan,expect"
# Line 3 has a country that is not served, and line 5 the address of line 2.
ROWS = [
    "ada@example.com,Ada,1990-12-10,GB,,201",
    "bob@example.com,Bob,1980-01-31,CA,,422",
    "eve@example.com,<b>Eve</b>,1970-05-17,NO,,201",
    "ada@example.com,Ada again,1990-12-10,GB,,409",
]

expect.set_options(timeout=1000 * SECONDS)
pytestmark = [pytest.mark.full, pytest.mark.timeout(180)]


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Fail if there is no browser: nobody would read that the tests were skipped."""
    if CHROMIUM is None:
        pytest.fail(
            "These tests need Chromium: `apt-get install chromium`, or set CHROMIUM to its path.", pytrace=False
        )
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page on which no script fails and no policy is broken."""
    page = await browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if "Content Security Policy" in line.text else None)
    page.set_default_timeout(1000 * SECONDS)
    yield page
    assert errors == []


@pytest.fixture
async def penstock(tmp_path: Path) -> AsyncIterator["Up"]:
    database = {"USERS_DATABASE_URL": f"sqlite:///{tmp_path}/users.db", "PENSTOCK_MIN_CHUNKS": "1"}
    async with programs({**scrubbed_environment(), **database}, tmp_path) as running:
        yield Up(running, tmp_path)


class Up:
    """Starts `penstock up` with the users example."""

    def __init__(self, running: Programs, folder: Path) -> None:
        self._running = running
        self.folder = folder
        self.port = free_port()

    async def start(self, **environment: str) -> Program:
        program = await self._running.penstock(
            "up", "--app", USERS, "--port", str(self.port), "--consumers", "1", **environment
        )
        await program.says("Penstock is up.", 40)
        return program

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/console"

    @property
    def operator_url(self) -> str:
        return f"http://127.0.0.1:{self.port + 1}/console"

    def file(self, name: str, *rows: str) -> Path:
        path = self.folder / name
        path.write_text("\n".join([HEADER, *rows, ""]))
        return path


MEASURE_LIST = """() => {
    const list = document.querySelector(".scroll");
    for (const time of list.querySelectorAll("time")) time.textContent = "2 minutes 26 seconds ago";
    return list.scrollWidth <= list.clientWidth;
}"""


async def list_fits(page: Page, url: str) -> bool:
    """Return True if the list of batches is not wider than its place, also with the long times of the first minutes."""
    await page.goto(url)
    return bool(await page.evaluate(MEASURE_LIST))


async def fits(page: Page) -> bool:
    """Return True if nobody has to scroll to the side."""
    return bool(await page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


async def send_file(page: Page, path: Path) -> None:
    await page.get_by_label("Drop a CSV or NDJSON file here").set_input_files(path)
    await page.get_by_role("heading", name="The columns of the file").wait_for()


async def test_customer_sends_a_file_and_finds_the_wrong_rows(penstock: Up, page: Page) -> None:
    program = await penstock.start()
    assert f"{penstock.url} " in program.output()
    await page.goto(penstock.url)
    await expect(page.get_by_text("There is no batch yet.")).to_be_visible()

    # A row without an address: nothing runs, and the page says which line it is.
    await page.get_by_role("link", name="Send a file").first.click()
    await send_file(page, penstock.file("wrong.csv", *ROWS, "nobody,Nobody,1990-12-10,GB,,"))
    assert await page.locator("#operation").input_value() == "POST /users"  # it fits the columns best
    assert await page.get_by_label("Name for the column expect").input_value() == ""  # the operation has no such member
    await page.get_by_role("button", name="Check the file and run it").click()
    problem = page.locator("#problem")
    await expect(problem).to_contain_text("It has 1 error.")
    await expect(problem.get_by_role("row", name="6 email value is not a valid email address")).to_be_visible()
    await expect(problem).to_be_focused()

    # The corrected file runs while the page watches.
    await send_file(page, penstock.file("right.csv", *ROWS))
    await page.get_by_role("button", name="Check the file and run it").click()
    await page.wait_for_url("**/console/batch/*")
    await expect(page.locator("#message")).to_contain_text("The file is valid and was accepted.")
    await expect(page.locator("#live .state")).to_have_text("completed")
    await expect(page.locator("#live")).to_contain_text("4 of 4 operations have finished (100")
    assert await page.locator("#chart canvas").count() == 1

    # All outcomes appear without a reload. The wrong rows are found by their lines in the file.
    outcomes = page.locator("#outcomes")
    await expect(outcomes.get_by_role("row")).to_have_count(5)
    await outcomes.get_by_label("State").select_option("failed")
    await expect(outcomes.get_by_role("row")).to_have_count(3)
    await expect(outcomes.get_by_role("row", name="3 422 Rejected We do not serve CA yet.")).to_be_visible()
    await outcomes.get_by_label("State").select_option("")
    await page.keyboard.press("Escape")
    await page.locator("h1").click()
    await page.keyboard.press("/")
    await page.keyboard.type("4")
    await page.keyboard.press("Enter")
    await expect(outcomes.get_by_role("row")).to_have_count(2)
    await expect(outcomes.get_by_role("row").nth(1)).to_contain_text('"name":"<b>Eve</b>"')
    async with page.expect_download() as download:
        await outcomes.get_by_role("link", name="Failed outcomes as NDJSON").click()
    assert (await (await download.value).path()).read_text().count("\n") == 2
    async with page.expect_download() as download:
        await page.get_by_role("link", name="Rows that failed as CSV").click()
    rows = (await (await download.value).path()).read_text(encoding="utf-8-sig").splitlines()
    assert [row[:15] for row in rows] == ["email,name,born", *(ROWS[number][:15] for number in (1, 3))]

    # Those of one cause run again, and then all.
    cause = page.locator("#failures").get_by_role("region", name="422 Rejected")
    await cause.get_by_role("button", name="Retry this one").click()
    await expect(page.locator("#message")).to_contain_text("Failed operations that run again: 1.")
    await page.get_by_role("button", name="Retry 2 failed").click()
    await expect(page.locator("#message")).to_contain_text("Failed operations that run again: 2.")
    batch = page.url.partition("/console")[2].partition("?")[0]
    assert await list_fits(page, penstock.url)
    await page.set_viewport_size(PHONE)
    for path in ("", "/file", batch):
        await page.goto(penstock.url + path)
        assert await fits(page), path


REMOVE_WHAT_HAS_THE_FOCUS = """() => {
    const button = document.querySelector("#main").appendChild(document.createElement("button"));
    button.focus();
    button.remove();
    document.dispatchEvent(new CustomEvent("htmx:after:swap", { detail: {} }));
}"""


async def test_operator_has_a_bad_night(penstock: Up, page: Page) -> None:
    await penstock.start(PENSTOCK_AUTH="keys", PENSTOCK_OPERATOR_KEY=OPERATOR_KEY)
    await page.goto(f"{penstock.operator_url}/keys")
    await page.get_by_label("Key").fill("not a key")
    await page.get_by_role("button", name="Open the console").click()
    await expect(page.get_by_role("alert")).to_contain_text("not a complete key")
    await page.get_by_label("Key").fill(OPERATOR_KEY)
    await page.get_by_role("button", name="Open the console").click()

    # A key for a customer. It is shown once.
    await page.get_by_label("Tenant", exact=True).fill("acme")
    await page.get_by_role("button", name="Make a key").click()
    key = await page.get_by_label("The new key").input_value()
    assert key.startswith("pk_penstock_")
    await page.reload()
    assert key not in await page.content()

    # The customer sends a file that needs to be stopped.
    customer = await page.context.browser.new_page()  # type: ignore[union-attr]
    await customer.goto(f"{penstock.url}/file")
    await customer.get_by_label("Key").fill(key)
    await customer.get_by_role("button", name="Open the console").click()
    rows = [f"u{number}@example.com,U {number},1990-12-10,NO,,201" for number in range(3_000)]
    await send_file(customer, penstock.file("many.csv", *rows))
    await customer.get_by_role("button", name="Check the file and run it").click()
    await customer.wait_for_url("**/console/batch/*")
    batch_id = customer.url.partition("/batch/")[2].partition("?")[0]
    assert (await customer.goto(f"{penstock.operator_url}/keys")).status == 403  # type: ignore[union-attr]

    # The operator sees the batch of another tenant, pauses it, lets it go on, and cancels it.
    await page.get_by_role("link", name="Batches").click()
    row = page.locator(f"#row-{batch_id}")
    await expect(row).to_contain_text("acme")
    await row.get_by_role("link").click()
    await page.get_by_role("button", name="Pause").click()
    await expect(page.locator("#live .state")).to_have_text("paused")
    await page.get_by_label("Priority").select_option("low")
    await page.get_by_role("button", name="Change").click()
    await expect(page.locator("#message")).to_contain_text("The change is saved.")
    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_role("button", name="Pause")).to_be_visible()
    page.once("dialog", lambda dialog: dialog.accept())
    await page.get_by_role("button", name="Cancel").click()
    # Chunks that the consumer has hidden because it holds enough of a paused batch come back after a minute.
    await expect(page.locator("#live .state")).to_have_text(re.compile("^cancell(ing|ed)$"))
    await expect(page.locator("main, #message").first).to_be_focused()
    await page.evaluate(REMOVE_WHAT_HAS_THE_FOCUS)
    await expect(page.locator("#main")).to_be_focused()

    for name, heading in (("Handlers", "Handlers and queues"), ("Dead letters", "Dead letters")):
        await page.get_by_role("navigation").get_by_role("link", name=name).click()
        await expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
    await page.get_by_role("button", name="Forget key").click()
    await expect(page.get_by_text("This browser has forgotten the key.")).to_be_visible()
    assert (await page.goto(penstock.operator_url)).status == 401  # type: ignore[union-attr]


async def test_page_says_that_penstock_does_not_answer(penstock: Up, page: Page) -> None:
    program = await penstock.start()
    await page.goto(penstock.url)
    program.kill()
    await program.ended()
    await expect(page.locator("#connection")).to_contain_text("Penstock has not answered since")


async def test_description_of_the_api_is_shown_and_a_call_is_tried(page: Page, penstock: Up) -> None:
    await penstock.start()
    for address in await open_docs(page, penstock.port):
        assert address.startswith(f"http://127.0.0.1:{penstock.port}/")
    await page.locator("#operations-Batches-listBatches .opblock-summary-control").click()
    await page.locator(".try-out__btn").click()
    await page.locator(".execute").click()
    await expect(page.locator(".live-responses-table .response-col_status").last).to_have_text("200")
    await page.set_viewport_size(PHONE)
    assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


async def open_docs(page: Page, port: int) -> list[str]:
    """Open the page, and return the addresses that it has loaded."""
    loaded: list[str] = []
    page.on("request", lambda request: None if request.url.startswith("data:") else loaded.append(request.url))
    await page.goto(f"http://127.0.0.1:{port}/console")
    await page.get_by_role("link", name="API").click()
    await expect(page.locator("#operations-Submit-submitBatch")).to_be_visible()
    return loaded
