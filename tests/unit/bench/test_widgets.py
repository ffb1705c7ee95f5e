"""The metrics of a widget, in full."""

from bench.widgets import rows_of


def test_a_dot_stands_for_what_is_above() -> None:
    metrics = [
        ["A", "One", "Name", "x", {"label": "1"}],
        [".", "Two", ".", ".", {"label": "2"}],
        ["...", {"label": "3"}],
    ]

    assert [words for words, _ in rows_of({"metrics": metrics})] == [
        ["A", "One", "Name", "x"],
        ["A", "Two", "Name", "x"],
        ["A", "Two", "Name", "x"],
    ]
