"""Numbers, times and messages as the pages write them."""

import pytest

from penstock.service.console import texts

NOW = texts.to_seconds("2026-11-29T01:00:00Z")


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (0.5, "50 %"), (0.9999, "99.9 %"), (0.0004, "0 %"), (0.291, "29.1 %"), (1, "100 %")]
)
def test_only_what_is_complete_is_100_percent(share: float, text: str) -> None:
    assert texts.percent(share).replace("\u00a0", " ") == text


@pytest.mark.parametrize(
    ("per_second", "text"), [(None, "-"), (1234.5, "1,234 /s"), (9.87, "9.9 /s"), (0.01, "0.6 /min"), (0, "0.0 /s")]
)
def test_rate(per_second: float | None, text: str) -> None:
    assert texts.rate(per_second) == text


@pytest.mark.parametrize(
    ("usd", "text"), [(0, "< 0.0001 USD"), (0.000412, "0.00041 USD"), (0.0123, "0.012 USD"), (1234.5, "1,234.50 USD")]
)
def test_dollars(usd: float, text: str) -> None:
    assert texts.dollars(usd) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "less than a second"),
        (1, "1 second"),
        (61, "1 minute 1 second"),
        (3_600, "1 hour"),
        (93_784, "1 day 2 hours"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert texts.duration(seconds) == text


@pytest.mark.parametrize(
    ("time", "text"),
    [
        ("2026-11-29T01:00:00.300Z", "now"),
        ("2026-11-29T00:59:18Z", "42 seconds ago"),
        ("2026-11-29T01:07:30Z", "in 7 minutes"),
        ("2026-11-28T23:40:00Z", "1 hour 20 minutes ago"),
        ("2026-11-19T01:00:00Z", "10 days ago"),
    ],
)
def test_how_long_ago(time: str, text: str) -> None:
    assert texts.ago(time, NOW) == text


@pytest.mark.parametrize(
    ("earliest", "latest", "text"),
    [
        ("01:33:00", "01:56:00", "in 33 to 56 minutes"),
        ("01:00:40", "01:03:00", "in 40 seconds to 3 minutes"),
        ("01:50:00", "02:20:00", "in 50 minutes to 1 hour 20 minutes"),
        ("01:33:00", "01:33:10", "in 33 minutes"),
    ],
)
def test_time_until_something_that_is_not_certain(earliest: str, latest: str, text: str) -> None:
    assert texts.until(f"2026-11-29T{earliest}Z", f"2026-11-29T{latest}Z", NOW) == text


@pytest.mark.parametrize(("limit", "text"), [("100000/3600", "100,000 in 1 hour"), ("5/1", "5 in 1 second")])
def test_quota(limit: str, text: str) -> None:
    assert texts.quota(limit) == text


def test_moment_is_in_utc() -> None:
    assert texts.moment("2026-11-29T01:02:03+01:00") == "29 Nov 2026, 00:02:03 UTC"


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({}, None),
        ({"done": "<b>"}, None),
        ({"done": "retried", "count": "1200"}, "Failed operations that run again: 1,200."),
        ({"done": "retried", "count": "<b>"}, "Failed operations that run again: some."),
    ],
)
def test_url_cannot_put_words_into_a_message(query: dict[str, str], text: str | None) -> None:
    assert texts.message_of(query) == text


@pytest.mark.parametrize(
    ("pointer", "place"),
    [
        ("/operations/3/body/email", "email"),
        ("/operations/3/body/a~1b/0", "a/b.0"),
        ("/operations/3/path", "path"),
        ("/operations/3/body", "body"),
        ("/limit", "limit"),
        ("", ""),
    ],
)
def test_place_of_an_error(pointer: str, place: str) -> None:
    assert texts.place_of(pointer) == place
