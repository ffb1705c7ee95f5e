"""CSV as people have it: which rows it has, and what is said about a file that cannot be read."""

from collections.abc import Iterator

import pytest

from penstock.errors import InvalidRequest, LimitPassed
from penstock.service.intake.csv_lines import CsvLines, Row

Cells = list[str] | str | None
Read = tuple[list[str] | None, list[tuple[int, Cells]]]


def lines(most_bytes: int = 1_000, most_lines: int = 100) -> CsvLines:
    return CsvLines(most_bytes=most_bytes, most_lines=most_lines)


def rows_of(source: CsvLines, content: bytes, step: int) -> Iterator[Row]:
    for start in range(0, len(content), step):
        yield from source.feed(content[start : start + step])
    yield from source.end()


def read(content: bytes, step: int = 1_000) -> Read:
    source = lines()
    rows: list[tuple[int, Cells]] = [
        (row.number, list(row.cells.values()) or row.error) for row in rows_of(source, content, step)
    ]
    return source.columns, rows


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"a,b\n1,2\n", [(2, ["1", "2"])]),
        (b"a,b\n1,2", [(2, ["1", "2"])]),  # no line break at the end
        (b"a,b\r\n1,2\r\n\r\n", [(2, ["1", "2"])]),
        (b"\xef\xbb\xbfa,b\n1,2\n", [(2, ["1", "2"])]),  # a byte order mark
        (b"a;b\n1,5;2\n", [(2, ["1,5", "2"])]),
        (b"a\tb\n1\t2\n", [(2, ["1", "2"])]),
        (b"sep=|\na|b\n1|2\n", [(3, ["1", "2"])]),  # Excel
        (b" a , b \n 1 ,2\n", [(2, [" 1 ", "2"])]),  # only names lose their spaces
        (b'a,b\n"x\r\n\r\ny",2\r\n3,4\r\n', [(2, ["x\n\ny", "2"]), (5, ["3", "4"])]),  # a cell with line breaks
        (b'a,b\n"q ""z""",\n', [(2, ['q "z"', ""])]),
        (b'a,b\n5" pipe,2\n3,4\n', [(2, ['5" pipe', "2"]), (3, ["3", "4"])]),  # no cell starts at this quote
        (b'a,b\n1,"x,\ny"\n', [(2, ["1", "x,\ny"])]),
        (b"a,b,,\n1,2,,\n,,,\n3,4\n", [(2, ["1", "2"]), (4, ["3", "4"])]),  # what a spreadsheet adds
        (b"\n\na,b\n\n1,2\n", [(5, ["1", "2"])]),
        ("a,b\nJürgen,😀\n".encode(), [(2, ["Jürgen", "😀"])]),
        (b"a,b\n1\n1,2,3\n4,5\n", [
            (2, "The row has 1 cell, and the first row has 2."),
            (3, "The row has 3 cells, and the first row has 2."),
            (4, ["4", "5"]),
        ]),
        (b'a,b\n"x"y,1\n1,2\n', [(2, "This is not a row of CSV: ',' expected after '\"'."), (3, ["1", "2"])]),
        (b'a,b\n"x,1\n2,3\n', [(2, "A quoted cell of this row has no end. Add the missing quote.")]),
        (b"a,b\n1\r2,3\n", [(2, "The line has a CR without an LF. Save the file with LF or CRLF line breaks.")]),
        (b"a,b\n", []),
    ],
)  # fmt: skip
def test_rows_are_read_however_the_file_arrives(content: bytes, rows: list[tuple[int, Cells]]) -> None:
    for step in (1, 7, 1_000):
        assert read(content, step) == (["a", "b"], rows)


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"a,a\n", 1, "Two columns have the name 'a'."),
        (b"a,,b\n", 1, "Column 2 has no name."),
        (b"a,b\rc,d\r", 1, "Save the file with LF or CRLF line breaks."),
        ("a,b\nä,1\n".encode("cp1252"), 2, "It seems to be Windows-1252. Save the file as CSV UTF-8"),
        (b"a,b\n\x81\xff,1\n", 2, "The line is not UTF-8. Save the file as CSV UTF-8."),
        ("a,b\n".encode("utf-16"), 1, "The file is UTF-16. Save it as CSV UTF-8."),
        ("a,b\n".encode("utf-16-le"), 1, "If the file is UTF-16, save it as CSV UTF-8."),
        (b"PK\x03\x04rest\n", 1, "The file is a workbook"),
        (b"\x1f\x8brest\n", 1, "compressed with gzip"),
    ],
)
def test_file_that_cannot_be_read_is_rejected_with_what_to_do(content: bytes, line: int, words: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read(content)
    [flaw] = raised.value.flaws
    assert flaw.line == line
    assert words in flaw.detail


def test_file_without_content_has_no_columns() -> None:
    assert read(b"") == read(b"\n\n") == (None, [])


@pytest.mark.parametrize("content", [b"a" * 50, b'a\n"' + b"x\n" * 30, b"a\n" * 30])
def test_memory_is_bounded(content: bytes) -> None:
    with pytest.raises(LimitPassed):
        list(rows_of(lines(most_bytes=40, most_lines=20), content, 5))


def test_quotes_that_never_end_do_not_make_the_reader_slow() -> None:
    """Each line could end the cell. To parse the row again with each of them would take minutes."""
    source = lines(most_bytes=10**6, most_lines=10**6)
    content = b'a\n"' + b'""\n' * 20_000
    [row] = rows_of(source, content, 65_536)
    assert row.error == "A quoted cell of this row has no end. Add the missing quote."


def test_very_many_columns_are_rejected() -> None:
    header = ",".join(f"c{number}" for number in range(24_000)).encode() + b"\n"
    with pytest.raises(InvalidRequest) as caught:
        list(lines(most_bytes=1_000_000).feed(header))
    assert caught.value.flaws[0].detail == "The first row names 24,000 columns. Name at most 1,000."
