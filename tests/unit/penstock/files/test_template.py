"""Rows become operations, and operations become the rows that they were."""

from typing import Any

import pytest

from penstock.files.csv_lines import Row
from penstock.files.layout import Layout
from penstock.files.rejected import ADDED, ADDED_TO_OPERATIONS, original_cell, own_columns, safe_cell
from penstock.files.template import Template, no_column


def test_row_is_an_operation_with_its_cells() -> None:
    template = Template("PUT", "/users/{id}", {"E-mail": "email", "note": None})
    row = Row(7, {"id": "ä/1", "E-mail": "a@example.com", "note": "x", "age": "", "staff": "true"})
    assert template.operation_of_row(row) == {
        "id": "7",
        "method": "PUT",
        "path": "/users/%C3%A4%2F1",
        "body": {"email": "a@example.com", "staff": "true"},
    }


@pytest.mark.parametrize(
    ("method", "path", "cells", "body"),
    [
        ("POST", "/users", {"age": ""}, {}),
        ("DELETE", "/users/{id}", {"id": "1", "age": ""}, None),
        ("POST", "/users/{id}", {"id": "1"}, None),
    ],
)
def test_body_is_left_out_if_nothing_is_for_it(method: str, path: str, cells: dict[str, str], body: Any) -> None:
    operation = Template(method, path).operation_of_row(Row(2, cells))
    assert isinstance(operation, dict)
    assert operation.get("body") == body


@pytest.mark.parametrize("names", [{"a": "x", "b": "x"}, {"a": "b"}])
def test_two_columns_of_one_name_are_an_error(names: dict[str, str | None]) -> None:
    reason = Template("POST", "/users", names).operation_of_row(Row(2, {"a": "1", "b": "2"}))
    assert isinstance(reason, str)
    assert "Two columns get the same name" in reason


def test_column_may_have_the_name_of_one_that_is_left_out() -> None:
    operation = Template("POST", "/users", {"a": "b", "b": None}).operation_of_row(Row(2, {"a": "1", "b": "2"}))
    assert isinstance(operation, dict)
    assert operation["body"] == {"b": "1"}


NAMES: dict[str, str | None] = {"Nr": "id", "Note": None}


@pytest.mark.parametrize(
    ("columns", "missing"),
    [
        (["Nr", "Note", "name", "key"], None),
        (["Nr", "Note", "name"], "key"),
        (["id", "Note", "name", "key"], "Nr"),
        (["Nr", "name", "key"], "Note"),
        (["Nr", "name", "key", *ADDED], None),  # a file of rejected rows has no cells of a column that was left out
        (["name", "key", *ADDED], "id"),
    ],
)
def test_file_has_all_columns_that_are_named(columns: list[str], missing: str | None) -> None:
    assert Template("PUT", "/users/{id}", NAMES, "key").missing_column(columns) == missing


def test_column_that_is_left_out_and_needed_is_no_missing_one() -> None:
    assert Template("PUT", "/users/{id}", {"id": None}).missing_column(["id"]) is None  # the rows tell


def test_sentence_about_a_missing_column_is_short() -> None:
    assert no_column("x", ["a", "b"]) == "no column 'x'. Its columns are 'a', 'b'."
    assert no_column("x", ["a;b"]).endswith(
        "Its only column is 'a;b'. If another character separates them, name it with delimiter=."
    )
    long = no_column("x" * 1_000, ["y" * 1_000 + str(number) for number in range(100)])
    assert long.endswith("y' and 80 more.")
    assert len(long) < 3_000


def test_line_keeps_its_values() -> None:
    template = Template("PUT", "/users/{id}")
    assert template.operation_of_line({"id": 7, "age": "", "tags": [1, None]}, 3) == {
        "id": "3",
        "method": "PUT",
        "path": "/users/7",
        "body": {"age": "", "tags": [1, None]},
    }


def test_what_penstock_added_is_ignored() -> None:
    """A cell that was written with an apostrophe comes back without it."""
    template = Template("POST", "/users")
    added = dict.fromkeys(ADDED, "'=1")
    row = Row(2, {"name": "'=1+1", "phone": "+49 30", **added})
    assert template.operation_of_row(row) == {
        "id": "2",
        "method": "POST",
        "path": "/users",
        "body": {"name": "=1+1", "phone": "+49 30"},
    }
    assert template.operation_of_line({"name": "'=1+1", **added}, 2) == {
        "id": "2", "method": "POST", "path": "/users", "body": {"name": "'=1+1"},
    }  # fmt: skip
    assert own_columns(["a", *ADDED]) == ["a"]
    assert own_columns(["a", *ADDED, *ADDED_TO_OPERATIONS]) == ["a"]


@pytest.mark.parametrize("own", [*ADDED, *ADDED_TO_OPERATIONS])
def test_own_columns_with_a_name_that_penstock_adds_are_kept(own: str) -> None:
    """A file is one of rejected rows only if it has all three names. A log may have one or two of them."""
    template = Template("POST", "/log")
    cells = {"a": "'=1", own: "x", "error_path": "/x"}
    operation = {"id": "2", "method": "POST", "path": "/log", "body": cells}
    assert template.operation_of_row(Row(2, cells)) == operation
    assert template.operation_of_line(cells, 2) == operation
    assert own_columns(list(cells)) == list(cells)
    assert own_columns(["a", "error_path", *ADDED]) == ["a", "error_path"]


@pytest.mark.parametrize(
    ("path", "is_ambiguous"),
    [
        ("/x/{a}{b}", True),
        ("/x/{a}x{b}", True),
        ("/x/{a}%2F{b}", True),
        ("/x/{a}/{b}/{c}d{e}", True),
        ("/x/{a}x-{b}", False),
        ("/x/{a}/{b}?c={c}&d={d}", False),
        ("/x{a}y", False),
        ("/x", False),
    ],
)
def test_path_tells_its_cells_apart_or_is_ambiguous(path: str, is_ambiguous: bool) -> None:
    assert Template("POST", path).is_ambiguous is is_ambiguous


@pytest.mark.parametrize("value", [1.5, True, [1], {}])
def test_value_that_cannot_be_in_the_path_is_named(value: Any) -> None:
    reason = Template("GET", "/x/{v}").operation_of_line({"v": value}, 2)
    assert isinstance(reason, str)
    assert reason.endswith("needs a value of v, and the one of this row is neither a text nor a whole number.")
    of_key = Template("POST", "/x", key="v").operation_of_line({"v": value}, 2)
    assert isinstance(of_key, str)
    assert of_key.endswith("its v, and the one of this row is neither a text nor a whole number.")


@pytest.mark.parametrize("path", ["/a", "/a/{x}/{y}", "/a/{x}-{y}", "/a/{x}.{y}?z={x y}", "/{x}", "/a?q={x}&r={y}"])
def test_operation_is_the_row_that_it_was(path: str) -> None:
    names = {"X": "x", "left out": None}
    template = Template("POST", path, names)
    cells = {"b": "=2", "X": "1-2.%2F/ä", "left out": "?", "y": "-.-", "x y": "&=#", "c": ""}
    operation = template.operation_of_row(Row(2, cells))
    assert isinstance(operation, dict)
    layout = Layout.decode(Layout(template, list(cells), ";").encode())
    assert layout.template == template
    row = layout.template.row_of(operation["path"], operation.get("body"), layout.columns)
    assert list(row.items()) == [(name, cell) for name, cell in cells.items() if name != "left out"]
    every = layout.template.row_of(operation["path"], operation.get("body"))
    assert every == {name: cell for name, cell in row.items() if cell}


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+cmd",
        "-2+3",
        "@x",
        "\tx",
        "\rx",
        "'=1",
        "''@",
        "--",
        "=",
        "- item",
        "-1-1",
        "+49 30-12",
        "\n=1",
        "\uff1d1",
        "\uff0b1",
        "\uff0d1",
        "\uff20x",
    ],
)
def test_formula_is_written_as_text_and_comes_back(text: str) -> None:
    assert safe_cell(text) == f"'{text}"
    assert original_cell(safe_cell(text)) == text


@pytest.mark.parametrize(
    "text", ["", "x", "-5", "+49301234", "-1.5e-3", "1,5", "-1,234.50", "'", "'a", "a=b", "'5", "-", "+49 170 123"]
)
def test_numbers_and_other_texts_stay(text: str) -> None:
    assert safe_cell(text) == text
    assert original_cell(text) == text


def test_columns_of_an_added_kind_are_not_kept() -> None:
    layout = Layout(Template("POST", "/x"), ["a", *ADDED, "b"])
    assert Layout.decode(layout.encode()).columns == ["a", "b"]
    assert Layout.decode(Layout(Template("POST", "/x")).encode()).columns is None
