"""Which type is chosen for an Accept header, as a table."""

import pytest

from penstock.errors import NotAcceptable
from penstock.negotiation import MOST_RANGES, choose_type

OFFERED = ("application/x-ndjson", "application/json")
NDJSON, JSON = OFFERED


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, NDJSON),
        ("", NDJSON),
        ("  ", NDJSON),
        ("*/*", NDJSON),
        ("application/*", NDJSON),
        ("application/json", JSON),
        ("Application/JSON", JSON),
        ("application/json;charset=utf-8", JSON),
        ("application/json, application/x-ndjson", NDJSON),  # both as welcome: ours comes first
        ("application/json;q=0.9, application/x-ndjson;q=0.8", JSON),
        ("application/json; q=0.8 , application/x-ndjson ; q=0.9", NDJSON),
        ("application/json, */*;q=0.1", JSON),
        ("*/*;q=0.1, application/json", JSON),
        ("application/*;q=0.5, application/json;q=0.4", NDJSON),  # the more specific range counts, though it is less
        ("application/x-ndjson;q=0, */*", JSON),
        ("text/html, application/json;q=0.1", JSON),
        ("application/json;q=0.001", JSON),
        ("application/json;q=0, application/json", JSON),
        ("application/json,", JSON),
        (", application/json", JSON),
    ],
)
def test_best_liked_type_is_chosen(accept: str | None, chosen: str) -> None:
    assert choose_type(accept, OFFERED) == chosen


def test_only_the_first_types_of_very_many_are_read() -> None:
    others = "text/html, " * (MOST_RANGES - 1)
    assert choose_type(f"{others}application/json, application/x-ndjson", OFFERED) == JSON
    with pytest.raises(NotAcceptable) as raised:
        choose_type(f"text/html, {others * 100}application/json", OFFERED)
    assert len(str(raised.value)) < 1_000


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "text/*",
        "application",
        "application/xml, text/plain;q=0.5",
        "application/json;q=0",
        "*/*;q=0",
        "application/json;q=wrong",
        "application/json;q=nan",
        "application/json;q=-1",
        ",",
        ";q=1",
        "json",
    ],
)
def test_nothing_suits(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="application/json"):
        choose_type(accept, OFFERED)
