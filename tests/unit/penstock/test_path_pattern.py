"""Paths of routes: which paths they match, and what each parameter gets."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.path_pattern import PLACEHOLDER, read_path, starting_with


@pytest.mark.parametrize(
    ("path", "matches"),
    [
        ("/a/b.c", True),
        ("/a/bxc", False),  # what is a dot in the path is no pattern
        ("/a/b.c/", False),
        ("/a/b.c\n", False),
    ],
)
def test_path_is_taken_literally(path: str, matches: bool) -> None:
    assert (read_path("/a/b.c").match(path) == {}) is matches


def test_parameter_is_one_segment_and_the_rest_has_slashes() -> None:
    pattern = read_path("/files/{kind}.d/{key:path}")
    assert pattern.match("/files/text.d/a/b\n/") == {"kind": "text", "key": "a/b\n/"}
    assert pattern.match("/files/te/xt.d/a") is None
    assert pattern.match("/files/text.d/") is None


def test_start_matches_whatever_follows() -> None:
    pattern = starting_with("/api.v1/")
    assert pattern.match("/api.v1/") == pattern.match("/api.v1/a/b?c\n") == {}
    assert pattern.match("/apixv1/a") is None


LONG = 2_000


@pytest.mark.parametrize(
    ("route", "path", "found"),
    [
        ("/{a}-{b}-{c}.json/end", "/1-2-3/end", None),
        ("/{a}-{b}-{c}.json/end", "/1-2-3.json/end", ("1", "2", "3")),
        ("/{a}-{b}-{c}.json/end", "/-1--2-3-4.json.json/end", ("-1--2", "3", "4.json")),
        ("/{a}-{b}-{c}.json/end", "/1-2/3.json/end", None),
        ("/{a}{b}/v{c}-{d}", "/xyz/v1-2", ("xy", "z", "1", "2")),
        ("/{a}{b}/v{c}-{d}", "/x/v1-2", None),  # one character at least for each
        # These can be split in millions or billions of ways.
        ("/{a}-{b}-{c}.json/end", "/" + "-" * LONG + ".json/other", None),
        ("/{a}-{b}-{c}.json/end", "/" + "-" * LONG + "/end", None),
        ("/{a}-{b}_{c}.{d}", "/" + "-" * LONG + "_" * LONG, None),
        ("/{a}-{b}_{c}.{d}", "/" + "-_" * LONG + "z.w" + "-_" * 9, ("-_" * (LONG - 2), "_-", "z", "w" + "-_" * 9)),
    ],
)
def test_segment_with_several_parameters_is_split_in_one_way(
    route: str, path: str, found: tuple[str, ...] | None
) -> None:
    match = read_path(route).match(path)
    assert (match and tuple(match[name] for name in sorted(match))) == found


@given(st.lists(st.sampled_from(["", "-", "_", "-_", "--"]), min_size=3, max_size=5), st.text("-_x/", max_size=12))
def test_earlier_parameters_get_as_much_as_possible(texts: list[str], path: str) -> None:
    """A regular expression finds the same, in a time that grows faster than the path."""
    route = "/" + "".join(f"{text}{{p{number}}}" for number, text in enumerate(texts[:-1])) + texts[-1]
    expected = re.fullmatch(PLACEHOLDER.sub(r"(?P<\1>[^/]+)", route), f"/{path}")
    assert read_path(route).match(f"/{path}") == (expected and expected.groupdict())
