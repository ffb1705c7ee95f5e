"""CSV as people have it: which rows it has, and what is said about a file that cannot be read."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import Flaw, InvalidRequest, LimitPassed
from penstock.files.charset import UnknownCharset
from penstock.files.csv_lines import CsvLines, Row, parse_delimiter

Cells = list[str] | str | None
Read = tuple[list[str] | None, list[tuple[int, Cells]]]


def lines(most_bytes: int = 1_000, most_lines: int = 100, **form: Any) -> CsvLines:
    return CsvLines(most_bytes=most_bytes, most_lines=most_lines, **form)


def rows_of(source: CsvLines, content: bytes, step: int) -> Iterator[Row]:
    for start in range(0, len(content), step):
        yield from source.feed(content[start : start + step])
    yield from source.end()


def read(content: bytes, step: int = 1_000, **form: Any) -> Read:
    source = lines(**form)
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
        (b"\n\r\nsep=;\r\na;b\r\n1;2\r\n", [(5, ["1", "2"])]),
        (b"sep=;; \na;b\n1;2\n", [(3, ["1", "2"])]),
        (b'"sep=\t"\t\na\tb\n1\t2\n', [(3, ["1", "2"])]),
        (b" a , b \n 1 ,2\n", [(2, [" 1 ", "2"])]),  # only names lose their spaces
        (b'a,b\n"x\r\n\r\ny",2\r\n3,4\r\n', [(2, ["x\n\ny", "2"]), (5, ["3", "4"])]),  # a cell with line breaks
        (b'a,b\n"x\r\n""\n\r\ny\n""z",2\n3,"4\n"\n', [(2, ['x\n"\n\ny\n"z', "2"]), (7, ["3", "4\n"])]),
        (b'a,b\n"q ""z""",\n', [(2, ['q "z"', ""])]),
        (b'a,b\n5" pipe,2\n3,4\n', [(2, ['5" pipe', "2"]), (3, ["3", "4"])]),  # no cell starts at this quote
        (b'a,b\n1,"x,\ny"\n', [(2, ["1", "x,\ny"])]),
        (b"a,b,,\n1,2,,\n,,,\n3,4\n", [(2, ["1", "2"]), (4, ["3", "4"])]),  # what a spreadsheet adds
        (b"\n\na,b\n\n1,2\n", [(5, ["1", "2"])]),
        (b'a;b\n;\n"";""\r\n ;\n\t\n; "";1\n\n"";\n2;"";\n', [
            (6, "The row has 3 cells, and the first row has 2."),
            (9, ["2", ""]),
        ]),  # blank rows
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


@pytest.mark.parametrize("separator", [b"\t", b" ", "\u2003".encode()])
def test_line_that_only_begins_like_one_of_excel_is_a_header(separator: bytes) -> None:
    """Python's regular expressions would try each way to read so many separators that are spaces, too."""
    header = b"sep=" + separator * 200 + b"x"
    assert read(header + b"\n1\n", delimiter=",") == ([header.decode()], [(2, ["1"])])


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"a,a\n", 1, "Two columns have the name 'a'."),
        (b"a,,b\n", 1, "Column 2 has no name."),
        (b",\na,b\n", 1, "This one is empty. If the names are below it, remove it."),
        (b"\r\n;;\r\na;b;\r\n", 2, "This one is empty."),
        (b"sep=;\n;\na;b\n", 2, "This one is empty."),
        (b"\t\na\tb\n", 1, "This one is empty."),
        (b'""\na\n', 1, "This one is empty."),
        (b"a,b\rc,d\r", 1, "Save the file with LF or CRLF line breaks."),
        (
            "a,b\nä,1\n".encode("cp1252"),
            2,
            "It seems to be Windows-1252. Send it with charset=windows-1252, or save it as CSV UTF-8.",
        ),
        (
            b"a,b\n\x81\xff,1\n",
            2,
            "Save the file as CSV UTF-8, or send it with its own charset=.",
        ),
        ("a,b\n".encode("utf-16"), 1, "The file is UTF-16. Send it with charset=utf-16, or save it as CSV UTF-8."),
        ("a,b\n".encode("utf-16-le"), 1, "Is the file UTF-16? Send it with charset=utf-16, or save it as CSV UTF-8."),
        (b"PK\x03\x04rest\n", 1, "The file is a workbook"),
        (b"\x1f\x8brest\n", 1, "compressed with gzip"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1rest\n", 1, "a workbook of an older Excel (.xls). Open it"),
        (b"\xd0\xcf\x11\xe0" + b"x" * 2_000, 1, "a workbook of an older Excel"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", 1, "The file is a PDF document."),
        ("a,b\n".encode("utf-32"), 1, "The file is UTF-32"),
        ("\ufeffa,b\n".encode("utf-32-be"), 1, "The file is UTF-32"),
        ("a,b\n".encode("utf-32-le"), 1, "The line has NUL characters, as files that are not text have."),
        (b'a,b\n1,"x\ny\n\xe4\nz"\n', 4, "The line is not UTF-8. It seems to be Windows-1252."),
        (b'a,b\n1,"x\ny\n\0\nz"\n', 4, "The line has a NUL character."),
        (b"a,b\n\x02\xe4,1\n", 2, "The line is not UTF-8. Save the file as CSV UTF-8, or send it with its own"),
    ],
)
def test_file_that_cannot_be_read_is_rejected_with_what_to_do(content: bytes, line: int, words: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read(content)
    [flaw] = raised.value.flaws
    assert flaw.line == line
    assert words in flaw.detail


@pytest.mark.parametrize(
    ("content", "form"),
    [
        ("a,b\nä€,1\n".encode("cp1252"), {"charset": "windows-1252"}),
        ("a,b\nä€,1\n".encode("cp1252"), {"charset": "ISO-8859-1"}),  # as browsers read it
        ("a,b\nä€,1\n".encode("utf-16"), {"charset": "utf-16"}),
        ("a,b\nä€,1".encode("utf-16-le"), {"charset": "utf-16"}),  # without a byte order mark
        ("a,b\nä€,1\n".encode("utf-16-be"), {"charset": "utf-16"}),
        ("\ufeffa,b\nä€,1\n".encode(), {"charset": "utf-16"}),
        ("a,b\nä€,1".encode("utf-16-be"), {"charset": "UTF-16BE"}),
        ("\ufeffa,b\r\nä€,1\r\n".encode("utf-16-le"), {"charset": "utf-16le"}),
        ("\ufeffa,b\nä€,1\n".encode(), {"charset": "windows-1252"}),  # the byte order mark says what it is
        ("\ufeffa,b\nä€,1\n".encode(), {"charset": "utf-8-sig"}),
        ("a,b\nä€,1\n".encode(), {"charset": "utf-8-sig"}),
        ("a,b\nä€,1\n".encode("mac-roman"), {"charset": "macintosh"}),
        ("a;b\nä€;1\n".encode(), {"delimiter": ";"}),
        ("a~b\nä€~1\n".encode(), {"delimiter": "~"}),
        ("sep=;\na,b\nä€,1\n".encode(), {"delimiter": ","}),  # what the client says counts
    ],
)
def test_file_is_read_as_the_client_says(content: bytes, form: dict[str, str]) -> None:
    for step in (1, 2, 3, 1_000):
        columns, rows = read(content, step, **form)
        assert (columns, [cells for _, cells in rows]) == (["a", "b"], [["ä€", "1"]])


@pytest.mark.parametrize(
    ("content", "charset", "line"),
    [
        ("a,b\nx,1\nä,2\n".encode(), "utf-16", 1),
        ("a,b\nx,1\n".encode("utf-16-le") + b"\x00\xd8\x00\x00", "utf-16-le", 3),  # half a surrogate pair
        ("a,b\nx,1\ny".encode("utf-16-le") + b"\x00", "utf-16-le", 3),  # half a character
        (b"a,b\nx,1\n\x81,2\n", "windows-1252", 3),
    ],
)
def test_file_in_another_charset_than_the_client_says_is_rejected(content: bytes, charset: str, line: int) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read(content, 3, charset=charset)
    [flaw] = raised.value.flaws
    assert flaw.line == line
    assert flaw.detail.endswith("Name the charset in which the file was saved.")


@pytest.mark.parametrize(
    ("text", "written", "charset"),
    [("①髙", "cp932", "Shift_JIS"), ("똠", "cp949", "euc-kr"), ("똠", "cp949", "ks_c_5601-1987")],
)
def test_file_has_more_characters_than_the_standard_that_names_its_charset(
    text: str, written: str, charset: str
) -> None:
    assert read(f"a,b\n{text},1\n".encode(written), charset=charset)[1] == [(2, [text, "1"])]


@pytest.mark.parametrize("charset", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_byte_order_mark_may_be_long(charset: str) -> None:
    content = "一,b\n" + "一二,1\n" * 1_000
    for step in (1_001, 100_000):
        columns, rows = read(content.encode(charset), step, charset="utf-16", most_lines=2_000)
        assert (columns, rows[999]) == (["一", "b"], (1_001, ["一二", "1"]))


def test_utf_16_that_shows_no_byte_order_is_rejected_with_the_charsets_to_name() -> None:
    with pytest.raises(InvalidRequest) as raised:
        read("名前".encode("utf-16-le"), charset="utf-16")
    assert "send it with charset=utf-16-le or charset=utf-16-be." in raised.value.flaws[0].detail


@pytest.mark.parametrize("charset", ["punycode", "idna", "utf-7", "ebcdic", ""])
def test_only_charsets_of_text_are_read(charset: str) -> None:
    with pytest.raises(UnknownCharset, match=r"is not supported. Use for example utf-8"):
        lines(charset=charset)


@pytest.mark.parametrize(("text", "delimiter"), [(";", ";"), ("tab", "\t"), ("\\t", "\t"), ("\t", "\t"), (" ", " ")])
def test_delimiter_is_a_character_or_the_word_tab(text: str, delimiter: str) -> None:
    assert parse_delimiter(text) == delimiter


@pytest.mark.parametrize("text", ["", ";;", '"', "\n", "\0", "x" * 1_000])
def test_other_delimiters_are_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="should be one character"):
        parse_delimiter(text)


def test_column_without_a_name_is_said_by_its_number() -> None:
    assert read(b"a,b,\n1,2,3\n")[1] == [(2, "Column 3 has a cell in this row, and no name in the first row.")]


@pytest.mark.parametrize("row", ["1;2", '1;"2;"', "1,5;2"])
def test_header_with_punctuation_does_not_hide_that_the_delimiter_is_another(row: str) -> None:
    [(_, error)] = read(f"a (x, y, z, w);b\n{row}\n".encode())[1]
    assert str(error).endswith(" the first row has 4. If another character separates them, name it with delimiter=.")


def test_row_with_a_missing_cell_does_not_hint_at_another_delimiter() -> None:
    [(_, error)] = read(b"a; x,b,c\n1,2\n")[1]
    assert error == "The row has 2 cells, and the first row has 3."


def test_delimiter_is_found_after_a_name_with_line_breaks() -> None:
    assert read(b'"a\n1";"b\n2";c\n1;2;3\n') == (["a\n1", "b\n2", "c"], [(4, ["1", "2", "3"])])
    assert read(b'"a\n1","b\n2",c\n1,2,3\n') == (["a\n1", "b\n2", "c"], [(4, ["1", "2", "3"])])
    assert read(b'"a,\n1";b;c\n1;2;3\n') == (["a,\n1", "b", "c"], [(3, ["1", "2", "3"])])


def test_a_row_of_very_many_cells_takes_no_memory() -> None:
    [row] = rows_of(lines(most_bytes=10**6), b"a,b\n" + b"," * 900_000 + b"x\n", 65_536)
    assert row.error == "The row has more than 65,536 cells. Is a line break missing?"


def test_a_cell_with_very_many_delimiters_is_one_cell() -> None:
    [row] = rows_of(lines(most_bytes=10**6), b'a,b\n1,"' + b"," * 900_000 + b'"\n', 65_536)
    assert len(row.cells["b"]) == 900_000


def test_names_of_columns_take_bounded_memory() -> None:
    header = ",".join(f"{number}{'ä' * 40}" for number in range(1_000)).encode() + b"\n"
    with pytest.raises(InvalidRequest) as raised:
        list(lines(most_bytes=1_000_000).feed(header))
    assert raised.value.flaws[0].detail == "The names of the columns have more than 65,536 bytes. Shorten them."


def test_file_of_an_old_mac_is_one_long_line() -> None:
    with pytest.raises(InvalidRequest) as raised:
        list(rows_of(lines(), b"a,b\r" + b"1,2\r" * 1_000, 100))
    assert "CR without an LF" in raised.value.flaws[0].detail


@pytest.mark.parametrize(
    ("content", "charset", "words"),
    [
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 16 + b"\n", "windows-1252", "a workbook of an older Excel"),
        ("a,b\n".encode("utf-32-le"), "windows-1252", "The line has NUL characters"),
        ("a,b\n".encode("utf-32"), "utf-16", "The line has NUL characters"),
    ],
)
def test_file_that_is_no_text_is_not_taken_for_utf_16(content: bytes, charset: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read(content, charset=charset)
    assert words in raised.value.flaws[0].detail
    assert "UTF-16" not in raised.value.flaws[0].detail


PARTS = [b'"', b'"', b",", b"\n", b"\n", b"\r\n", b"\r", b"x", b"\0", b"\xe4", b"\xc3\xa4"]


@given(st.lists(st.sampled_from(PARTS), max_size=60), st.sampled_from([10, 1_000]), st.sampled_from([4, 100]))
def test_file_is_read_the_same_in_one_piece_and_byte_by_byte(
    parts: list[bytes], most_bytes: int, most_lines: int
) -> None:
    content = b"a,b\n" + b"".join(parts)
    limits = {"most_bytes": most_bytes, "most_lines": most_lines}
    assert read_until_error(lines(**limits), content, 1_000) == read_until_error(lines(**limits), content, 1)


def read_until_error(source: CsvLines, content: bytes, step: int) -> list[Row | list[Flaw] | type[LimitPassed]]:
    """Return the rows of a file, and after them the reason why it cannot be read on."""
    read: list[Row | list[Flaw] | type[LimitPassed]] = []
    try:
        read.extend(rows_of(source, content, step))
    except InvalidRequest as error:
        read.append(list(error.flaws))
    except LimitPassed:
        read.append(LimitPassed)
    return read


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


def test_header_that_never_ends_does_not_make_the_reader_slow() -> None:
    source = lines(most_bytes=10**6, most_lines=10**6)
    [row] = rows_of(source, b'"' + b'""\n' * 200_000, 65_536)
    assert row.error == "A quoted cell of this row has no end. Add the missing quote."


@pytest.mark.parametrize("line", ['"\n"', '","', '"\n\n\n\n\n"', '"\r"'])
def test_very_many_lines_that_end_no_row_are_rejected(line: str) -> None:
    """Each costs much more than a line inside of a long cell, and a megabyte has half a million of them."""
    source = lines(most_bytes=10**7, most_lines=10**7)
    with pytest.raises(InvalidRequest) as caught:
        list(rows_of(source, b'a,b\n"' + f"{line}\n".encode() * 300_000, 65_536))
    assert "lines end no row. Is a quote missing, or one too many?" in caught.value.flaws[0].detail


def test_rows_may_have_a_line_for_each_cell_and_very_many_blank_lines_follow() -> None:
    source = lines(most_bytes=10**6, most_lines=10**7)
    row = b'"1\n",' * 19 + b'"1\n"\n'
    content = b",".join(b"%d" % number for number in range(20)) + b"\n" + row * 4_000 + b",,,\n" * 500_000
    assert len(list(rows_of(source, content, 65_536))) == 4_000


def test_very_many_columns_are_rejected() -> None:
    header = ",".join(f"c{number}" for number in range(24_000)).encode() + b"\n"
    with pytest.raises(InvalidRequest) as caught:
        list(lines(most_bytes=1_000_000).feed(header))
    assert caught.value.flaws[0].detail == "The first row names 24,000 columns. Name at most 1,000."
