"""How long an upstream wants no more requests, as the headers of its response say."""

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from penstock.context import LONGEST_TURN_SECONDS, LONGEST_WAIT_SECONDS
from penstock.forwarding.rate_limits import MOST_CHARACTERS, pause_seconds, read_retry_after, turned_away_seconds

NOW = 1_700_000_000.0
HOUR = LONGEST_TURN_SECONDS
DATE = format_datetime(datetime.fromtimestamp(NOW + 90, UTC), usegmt=True)
SPENT = '"a";r=0;t=7'


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"RateLimit": SPENT}, 7),
        ({"ratelimit": SPENT}, 7),
        ({"RateLimit": "a;r=0;t=7"}, 7),
        ({"RateLimit": '"a";r=0;t=1.5'}, 1.5),
        ({"RateLimit": '"a";r=0;t=7;pk=:c2VjcmV0:;new=?1'}, 7),
        # One spent policy is enough, and the longest delay counts.
        ({"RateLimit": '"a";r=9;t=2, "b";r=0;t=7, "c";r=0;t=5'}, 7),
        # Something is left: this field does not say why the request was turned away.
        ({"RateLimit": '"a";r=1;t=7'}, None),
        ({"RateLimit": '"a";t=7'}, None),
        # Without a delay, the window of the policy is one.
        ({"RateLimit": '"a";r=0'}, None),
        ({"RateLimit": '"a";r=0', "RateLimit-Policy": '"b";q=1;w=5, "a";q=100;w=60'}, 60),
        ({"RateLimit": SPENT, "RateLimit-Policy": '"a";q=100;w=60'}, 7),
        ({"RateLimit": '"a";r=0', "RateLimit-Policy": "a;;"}, None),
        ({"RateLimit": SPENT, "Retry-After": "9"}, 9),
        ({"RateLimit": SPENT, "Retry-After": "2"}, 7),
        ({"RateLimit": SPENT, "Retry-After": "soon"}, 7),
        ({"Retry-After": "9"}, 9),
        ({"Retry-After": DATE}, 90),
        ({"Retry-After": "9", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "20"}, 9),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "20"}, 20),
        ({"X-RateLimit-Remaining": " 0 ", "X-RateLimit-Reset": " 0.5 "}, 0.5),
        ({"X-RateLimit-Reset": "20"}, 20),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": f"{NOW + 30:.0f}"}, 30),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": f"{NOW - 30:.3f}"}, 0),
        ({"X-RateLimit-Remaining": "3", "X-RateLimit-Reset": "20"}, None),
        ({"X-RateLimit-Remaining": "0"}, None),
        # Never more than an hour.
        ({"RateLimit": '"a";r=0;t=86400'}, HOUR),
        ({"Retry-After": "86400"}, HOUR),
        ({"X-RateLimit-Reset": "86400"}, HOUR),
        ({"X-RateLimit-Reset": f"{NOW + 86_400:.0f}"}, HOUR),
        # What is broken is ignored.
        ({"RateLimit": ""}, None),
        ({"RateLimit": "limit=100, remaining=0, reset=5"}, None),
        ({"RateLimit": "\u0661;r=0;t=1"}, None),
        ({"RateLimit": '("a" "b");r=0;t=7'}, None),
        ({"RateLimit": '"a";r=0;t=-7'}, None),
        ({"RateLimit": '"a";r=0;t=?1'}, None),
        ({"RateLimit": '"a";r=0;t="7"'}, None),
        ({"RateLimit": '"a";r="0";t=7'}, None),
        ({"RateLimit": SPENT + " " * MOST_CHARACTERS}, None),
        ({"RateLimit": "a;;", "Retry-After": "9"}, 9),
        ({"X-RateLimit-Reset": "-5"}, None),
        ({"X-RateLimit-Reset": "1e3"}, None),
        ({"X-RateLimit-Reset": "nan"}, None),
        ({"X-RateLimit-Reset": "\u0665"}, None),
        ({"X-RateLimit-Reset": f"{NOW * 1000:.0f}"}, None),
        ({"X-RateLimit-Reset": "9" * 5_000}, None),
    ],
)
def test_delay_of_a_request_that_was_turned_away(headers: dict[str, str], seconds: float | None) -> None:
    assert turned_away_seconds(received(headers), NOW) == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"RateLimit": SPENT}, 7),
        ({"RateLimit": '"a";r=1;t=7'}, None),
        ({"RateLimit": '"a";r=0;t=86400'}, HOUR),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "20"}, 20),
        ({"X-RateLimit-Remaining": "1", "X-RateLimit-Reset": "20"}, None),
        # Only a remaining number of 0 says that nothing is left.
        ({"X-RateLimit-Reset": "20"}, None),
        ({"X-RateLimit-Remaining": "none", "X-RateLimit-Reset": "20"}, None),
        # It says when to look at the result of a 202, for example.
        ({"Retry-After": "9"}, None),
    ],
)
def test_delay_after_the_last_request_that_is_allowed(headers: dict[str, str], seconds: float | None) -> None:
    assert pause_seconds(received(headers), NOW) == seconds


def test_several_fields_are_one_list() -> None:
    headers = CIMultiDict([("RateLimit", '"a";r=5;t=2'), ("RateLimit", SPENT)])
    assert pause_seconds(CIMultiDictProxy(headers), NOW) == 7


NAMES = ("RateLimit", "RateLimit-Policy", "Retry-After", "X-RateLimit-Remaining", "X-RateLimit-Reset")


@given(st.dictionaries(st.sampled_from(NAMES), st.text('aQrtw0159;=,.:-?@%"() \t\u00e4', max_size=30)))
def test_no_field_can_break_the_reading(headers: dict[str, str]) -> None:
    for seconds in (turned_away_seconds(received(headers), NOW), pause_seconds(received(headers), NOW)):
        assert seconds is None or 0 <= seconds <= HOUR


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("0", 0),
        ("5", 5),
        (" 120 ", 120),
        ("9" * 5_000, LONGEST_WAIT_SECONDS),
        (format_datetime(datetime.fromtimestamp(NOW + 90, UTC), usegmt=True), 90),
        (format_datetime(datetime.fromtimestamp(NOW - 90, UTC), usegmt=True), 0),
        ("Tue, 14 Nov 2023 22:14:50 -0000", 90),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_WAIT_SECONDS),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str | None, seconds: float | None) -> None:
    assert read_retry_after(text, NOW) == seconds


def received(headers: dict[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(headers))
