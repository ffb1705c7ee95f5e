"""A file as operations: what each kind of file becomes, and what each kind of mistake is told."""

import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.operations_file import (
    FileFormat,
    OperationsFile,
    Reading,
    read_operations,
)
from penstock.client import InvalidFile
from penstock.files.csv_lines import parse_delimiter

BAD_HEADER = "a.csv, line 1: The first row must name every column, each with another name."
POST_USERS = Reading(method="post", path="/users")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(name: str, content: str | bytes, reading: Reading = Reading()) -> OperationsFile:  # noqa: B008 - frozen
    path = Path(name)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_operations(path, reading)


def operations(file: OperationsFile) -> list[dict[str, Any]]:
    return [json.loads(operation.encoded) for operation in file.operations]


pytestmark = pytest.mark.usefixtures("folder")


def test_csv_row_becomes_an_operation() -> None:
    file = read("users.csv", "email,name\nann@mail.example,Ann\nbo@mail.example,\n", POST_USERS)
    assert operations(file) == [
        {"id": "2", "method": "POST", "path": "/users", "body": {"email": "ann@mail.example", "name": "Ann"}},
        {"id": "3", "method": "POST", "path": "/users", "body": {"email": "bo@mail.example"}},
    ]
    assert not file.has_expectations


def test_column_in_the_path_is_percent_encoded_and_leaves_the_body() -> None:
    reading = Reading(method="PUT", path="/teams/{team}/users/{user}")
    file = read("users.csv", "team,user,name\na/b,é 1,Ann\n", reading)
    assert operations(file) == [
        {"id": "2", "method": "PUT", "path": "/teams/a%2Fb/users/%C3%A9%201", "body": {"name": "Ann"}}
    ]


@pytest.mark.parametrize(
    ("method", "has_body"),
    [("GET", False), ("delete", False), ("POST", True), ("PATCH", True)],
)
def test_row_without_cells_left_has_a_body_only_where_one_is_usual(method: str, has_body: bool) -> None:
    file = read("users.csv", "id,note\n7,\n", Reading(method=method, path="/users/{id}"))
    assert ("body" in operations(file)[0]) == has_body


def test_csv_as_spreadsheets_write_it() -> None:
    content = '\ufeffemail,note\r\nann@mail.example,"two\r\nlines, ""quoted"""\r\n\r\nbo@mail.example,Grüße\r\n'
    file = read("users.csv", content, POST_USERS)
    assert [operation["body"] for operation in operations(file)] == [
        {"email": "ann@mail.example", "note": 'two\nlines, "quoted"'},
        {"email": "bo@mail.example", "note": "Grüße"},
    ]
    assert [operation.number for operation in file.operations] == [2, 5]


NAMES = [{"name": "Ann", "note": "x"}, {"name": "Bo", "note": "y"}]


def bodies(content: str, delimiter: str | None = None) -> tuple[list[Any], list[int]]:
    file = read("users.csv", content, Reading(method="POST", path="/users", delimiter=delimiter))
    return [operation["body"] for operation in operations(file)], [operation.number for operation in file.operations]


@pytest.mark.parametrize(
    ("content", "numbers"),
    [
        ("name;note\nAnn;x\nBo;y\n", [2, 3]),
        ("name\tnote\nAnn\tx\nBo\ty\n", [2, 3]),
        ('"name";"note"\r\n"Ann";x\r\nBo;y\r\n', [2, 3]),
        ("\n\nname;note\nAnn;x\nBo;y", [4, 5]),
        ("sep=;\r\nname;note\r\nAnn;x\r\nBo;y\r\n", [3, 4]),
        ("\ufeffsep=|\nname|note\nAnn|x\nBo|y\n", [3, 4]),
        ('"sep=\t"\nname\tnote\nAnn\tx\nBo\ty\n', [3, 4]),
        ("name,note\n,\nAnn,x\n,,,\nBo,y\n,\n,\n", [3, 5]),
        ("name,note,,\nAnn,x,,\nBo,y,,\n,,,\n", [2, 3]),
        ("name,note\nAnn,x,\nBo,y,,\n", [2, 3]),
        ("name,note\n , \nAnn,x\n\t,\nBo,y\n", [3, 5]),
        ("name|note\nAnn|x\nBo|y\n", [2, 3]),
        ("SEP=;\r\nname;note\r\nAnn;x\r\nBo;y\r\n", [3, 4]),
        (" \nname;note;\nAnn;x;\nBo;y;\n;;\n", [3, 4]),
    ],
)
def test_csv_is_read_as_people_have_it(content: str, numbers: list[int]) -> None:
    assert bodies(content) == (NAMES, numbers)


@pytest.mark.parametrize("delimiter", ["|", "\t", ";", " "])
def test_delimiter_named_overrules_what_the_header_looks_like(delimiter: str) -> None:
    lines = [["name", "note"], ["Ann", "x"], ["Bo", "y"]]
    content = "\n".join(map(delimiter.join, lines))
    assert bodies(content, delimiter) == (NAMES, [2, 3])
    assert bodies("sep=,\n" + content, delimiter) == (NAMES, [3, 4])


@pytest.mark.parametrize(
    ("content", "body"),
    [
        ('"last;first;other",note\nAnn,x\n', {"last;first;other": "Ann", "note": "x"}),  # not in quotes
        ("name;first,note\nAnn,x\n", {"name;first": "Ann", "note": "x"}),  # as many of each: a comma
        ("name\nAnn;x\n", {"name": "Ann;x"}),  # only the header tells
        ("name;full,name;note\nAnn;x;\n", {"name": "Ann", "full,name": "x"}),
    ],
)
def test_delimiter_is_the_one_that_separates_most_names(content: str, body: Any) -> None:
    assert bodies(content) == ([body], [2])


def test_cell_may_be_of_any_size() -> None:
    assert bodies(f"name\n{'x' * 1_000_000}\n") == ([{"name": "x" * 1_000_000}], [2])


@pytest.mark.parametrize(("text", "delimiter"), [(";", ";"), ("tab", "\t"), ("\\t", "\t"), ("\t", "\t"), ("|", "|")])
def test_delimiter_is_a_character_or_tab(text: str, delimiter: str) -> None:
    assert parse_delimiter(text) == delimiter


@pytest.mark.parametrize("text", ["", ";;", '"', "\n", "\r", "comma"])
def test_delimiter_that_can_be_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="should be one character"):
        parse_delimiter(text)


def test_delimiter_beside_operations_without_cells_is_refused() -> None:
    with pytest.raises(InvalidFile, match=r"a\.ndjson: --delimiter is for CSV files"):
        read("a.ndjson", "", Reading(delimiter=";"))


def test_id_column_is_a_member_of_the_body_like_any_other() -> None:
    file = read("users.csv", "id,name\n7,Ann\n", POST_USERS)
    assert operations(file)[0]["body"] == {"id": "7", "name": "Ann"}


def test_ndjson_line_becomes_an_operation() -> None:
    file = read(
        "users.ndjson",
        '{"id": "a", "method": "POST", "path": "/users", "body": {"name": "Zoë"}}\n\n'
        '{"method": "DELETE", "path": "/users/7"}',
    )
    assert operations(file) == [
        {"id": "a", "method": "POST", "path": "/users", "body": {"name": "Zoë"}},
        {"id": "3", "method": "DELETE", "path": "/users/7"},
    ]
    assert [operation.has_own_id for operation in file.operations] == [True, False]


@pytest.mark.parametrize(
    "content",
    [
        '[{"method": "GET", "path": "/a"}, {"method": "GET", "path": "/b", "id": null}]',
        '{"operations": [{"method": "GET", "path": "/a"}, {"method": "GET", "path": "/b"}]}',
    ],
)
def test_json_list_or_document_becomes_operations(content: str) -> None:
    file = read("reads.json", content)
    assert [(operation["id"], operation["path"]) for operation in operations(file)] == [("1", "/a"), ("2", "/b")]
    assert not file.is_atomic


def test_what_a_document_says_beside_its_operations_is_passed_on() -> None:
    file = read("reads.json", '{"atomic": true, "operations": [{"method": "GET", "path": "/a"}]}')
    assert file.envelope == {"atomic": True}
    assert file.is_atomic


def test_expected_statuses_are_taken_out_of_the_operation() -> None:
    file = read("users.csv", "name,expect\nAnn,201\nAnn,201|409\n", Reading(None, "POST", "/users", "expect"))
    assert [operation.expected for operation in file.operations] == [frozenset({201}), frozenset({201, 409})]
    assert [operation["body"] for operation in operations(file)] == [{"name": "Ann"}, {"name": "Ann"}]
    assert file.has_expectations

    file = read("reads.ndjson", '{"method": "GET", "path": "/a", "wants": 200}', Reading(expect="wants"))
    assert file.operations[0].expected == frozenset({200})
    assert "wants" not in operations(file)[0]


def test_standard_input_is_read_as_the_format_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"method": "GET", "path": "/a"}\n')))
    file = read_operations(Path("-"), Reading(FileFormat.NDJSON))
    assert (file.name, len(file.operations)) == ("standard input", 1)


def test_format_named_overrules_the_suffix() -> None:
    assert len(read("reads.json", '{"method": "GET", "path": "/a"}', Reading(FileFormat.NDJSON)).operations) == 1


def test_places_are_told_as_the_file_counts_them() -> None:
    file = read("users.csv", "name\n" + "Ann\n" * 10, POST_USERS)
    assert (file.place(0), file.place(9)) == ("line 2", "line 11")
    assert read("reads.json", '[{"method": "GET", "path": "/a"}]').place(0) == "operation 1"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", "", "a.txt: its name does not tell its format. Use --format json, ndjson or csv."),
        ("a.json", "", "a.json, line 1: is not JSON"),
        ("a.ndjson", "\n\n", "a.ndjson: contains no operations"),
        ("a.json", "[]", "a.json: contains no operations"),
        ("a.json", '[\n{"method": "GET",\n"path" "/a"}]', "a.json, line 3: is not JSON (expecting ':' delimiter"),
        ("a.json", '{"method":1}\n{"method":2}', "a.json, line 2: is not JSON (extra data, column 1). If it has one"),
        ("a.json", "{}", 'a.json: should be {"operations": [...]}, or a bare list'),
        ("a.json", "7", 'a.json: should be {"operations": [...]}, or a bare list'),
        ("a.json", '[{"method": "GET", "path": "/a"}, 7]', "a.json, operation 2: should be an object like"),
        ("a.ndjson", '{"method": "GET", "path": "/a"}\n{', "a.ndjson, line 2: is not JSON"),
        ("a.ndjson", '{"path": "/a"}', 'a.ndjson, line 1: should be an object like {"method": "POST"'),
        ("a.ndjson", '{"method": "GET", "path": "/a", "body": NaN}', "line 1: is JSON that cannot be sent (NaN"),
        ("a.ndjson", '{"method": "GET", "path": "/a", "body": 1e999}', "line 1: contains a value that cannot be sent"),
        ("a.ndjson", '{"method": "GET", "path": "/a", "body": "\\ud800"}', "line 1: contains a value that cannot be"),
        ("a.ndjson", "[" * 100_000, "line 1: is JSON that cannot be sent"),
        (
            "a.ndjson",
            b'{"method": "GET", "path": "/a"}\n\xff',
            "a.ndjson, line 2: is not UTF-8. Save the file as UTF-8.",
        ),
        ("a.json", b'[\n"\xff"]', "a.json, line 2: is not UTF-8. Save the file as UTF-8."),
    ],
)
def test_mistake_is_told_with_its_place(name: str, content: str | bytes, told: str) -> None:
    with pytest.raises(InvalidFile) as refused:
        read(name, content)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("content", "reading", "told"),
    [
        ("", POST_USERS, "a.csv: contains no operations"),
        ("name\n", POST_USERS, "a.csv: contains no operations"),
        ("name\nAnn\n", Reading(method="POST"), "a.csv: a CSV file needs --method and --path, for example"),
        ("a,b\n1,2\n1\n", POST_USERS, "a.csv, line 3: The row has 1 cell, and the first row has 2."),
        ("a,b\n1,2,3\n", POST_USERS, "a.csv, line 2: The row has 3 cells, and the first row has 2."),
        ('a,b\n1,"x\ny"\n1\n', POST_USERS, "a.csv, line 4: The row has 1 cell, and the first row has 2."),
        (
            'a,b\n1,2\n3,"4\n5,6\n',
            POST_USERS,
            "a.csv, line 3: A quoted cell of this row has no end.",
        ),
        ("a,a\n1,2\n", POST_USERS, f"{BAD_HEADER} Two columns have the name 'a'."),
        ("a,\n1,2\n", POST_USERS, "a.csv, line 2: Column 2 has a cell in this row, and no name in the first row."),
        ("a,,b\n1,2,3\n", POST_USERS, f"{BAD_HEADER} Column 2 has no name."),
        ("a, ,b\n1,2,3\n", POST_USERS, f"{BAD_HEADER} Column 2 has no name."),
        ("a\tb, c\n1\t2\n", POST_USERS, "a.csv, line 2: The row has 1 cell, and the first row has 2."),
        (gzip.compress(b"a\n1\n", mtime=0), POST_USERS, "The file is compressed with gzip. Decompress it first."),
        (
            b"PK\x03\x04\xff\xfe",
            POST_USERS,
            "The file is a workbook or a ZIP archive. Open it",
        ),
        ("a\n\xff".encode("latin-1"), POST_USERS, "a.csv, line 2: The line is not UTF-8."),
        (
            "a\nCafé\n".encode("cp1252"),
            POST_USERS,
            "seems to be Windows-1252. Send it with --charset windows-1252, or save it as CSV UTF-8.",
        ),
        (
            "a\nB\n".encode("utf-16"),
            POST_USERS,
            "a.csv, line 1: The file is UTF-16. Send it with --charset utf-16, or save it as CSV UTF-8.",
        ),
        ("a\nB\n".encode("utf-16-le"), POST_USERS, "a.csv, line 1: The line has a NUL character. Is the file UTF-16?"),
        ("a,b\r1,2\r3,4\r", POST_USERS, "a.csv, line 1: The line has a CR without an LF."),
        (";;\na;b;\n1;2;\n", POST_USERS, "a.csv, line 1: The first row must name every column"),
        ('"a","b"\r"1","2"\r', POST_USERS, "line 1: The line has a CR without an LF."),
        ("a~id\n1~2\n", Reading(method="GET", path="/u/{id}"), "separates them, name it with --delimiter."),
        (
            "a,b\n1,2\n",
            Reading(method="GET", path="/users/{id}"),
            "a.csv: has no column 'id'. Its columns are 'a', 'b'.",
        ),
        (
            "a,b\n,2\n",
            Reading(method="GET", path="/u/{a}"),
            "a.csv, line 2: The path /u/{a} needs a value of a",
        ),
        ("a\n1\n", Reading(None, "GET", "/u", "expect"), "a.csv: has no column 'expect'"),
        (
            "a,expect\n1,201\n1,2xx\n",
            Reading(None, "GET", "/u", "expect"),
            "a.csv, line 3: 'expect' should be a status such as 201, or 201|409, not '2xx'.",
        ),
    ],
)
def test_mistake_in_a_csv_file_is_told_with_its_line(content: str | bytes, reading: Reading, told: str) -> None:
    with pytest.raises(InvalidFile) as refused:
        read("a.csv", content, reading)
    assert told in str(refused.value)


def test_ndjson_line_is_a_row_if_the_method_and_the_path_are_given() -> None:
    rejected = '{"user": 7, "name": "Ann", "wants": 409, "error_status": 409, "error_title": "", "error_detail": ""}'
    file = read("rows.ndjson", rejected, Reading(None, "put", "/users/{user}", "wants", key="user"))
    assert operations(file) == [{"id": "1", "method": "PUT", "path": "/users/7", "body": {"name": "Ann"}, "key": "7"}]
    assert file.operations[0].expected == frozenset({409})


@pytest.mark.parametrize(
    ("name", "content", "reading", "told"),
    [
        ("a.json", "[]", POST_USERS, "a.json: --method and --path are for CSV and NDJSON files."),
        ("a.ndjson", "{}", Reading(method="POST"), "a.ndjson: --method and --path are given together"),
        ("a.ndjson", '{"method": "GET", "path": "/a"}', POST_USERS, "line 1: names its own method and path. Leave out"),
        ("a.ndjson", '{"a": 1}', Reading(method="GET", path="/u/{id}"), "line 1: The path /u/{id} needs a value of id"),
        ("a.ndjson", "7", POST_USERS, "line 1: The line is not an object."),
        ("a.ndjson", "{}", Reading(key="id"), "a.ndjson: --key-column is for CSV files."),
    ],
)
def test_method_and_path_that_do_not_fit_the_file_are_rejected(
    name: str, content: str, reading: Reading, told: str
) -> None:
    with pytest.raises(InvalidFile) as rejected:
        read(name, content, reading)
    assert told in str(rejected.value)


def test_file_that_cannot_be_opened_is_told(folder: Path) -> None:
    with pytest.raises(InvalidFile, match=r"missing\.json: cannot be read \(No such file or directory\)"):
        read_operations(Path("missing.json"), Reading())
    with pytest.raises(InvalidFile, match="cannot be read"):
        read_operations(folder, Reading(FileFormat.JSON))


def test_csv_in_another_charset_is_read_if_it_is_named() -> None:
    file = read("a.csv", "name;city\nZoë;Köln\n".encode("cp1252"), Reading(None, "POST", "/u", charset="cp1252"))
    assert operations(file)[0]["body"] == {"name": "Zoë", "city": "Köln"}
    file = read("a.csv", "name\nZoë\n".encode("utf-16"), Reading(None, "POST", "/u", charset="utf-16"))
    assert operations(file)[0]["body"] == {"name": "Zoë"}
    with pytest.raises(InvalidFile, match="The charset 'klingon' is not supported"):
        read("a.csv", "name\nZoë\n", Reading(None, "POST", "/u", charset="klingon"))
