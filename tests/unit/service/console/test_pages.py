"""What all pages have in common: their headers, the key in a cookie, and that only these pages change something."""

import hashlib
import re

import pytest

from penstock import Operations
from penstock.api_key import Scope, make_key
from penstock.service.console.assets import FOLDER, assets, url_of
from penstock.service.console.rendering import TEMPLATES
from penstock.testing import FakeClock, MemoryParts
from penstock.testing.http import Answer
from tests.support.builders import NOW
from tests.support.plant import Plant
from tests.support.service import Serve, Service
from tests.unit.service.conftest import Logs
from tests.unit.service.console.conftest import Browser, text_of
from tests.unit.service.test_access import OPERATOR_KEY, add_key

PAGES = [
    "/console",
    "/console/file",
    "/console/key",
    "/console/batch/x",
    "/console/nothing",
    "/console/batch/x/results",
    "/console/batch/x/rejected",
]
OF_OPERATORS = ["/console/handlers", "/console/dead-letters", "/console/keys"]
UNKNOWN = make_key("test").text


@pytest.fixture
async def with_keys(serve: Serve, parts: MemoryParts, clock: FakeClock) -> Service:
    return await serve(Operations(), parts=parts, clock=clock, auth="keys", operator_key=OPERATOR_KEY)


# --- Headers and markup


async def test_page_loads_nothing_from_elsewhere_and_is_shown_nowhere_else(operator: Browser) -> None:
    for path in (*PAGES, *OF_OPERATORS):
        assert_protected(await operator.get(path))


def assert_protected(answer: Answer) -> None:
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; ")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert answer.headers["Cache-Control"] == "no-store"
    page = answer.content.decode()
    assert page.count("<h1") == page.count('<main id="main"') == page.count('<html lang="en">') == 1
    assert "https://" not in page


def test_templates_have_no_script_and_no_style_of_their_own() -> None:
    """The policy forbids them, so a browser would ignore them."""
    for template in TEMPLATES.iterdir():
        source = template.read_text()
        assert not re.search(r"\s(style|on[a-z]+)=|<style|\| *safe", source), template.name
        assert source.count("<script") == source.count("<script defer src="), template.name


async def test_api_has_no_headers_of_pages(plant: Plant) -> None:
    assert "Content-Security-Policy" not in (await plant.ask("GET", "/health/live")).headers


# --- Files


async def test_files_are_kept_for_good_under_a_name_of_their_content(browser: Browser) -> None:
    for name, content_type in (
        ("console.css", "text/css"),
        ("console.js", "text/javascript"),
        ("icon.svg", "image/svg+xml"),
    ):
        answer = await browser.get(url_of(name))
        assert (answer.status, answer.content_type) == (200, content_type)
        assert answer.content == (FOLDER / name).read_bytes()
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    for path in ("/console/static/0/console.css", f"/console/static/{assets()['console.css'].digest}/../pages.py"):
        assert (await browser.get(path)).status == 404


def test_parts_by_others_are_those_that_the_table_names() -> None:
    vendor = FOLDER / "vendor"
    table = (vendor / "README.md").read_text()
    for path in vendor.glob("*.*s"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in table, path.name
        assert path.with_name(f"{path.name.split('.')[0]}.LICENSE").exists()


# --- The key


async def test_key_is_pasted_once_and_kept_where_no_script_reads_it(with_keys: Service, parts: MemoryParts) -> None:
    browser, key = Browser(with_keys.client), await add_key(parts.store, Scope.READ)
    asked = await browser.get("/console/file")
    assert asked.status == 401
    assert 'name="then" value="/console/file"' in asked.content.decode()

    opened = await browser.post("/console/key", {"key": f" {key}\n", "then": "/console/handlers?x=1"})
    assert (opened.status, opened.headers["Location"]) == (303, "/console/handlers?x=1")
    cookie = opened.headers["Set-Cookie"]
    assert cookie.startswith(f"penstock_key={key}; ")
    assert {"HttpOnly", "Path=/console", "SameSite=Strict", "Max-Age=604800"} <= set(cookie.split("; "))
    assert "Secure" not in cookie

    browser.cookies["penstock_key"] = key
    page = await browser.get("/console")
    assert page.status == 200
    assert key not in page.content.decode()
    assert f"key {key.rpartition('_')[2][:12]}" in text_of(page)

    left = await browser.post("/console/key/forget")
    assert left.headers["Set-Cookie"].startswith('penstock_key=""; ')
    assert "This browser has forgotten the key." in await browser.follow(left)


async def test_cookie_is_secure_where_the_browser_used_https(with_keys: Service) -> None:
    browser = Browser(with_keys.client)
    opened = await browser.post("/console/key", {"key": OPERATOR_KEY}, **{"X-Forwarded-Proto": "https"})
    assert "; Secure" in opened.headers["Set-Cookie"]


async def test_operator_key_with_special_characters_works_as_a_cookie(serve: Serve) -> None:
    key = "op~+/._-" + "7" * 32
    browser = Browser((await serve(Operations(), auth="keys", operator_key=key)).client)
    opened = await browser.post("/console/key", {"key": key})
    browser.cookies["penstock_key"] = opened.headers["Set-Cookie"].partition("=")[2].partition(";")[0]
    assert (await browser.get("/console")).status == 200


@pytest.mark.parametrize(
    "key", ["", "pk_test_x", UNKNOWN, "<b>bold</b>"], ids=["none", "incomplete", "unknown", "markup"]
)
async def test_wrong_key_is_not_kept_and_nothing_shows_it(with_keys: Service, logs: Logs, key: str) -> None:
    answer = await Browser(with_keys.client).post("/console/key", {"key": key})
    assert answer.status == 401
    assert "Set-Cookie" not in answer.headers
    assert not key or key not in answer.content.decode() + repr(logs)


async def test_key_form_leads_to_no_other_site(with_keys: Service) -> None:
    for then in ("https://evil.example", "//evil.example", "/console.evil", "/console/\\evil", "/batch"):
        answer = await Browser(with_keys.client).post("/console/key", {"key": OPERATOR_KEY, "then": then})
        assert answer.headers["Location"] == "/console", then


async def test_cookie_counts_under_console_only(with_keys: Service) -> None:
    browser = Browser(with_keys.client, {"penstock_key": OPERATOR_KEY})
    assert (await browser.get("/keys")).status == 401
    assert (await browser.get("/batch/x")).status == 401
    assert (await browser.get("/console")).status == 200
    without = Browser(with_keys.client)
    assert (await without.get("/console", Authorization=f"Bearer {OPERATOR_KEY}")).status == 401


async def test_link_on_another_site_opens_the_page(with_keys: Service) -> None:
    """The browser sends a strict cookie only with the second request, which comes from a page of this site."""
    browser = Browser(with_keys.client)
    first = await browser.get("/console?status=failed", **{"Sec-Fetch-Site": "cross-site"})
    assert 'id="again" href="/console?status=failed"' in first.content.decode()
    assert 'name="key"' in (await browser.get("/console", **{"Sec-Fetch-Site": "same-origin"})).content.decode()


async def test_key_that_ended_is_asked_for_again(with_keys: Service, parts: MemoryParts) -> None:
    ended = await add_key(parts.store, *Scope, revoked_at=NOW - 1)
    browser = Browser(with_keys.client, {"penstock_key": ended})
    assert "was revoked. Open the console" in text_of(await browser.get("/console", **{"Sec-Fetch-Site": "cross-site"}))
    answer = await browser.post("/console/batch/x/cancel")
    assert (answer.status, 'name="then" value="/console"' in answer.content.decode()) == (401, True)


async def test_key_that_ended_leads_an_open_page_to_the_form(with_keys: Service) -> None:
    browser, shown = Browser(with_keys.client), "http://penstock/console/batch/x?a=1"
    answer = await browser.get("/console/batch/x/failures", **{"HX-Request": "true", "HX-Current-URL": shown})
    assert (answer.status, answer.headers["HX-Redirect"]) == (401, "/console/key?then=%2Fconsole%2Fbatch%2Fx%3Fa%3D1")
    form = await browser.get(answer.headers["HX-Redirect"])
    assert "Your key is not valid any more." in text_of(form)
    assert 'name="then" value="/console/batch/x?a=1"' in form.content.decode()
    answer = await browser.get("/console", **{"HX-Request": "true", "HX-Current-URL": "http://["})
    assert answer.headers["HX-Redirect"] == "/console/key?then=%2Fconsole"
    assert 'value="/console"' in (await browser.get("/console/key?then=//evil.example")).content.decode()


async def test_path_that_does_not_exist_is_a_page_like_others(operator: Browser) -> None:
    for answer in (await operator.get("/console/nothing"), await operator.post("/console/nothing")):
        assert answer.status == 404
        text = text_of(answer)
        assert "This page does not exist. All batches" in text
        assert "Dead letters" in text  # the navigation


# --- Changes


OF_OTHER_PAGES = (
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
)


async def test_other_page_changes_nothing(operator: Browser) -> None:
    for path in ("/console/batch/x/cancel", "/console/key", "/console/file", "/console/keys"):
        for headers in OF_OTHER_PAGES:
            answer = await operator.post(path, {"key": OPERATOR_KEY}, **headers)
            assert answer.status == 403, (path, headers)
            assert "does not come from a page of this server" in text_of(answer)


async def test_proxy_may_change_the_host(browser: Browser) -> None:
    headers = {"Origin": "https://bulk.example.com", "Sec-Fetch-Site": "same-origin"}
    assert (await browser.post("/console/key/forget", **headers)).status == 303


async def test_name_that_another_page_points_at_the_listener_for_operators_is_rejected(operator: Browser) -> None:
    answer = await operator.get("/console/keys", Host="evil.example")
    assert answer.status == 421


# --- Who sees what


@pytest.mark.parametrize("path", OF_OPERATORS)
async def test_pages_for_operators_are_on_their_listener_only(with_keys: Service, path: str) -> None:
    cookies = {"penstock_key": OPERATOR_KEY}
    assert (await Browser(with_keys.client, cookies).get(path)).status == 404
    assert (await Browser(with_keys.operators, cookies).get(path)).status == 200


@pytest.mark.parametrize(
    ("scopes", "links"),
    [
        ([Scope.READ], {"Batches"}),
        ([Scope.READ, Scope.WRITE], {"Batches", "Send a file"}),
        ([*Scope], {"Batches", "Send a file", "Handlers", "Dead letters", "Keys"}),
    ],
)
async def test_navigation_offers_what_the_key_allows(
    with_keys: Service, parts: MemoryParts, scopes: list[Scope], links: set[str]
) -> None:
    browser = Browser(with_keys.operators, {"penstock_key": await add_key(parts.store, *scopes)})
    page = text_of(await browser.get("/console"))
    offered = {name for name in ("Batches", "Send a file", "Handlers", "Dead letters", "Keys") if f" {name} " in page}
    assert offered >= links
    assert not offered - links - {"Send a file"}


async def test_problem_of_an_open_page_replaces_its_message_only(browser: Browser) -> None:
    answer = await browser.post("/console/batch/x/cancel", **{"HX-Request": "true"})
    assert (answer.status, answer.headers["HX-Retarget"], answer.headers["HX-Reselect"]) == (
        404,
        "#message",
        "#problem",
    )
    assert 'id="problem"' in answer.content.decode()
