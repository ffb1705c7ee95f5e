"""Reads a CSV file row by row while it arrives, and keeps no more than one incomplete row in memory. Pure.

Programs write CSV in many ways. These are understood without being named: comma, semicolon, tab and bar as delimiters;
a byte order mark; the line `sep=;` of Excel; LF and CRLF; quoted cells with line breaks; empty rows and columns at the
end.
"""

import csv
import io
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct, field

from penstock.errors import Flaw, InvalidRequest, LimitPassed
from penstock.files.charset import UTF_8, Transcoder, can_be_split_into_lines, codec_of, not_in_charset

_DELIMITERS = ",;\t|"  # in doubt, the first one
_SPACES = " \t\r\n"
_NO_DELIMITERS = '"\r\n\0'
_SEPARATOR_LINE = re.compile(r'"?sep=([^"\r])"?(?:\1|\s)*+', re.IGNORECASE)  # some fill the row with delimiters
_QUOTED = re.compile(r'"[^"]*("|$)')
_INSIDE_CELL = re.compile(rb'[^"]*+(?:""[^"]*+)*+')  # up to a quote that may end it
_REST_OF_CELL = re.compile(r'[^"]*+(?:""[^"]*+)*+"')  # up to the quote that ends it
_QUOTE = 0x22
_NUL = 0  # a number: to look for b"\0" in a short line takes ten times as long
_FEW_LINES = 4  # a row with fewer, such as one with an address, is read line by line
_MOST_IDLE_LINES = 20_000  # take up to 0.2 s
_MOST_COLUMNS = 1_000
_SHOWN = 100  # characters of a column's name in an error
_MOST_NAME_BYTES = 65_536  # of all columns: they are kept with the batch
_MOST_CELLS = 65_536  # outside of quotes: four times as many as a spreadsheet has columns
_BAD_HEADER = "The first row must name every column, each with another name."
_UTF_16 = "Send it with charset=utf-16, or save it as CSV UTF-8."
_CR = "The line has a CR without an LF. Save the file with LF or CRLF line breaks."
_WORKBOOK = "Open it, and save it as CSV UTF-8."
_UTF_32 = "The file is UTF-32, which is not supported. Save it as CSV UTF-8."
_NO_TEXT = "The line has NUL characters, as files that are not text have. Save the file as CSV UTF-8."
_CONTROL = re.compile(rb"[\x01-\x08\x0e-\x19\x1b-\x1f]")  # \x1a may be the last character of a file of MS-DOS
_STARTS = {  # UTF-32 comes before UTF-16, which starts with the same two bytes
    b"\x1f\x8b": "The file is compressed with gzip. Decompress it first.",
    b"\x28\xb5\x2f\xfd": "The file is compressed with zstd. Decompress it first.",
    b"PK\x03\x04": f"The file is a workbook or a ZIP archive. {_WORKBOOK}",
    b"\xd0\xcf\x11\xe0": f"The file is a workbook of an older Excel (.xls). {_WORKBOOK}",
    b"%PDF-": "The file is a PDF document. Save its table as CSV UTF-8.",
    BOM_UTF32_LE: _UTF_32,
    BOM_UTF32_BE: _UTF_32,
    BOM_UTF16_LE: f"The file is UTF-16. {_UTF_16}",
    BOM_UTF16_BE: f"The file is UTF-16. {_UTF_16}",
}
_MOST_START = max(map(len, _STARTS))


class Row(Struct, frozen=True):
    """A row of the file: its cells by the names of their columns, or the `error` for which it cannot be read.

    `number` is the line on which it starts, counted from 1.
    """

    number: int
    cells: dict[str, str] = field(default_factory=dict)
    error: str | None = None


class _BlankLines(Struct, frozen=True):
    """How to find lines that are skipped."""

    characters: str  # that such a line has
    starts: bytes  # the bytes that it can start with, besides two quotes
    lines: re.Pattern[bytes]  # any number of them


_BEFORE_HEADER = _BlankLines(" \r\n", b" \r\n", re.compile(rb"(?:[ \r]*+\n)*+"))  # it may have delimiters only


def parse_delimiter(text: str) -> str:
    """Return the character that separates cells. Raise ValueError if the text is not one."""
    delimiter = "\t" if text.lower() in {"tab", "\\t"} else text
    if len(delimiter) != 1 or delimiter in _NO_DELIMITERS:
        raise ValueError(f"The delimiter {text[:40]!r} should be one character, such as ; or |, or the word tab.")
    return delimiter


class CsvLines:
    """`feed` it every piece of the file, then call `end`. Both yield rows. The first row has the names of the columns.

    Both methods raise InvalidRequest if the file as a whole cannot be read, and LimitPassed.
    """

    def __init__(self, *, most_bytes: int, most_lines: int, delimiter: str | None = None, charset: str = UTF_8) -> None:
        """Create a reader. Without a delimiter, it finds the one of the file. Raises UnknownCharset."""
        codec = codec_of(charset)
        is_split_first = can_be_split_into_lines(codec)
        self._transcoder = None if is_split_first else Transcoder(codec)
        self._codec = codec if is_split_first else UTF_8
        self.columns: list[str] | None = None  # None until the first row was read
        self.delimiter = delimiter  # None until it was found
        self.needs_mark = codec != UTF_8  # a copy of the file in UTF-8 needs a byte order mark to be read as UTF-8
        self._blank = _BEFORE_HEADER
        self._cells_in_header = 0  # with those at the end that have no name
        self._other_counts: dict[str, int] = {}  # how many cells the header would have with another delimiter
        self._most_bytes = most_bytes
        self._most_lines = most_lines
        self._count = 0  # of complete lines
        self.read_bytes = 0  # of the file, up to the end of the row that was yielded last
        self._rest = bytearray()
        self._row = io.StringIO()  # the beginning of a row with a quoted cell that goes on
        self._row_start = 0  # the line on which this beginning starts. 0 if there is none
        self._row_bytes = 0
        self._row_count = 0
        self._idle_lines = 0  # lines that were looked at and end no row
        self._most_idle = _MOST_IDLE_LINES
        csv.field_size_limit(max(csv.field_size_limit(), most_bytes))

    @property
    def can_go_on(self) -> bool:
        """Return True if another reader can go on in the middle of the file."""
        return self._transcoder is None

    @property
    def line_count(self) -> int:
        """Return the number of lines up to the end of the row that was yielded last."""
        return self._count

    @property
    def header(self) -> list[Any]:
        """Return what this reader has learnt from the beginning of the file, as a JSON value."""
        known = [self.columns, self._cells_in_header, self._other_counts]
        return [*known, self.delimiter, self._codec, self.needs_mark]

    def go_on(self, header: Sequence[Any], first_line: int, first_byte: int) -> None:
        """Go on after `first_line` lines, which end at `first_byte` of the file. `header` is from another reader."""
        self.columns, self._cells_in_header, self._other_counts, *rest = header
        self.delimiter, self._codec, self.needs_mark = rest
        self._blank = _blank_lines(self.delimiter or ",", self._codec)
        self._count, self.read_bytes = first_line, first_byte

    def feed(self, piece: bytes) -> Iterator[Row]:
        if self._transcoder is not None:
            piece = self._transcoder.feed(piece)
        return self._split(piece)

    def _split(self, piece: bytes) -> Iterator[Row]:
        end = piece.rfind(b"\n") + 1
        if end:
            lines = bytes(self._rest + piece[:end])
            self._rest.clear()
            yield from self._rows(lines)
        self._rest += piece[end:]
        self._check_size(len(self._rest), self._row_start or self._count + 1)

    def _rows(self, lines: bytes) -> Iterator[Row]:
        """Yield the rows that end in these lines, which are complete."""
        start = 0
        while start < len(lines):
            if self._row_start:
                is_long = self._count - self._row_start >= _FEW_LINES
                passed = self._go_on_in_cell(lines, start) if is_long else 0
            elif (first := lines[start]) in self._blank.starts or (first == _QUOTE == lines[start + 1]):
                passed = self._skip_blank(lines, start)
            else:
                passed = 0
            if passed:
                start = passed
                continue
            end = lines.index(b"\n", start)
            self.read_bytes += end + 1 - start
            row = self._line(lines[start:end])
            start = end + 1
            if row is not None:
                self._row_count += 1
                yield row
                continue
            self._idle_lines += 1
            if self._idle_lines > self._most_idle:
                self._check_idle()

    def _skip_blank(self, lines: bytes, start: int) -> int:
        """Skip blank lines. Return where they end, or 0 if there are none. A spreadsheet may end with a million."""
        end = self._blank.lines.match(lines, start, start + self._most_bytes).end()  # type: ignore[union-attr]
        if end > start:
            self._count_lines(lines.count(b"\n", start, end))
            self.read_bytes += end - start
            return end
        return 0

    def _go_on_in_cell(self, lines: bytes, start: int) -> int:
        """Add the lines that a quoted cell goes on after. Return where they end, or 0 if there are none.

        A cell may have a million lines, and to read each by itself would take seconds. A line that may end the cell is
        not one of them, and neither is one that cannot be read.
        """
        stop = _INSIDE_CELL.match(lines, start).end()  # type: ignore[union-attr]  # it matches nothing, too
        nul = lines.find(_NUL, start, stop)
        end = lines.rfind(b"\n", start, stop if nul < 0 else nul) + 1
        try:
            text = lines[start:end].decode(self._codec)
        except UnicodeDecodeError as error:
            end = lines.rfind(b"\n", start, start + error.start) + 1
            text = lines[start:end].decode(self._codec)
        if end:
            self._count_lines(text.count("\n"))
            self._row_bytes += end - start
            self._check_size(self._row_bytes, self._row_start)
            self.read_bytes += end - start
            self._row.write(text.replace("\r\n", "\n"))
        return end

    def end(self) -> Iterator[Row]:
        """Yield the last row, if it has no line break."""
        if self._transcoder is not None:
            yield from self._split(self._transcoder.end())
        if self._rest:
            last = bytes(self._rest)
            self._rest.clear()
            self.read_bytes += len(last)
            if (row := self._line(last)) is not None:
                yield row
        if self._row_start:
            number, self._row_start = self._row_start, 0
            yield Row(number, error="A quoted cell of this row has no end. Add the missing quote.")

    def _line(self, line: bytes) -> Row | None:
        """Return the row that ends with this line. Return None if none does."""
        self._count += 1
        if self._count > self._most_lines:
            raise self._too_many_lines()
        self._row_bytes = (self._row_bytes if self._row_start else 0) + len(line) + 1
        if self._row_bytes > self._most_bytes:
            self._check_size(self._row_bytes, self._row_start or self._count)
        text = self._decoded(line)
        if self._row_start:
            return self._text(text)
        if self.columns is None and (named := _SEPARATOR_LINE.fullmatch(text)):
            self.delimiter = self.delimiter or named[1]
            return None
        if not text.strip(self._blank.characters):
            return None
        if self.delimiter is None or len(text) >= _MOST_CELLS or (cells := _read_cells(text, self.delimiter)) is None:
            return self._text(text)
        return self._cells(self._count, cells, text)

    def _check_idle(self) -> None:
        """Raise InvalidRequest if very many lines end no row: they cost much.

        A row may have a line for each of its cells, and a few more. Lines that are passed without a look at each, which
        are nearly all inside of long cells and blank lines, do not count.
        """
        self._most_idle = _MOST_IDLE_LINES + self._row_count * (self._cells_in_header + _FEW_LINES)
        if self._idle_lines > self._most_idle:
            detail = f"{self._idle_lines:,} of the first {self._count:,} lines end no row."
            raise _invalid(f"{detail} Is a quote missing, or one too many?", self._count)

    def _text(self, text: str) -> Row | None:
        """Add a line to the row, and return the row if it ends with this line."""
        in_cell = self._row_start > 0
        if self.delimiter is None and not in_cell:
            self.delimiter = _find_delimiter(text)
        goes_on = _goes_on(text, self.delimiter or ",", in_cell=in_cell)
        if not goes_on and self.delimiter is None:
            self.delimiter = _find_delimiter(self._row.getvalue() + text) or ","
            goes_on = _goes_on(text, self.delimiter, in_cell=in_cell)
        if goes_on:
            self._row.write(text + "\n")
            self._row_start = self._row_start or self._count
            return None
        if not in_cell:
            return self._whole(text, self._count)
        whole, number = self._row.getvalue() + text, self._row_start
        self._row, self._row_start = io.StringIO(), 0
        return self._whole(whole, number)

    def _whole(self, text: str, number: int) -> Row | None:
        delimiter = self.delimiter or ","
        if _has_too_many_cells(text, delimiter):
            return self._bad(number, f"The row has more than {_MOST_CELLS:,} cells. Is a line break missing?")
        try:
            cells = next(csv.reader([text], strict=True, delimiter=delimiter))
        except csv.Error as error:
            return self._bad(number, _CR if "new-line" in str(error) else f"This is not a row of CSV: {error}.")
        return self._cells(number, cells, text)

    def _cells(self, number: int, cells: list[str], text: str) -> Row | None:
        if self.columns is None:
            self.columns, self._cells_in_header = _columns(cells, number), len(cells)
            self._other_counts = _other_counts(text, self.delimiter)
            self._blank = _blank_lines(self.delimiter or ",", self._codec)
            return None
        if not any(map(str.strip, cells)):
            return None
        if len(cells) < len(self.columns) or any(cells[len(self.columns) :]):
            return Row(number, error=self._mismatch(cells, self.columns, text))
        return Row(number, dict(zip(self.columns, cells, strict=False)))  # spreadsheets fill rows with delimiters

    def _mismatch(self, cells: list[str], columns: list[str], text: str) -> str:
        """Return why the cells of a row do not go with the columns."""
        count = f"{len(cells)} cell" if len(cells) == 1 else f"{len(cells)} cells"
        detail = f"The row has {count}, and the first row has {len(columns)}."
        if len(columns) < len(cells) <= self._cells_in_header:
            return f"Column {len(columns) + 1} has a cell in this row, and no name in the first row."
        if len(columns) == 1 or self._fits_with_another_delimiter(text):
            return f"{detail} If another character separates them, name it with delimiter=."
        return detail

    def _fits_with_another_delimiter(self, text: str) -> bool:
        return any(_count_cells(text, other) == count for other, count in self._other_counts.items())

    def _bad(self, number: int, detail: str) -> Row:
        if self.columns is None:
            raise _invalid(detail, number)
        return Row(number, error=detail)

    def _decoded(self, line: bytes) -> str:
        if self._count == 1:
            _check_start(line)
            if line.startswith(BOM_UTF8):  # then the file is UTF-8, also if something else was said
                line, self._codec, self.needs_mark = line.removeprefix(BOM_UTF8), UTF_8, True
        if _NUL in line:
            if self._transcoder is not None or b"\0\0\0" in line:  # UTF-16 has at most two between its characters
                raise _invalid(_NO_TEXT, self._count)
            raise _invalid(f"The line has a NUL character. Is the file UTF-16? {_UTF_16}", self._count)
        try:
            return line.removesuffix(b"\r").decode(self._codec)
        except UnicodeDecodeError:
            if self._codec != UTF_8:
                raise not_in_charset(self._codec, self._count) from None
            raise _invalid(f"The line is not UTF-8.{_encoding_hint(line)}", self._count) from None

    def _count_lines(self, count: int) -> None:
        self._count += count
        if self._count > self._most_lines:
            raise self._too_many_lines()

    def _too_many_lines(self) -> LimitPassed:
        detail = f"The file has more than {self._most_lines:,} lines, including empty lines."
        return LimitPassed(detail, limit={"maxLines": self._most_lines})

    def _check_size(self, size: int, number: int) -> None:
        if size > self._most_bytes:
            if self._count == 0:
                _check_start(bytes(self._rest[:_MOST_START]))
            if self._count == 0 and b"\r" in self._rest:
                raise _invalid(_CR, 1)
            detail = f"The row at line {number:,} is longer than {self._most_bytes:,} bytes."
            raise LimitPassed(f"{detail} Is a quote missing?", limit={"maxLineBytes": self._most_bytes})


def _blank_lines(delimiter: str, codec: str) -> _BlankLines:
    """Return how to find lines whose cells are empty or have only spaces."""
    comma = delimiter.encode(codec, errors="ignore")
    pattern = rb"(?:[ \t\r]*+\n)*+"
    if comma:
        other = re.escape(comma)
        cell = rb'(?:""|[%b]*+)' % b" \t".replace(comma, b"")
        pattern = rb"(?:(?:[ \t\r]++|%b)*+\n|%b(?:%b%b)*+\r?\n)*+" % (other, cell, other, cell)
    return _BlankLines(_SPACES + delimiter, _SPACES.encode() + comma[:1], re.compile(pattern))


def _check_start(content: bytes) -> None:
    """Raise InvalidRequest if a file with this beginning is of another kind."""
    for start, detail in _STARTS.items():
        if content.startswith(start):
            raise _invalid(detail, 1)


def _find_delimiter(header: str) -> str | None:
    """Return the delimiter that a header has most often. Return None if it has none before the end of a quoted cell."""
    unquoted = _QUOTED.sub("", header)
    found = max(_DELIMITERS, key=unquoted.count)
    return found if found in unquoted else None


def _other_counts(header: str, delimiter: str | None) -> dict[str, int]:
    """Return how many cells a header has with each delimiter that it was not read with, if there are several."""
    counts = {other: _count_cells(header, other) for other in _DELIMITERS if other != delimiter}
    return {other: count for other, count in counts.items() if count > 1}


def _count_cells(text: str, delimiter: str) -> int:
    return _QUOTED.sub("", text).count(delimiter) + 1


def _read_cells(text: str, delimiter: str) -> list[str] | None:
    """Return the cells of a line that is a whole row. Return None if it is a part of a row, or no row of CSV."""
    if '"' not in text and "\r" not in text:
        return text.split(delimiter)
    try:
        return next(csv.reader((text,), strict=True, delimiter=delimiter))
    except csv.Error:
        return None


def _has_too_many_cells(text: str, delimiter: str) -> bool:
    return text.count(delimiter) >= _MOST_CELLS and _QUOTED.sub("", text).count(delimiter) >= _MOST_CELLS


def _goes_on(text: str, delimiter: str, *, in_cell: bool) -> bool:
    """Return True if a quoted cell goes on after this line. A quote starts a cell only at its beginning."""
    if '"' not in text:
        return in_cell
    at, start = 0, delimiter + '"'
    if not in_cell and text.startswith('"'):
        at, in_cell = 1, True
    while True:
        if in_cell:
            end = _REST_OF_CELL.match(text, at)
            if end is None:
                return True
            at = end.end()
        at = text.find(start, at)
        if at < 0:
            return False
        at, in_cell = at + len(start), True


def _columns(cells: list[str], number: int) -> list[str]:
    """Return the names of the columns. Raise InvalidRequest if one is missing or repeated, or if there are too many."""
    names = [cell.strip() for cell in cells]
    names = names[: max((place for place, name in enumerate(names, 1) if name), default=0)]
    if not names:
        raise _invalid(f"{_BAD_HEADER} This one is empty. If the names are below it, remove it.", number)
    if len(names) > _MOST_COLUMNS:
        raise _invalid(f"The first row names {len(names):,} columns. Name at most {_MOST_COLUMNS:,}.", number)
    if sum(map(len, names)) > _MOST_NAME_BYTES // 4 and len("".join(names).encode()) > _MOST_NAME_BYTES:
        raise _invalid(f"The names of the columns have more than {_MOST_NAME_BYTES:,} bytes. Shorten them.", number)
    seen: set[str] = set()
    for place, name in enumerate(names, 1):
        if not name:
            raise _invalid(f"{_BAD_HEADER} Column {place} has no name.", number)
        if name in seen:
            raise _invalid(f"{_BAD_HEADER} Two columns have the name {name[:_SHOWN]!r}.", number)
        seen.add(name)
    return names


def _encoding_hint(line: bytes) -> str:
    """Return what to do about the encoding. Most files of text that are not UTF-8 are Windows-1252."""
    if _CONTROL.search(line) or not _is_windows_1252(line):
        return " Save the file as CSV UTF-8, or send it with its own charset=."
    return " It seems to be Windows-1252. Send it with charset=windows-1252, or save it as CSV UTF-8."


def _is_windows_1252(line: bytes) -> bool:
    try:
        line.decode("cp1252")
    except UnicodeDecodeError:
        return False
    return True


def _invalid(detail: str, number: int) -> InvalidRequest:
    return InvalidRequest([Flaw("", detail, number)])
