"""Which preferences of a Prefer header are understood, and which ones the answer reports as applied."""

import pytest
from pytest_aiohttp import AiohttpClient

from penstock.service.intake.preferences import MOST_READ, Preferences, read_preferences
from tests.support.plant import Toys, build_plant
from tests.support.service import ask_for


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", Preferences()),
        ("respond-async", Preferences(respond_async=True)),
        ("Respond-Async", Preferences(respond_async=True)),  # names are case-insensitive
        ("respond-async=1", Preferences(respond_async=True)),  # a value changes nothing
        ("respond-async; foo=bar", Preferences(respond_async=True)),  # nor do parameters
        ("respond-asyncs", Preferences()),
        ("wait=5", Preferences(wait_seconds=5)),
        ("wait = 5", Preferences(wait_seconds=5)),
        ('wait="5"', Preferences(wait_seconds=5)),
        ("wait=0", Preferences(wait_seconds=0)),
        ("WAIT=5", Preferences(wait_seconds=5)),
        ("wait=5, wait=9", Preferences(wait_seconds=5)),  # the first counts
        ("wait=x, wait=9", Preferences()),  # even if it is invalid
        ("respond-async, wait=5", Preferences(respond_async=True, wait_seconds=5)),
        ("return=minimal, wait=5, handling=lenient", Preferences(wait_seconds=5)),
        (", ,wait=5,", Preferences(wait_seconds=5)),
        ("wait", Preferences()),
        ("wait=", Preferences()),
        ("wait=-1", Preferences()),
        ("wait=1.5", Preferences()),
        ("wait=1000000000", Preferences()),  # too many digits
        ("wait=٣", Preferences()),
        ("wait 5", Preferences()),
        ('a="respond-async"', Preferences()),
        ("é, respond-async", Preferences(respond_async=True)),
        ("x, " * (MOST_READ - 1) + "respond-async, wait=5", Preferences(respond_async=True)),  # only so many are read
    ],
)
def test_header_is_read_leniently(header: str, expected: Preferences) -> None:
    assert read_preferences(header) == expected


@pytest.mark.parametrize(
    ("prefer", "count", "status", "applied"),
    [
        (None, 1, 200, None),
        ("respond-async", 1, 202, "respond-async"),
        ("respond-async, wait=5", 1, 202, "respond-async"),
        ("wait=5", 1, 200, "wait=5"),
        ("wait=10", 1, 200, "wait=10"),  # the longest time
        ("wait=11", 1, 200, None),  # longer than the limit
        ("wait=5", 3, 202, None),  # too large to run immediately
        ("respond-async", 3, 202, "respond-async"),
        (None, 3, 202, None),
        ("return=minimal", 1, 200, None),
    ],
)
async def test_answer_says_which_preference_was_followed(
    aiohttp_client: AiohttpClient, prefer: str | None, count: int, status: int, applied: str | None
) -> None:
    plant = await build_plant(aiohttp_client, Toys().operations(), sync_max_operations=2, sync_seconds=10)
    headers = {} if prefer is None else {"Prefer": prefer}
    answer = await plant.service.post(ask_for(*["/succeed/a"] * count), headers)
    assert (answer.status, answer.headers.get("Preference-Applied")) == (status, applied)


async def test_preferences_may_come_in_several_lines(aiohttp_client: AiohttpClient) -> None:
    plant = await build_plant(aiohttp_client, Toys().operations())
    lines = [("Prefer", "return=minimal"), ("Prefer", "respond-async")]
    answer = await plant.ask("POST", "/batch", json={"operations": ask_for("/succeed/a")}, headers=lines)
    assert (answer.status, answer.headers["Preference-Applied"]) == (202, "respond-async")
