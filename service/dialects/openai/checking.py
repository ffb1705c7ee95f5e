"""Checks the lines of an input file while they arrive, and writes each as an operation.

The operations are validated as in POST /batch, by the models of their handlers. They keep their line numbers. After
very many errors, or a line that is too long, the rest of the file is not checked.
"""

from array import array
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from pydantic_core import to_json

from penstock.errors import LimitPassed
from penstock.reading.flaws import MOST_FOUND, MOST_INVALID_BYTES
from penstock.reading.json_line import parse_line
from penstock.reading.line_source import limits_of_lines
from penstock.reading.lines import Lines
from penstock.reading.operation_reader import OperationReader, ReadOperation
from penstock.reading.operation_request import LONGEST_ID
from penstock.service.dialects.openai.lines import (
    DUPLICATE,
    EMPTY_FILE,
    INVALID_JSON,
    MOST_ERRORS,
    TOO_MANY,
    LineError,
    error_of_flaw,
    first_errors,
    invalid_line,
    operation_of,
)
from penstock.service.intake.ids import Ids
from penstock.service.keys import OPERATIONS, SETTINGS, TURNS

MOST_URLS = 20  # of a file, and lines of each, of which it is known where they are
LINES_IN_TURN = 100


class Checking:
    """The check of one file. `feed` it every piece, then call `end`. Both return the operations of complete lines."""

    def __init__(self, app: web.Application) -> None:
        settings = app[SETTINGS]
        self.total = 0  # lines that are not blank
        self.error_count = 0
        self.model: str | None = None  # that the first line names
        self.urls: dict[str, list[int]] = {}  # of the operations, with the first lines that have each
        self._errors: list[LineError] = []
        self._invalid_bytes = 0
        self._most_lines = settings.max_stream_operations
        self._most_elements = settings.most_elements
        self._turns = app[TURNS]
        self._lines = Lines(**limits_of_lines(settings.message_bytes, settings.max_stream_operations))
        self._reader = OperationReader(app[OPERATIONS].match, shows_errors=settings.show_errors)
        self._ids = Ids()
        self._numbers = array("I")  # of the lines whose ids are known
        self._written = 0  # the number of the last line that was written
        self._is_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ids.close()

    @property
    def errors(self) -> list[LineError]:
        """Return the first errors in the order of the lines. Those of the whole file come last."""
        return first_errors(sorted(self._errors, key=lambda one: (one.line is None, one.line)))

    async def feed(self, piece: bytes) -> bytes:
        await self._turns.next()  # also if all of its lines are blank
        return await self._write(lambda: self._lines.feed(piece))

    async def end(self) -> bytes:
        written = await self._write(self._lines.end)
        if self.total == 0 and not self._is_over:
            self._add(invalid_line(EMPTY_FILE, "The file has no lines. Write one request per line."))
        await self._add_duplicates()
        return written

    async def _write(self, split: Callable[[], Iterator[tuple[int, bytes]]]) -> bytes:
        """Check lines, and return the operations of the valid ones."""
        written = bytearray()
        if self._is_over:
            return b""
        try:
            for number, line in split():
                self._check_line(number, line, written)
                if self.error_count >= MOST_FOUND or self._invalid_bytes > MOST_INVALID_BYTES:
                    self._is_over = True
                    break
                if self.total % LINES_IN_TURN == 0:
                    await self._turns.next()
        except LimitPassed as error:
            self._add(invalid_line(TOO_MANY if "maxLines" in error.limit else INVALID_JSON, str(error)))
            self._is_over = True
        return bytes(written)

    def _check_line(self, number: int, line: bytes, written: bytearray) -> None:
        if line.startswith(BOM_UTF8):
            line = line.removeprefix(BOM_UTF8)
            if not line or line.isspace():
                return
        if self.total == self._most_lines:
            limit = {"maxLines": self._most_lines}
            raise LimitPassed(f"The file has more than {self._most_lines:,} lines.", limit=limit)
        self.total += 1
        operation = self._read(number, line)
        errors = [operation] if isinstance(operation, LineError) else self._check(operation, number)
        if errors:
            self._invalid_bytes += len(line)
            for error in errors:
                self._add(error)
        elif not self.error_count:
            written += b"\n" * (number - self._written - 1)
            written += to_json(operation) + b"\n"
            self._written = number

    def _check(self, operation: dict[str, Any], number: int) -> list[LineError]:
        self._numbers.append(number)
        self._ids.add(operation["id"])
        self._note(operation, number)
        read = self._reader.read(operation)
        return [] if isinstance(read, ReadOperation) else [error_of_flaw(flaw, number) for flaw in read]

    def _read(self, number: int, line: bytes) -> dict[str, Any] | LineError:
        try:
            return operation_of(parse_line(line, self._most_elements), number)
        except (ValueError, LimitPassed) as error:
            return invalid_line(INVALID_JSON, f"This line is not parseable as valid JSON. {error}", number)

    def _note(self, operation: Mapping[str, Any], number: int) -> None:
        """Note what a batch of this file needs to know: the model, and where which URLs are."""
        url, body = operation["path"], operation.get("body")
        if self.total == 1 and isinstance(body, dict) and isinstance(body.get("model"), str):
            self.model = body["model"][:LONGEST_ID]
        lines = self.urls.get(url)
        if lines is None:
            if len(self.urls) < MOST_URLS:
                self.urls[url] = [number]
        elif len(lines) < MOST_URLS:
            lines.append(number)

    def _add(self, error: LineError) -> None:
        self.error_count += 1
        if len(self._errors) < MOST_ERRORS:
            self._errors.append(error)

    async def _add_duplicates(self) -> None:
        count, found = await self._ids.duplicates(MOST_ERRORS)
        self.error_count += count
        for one in found:
            line, first = self._numbers[one.index], self._numbers[one.first]
            message = f"The custom_id '{one.id}' is used in line {first:,} already. It must be unique in the file."
            self._errors.append(invalid_line(DUPLICATE, message, line, "custom_id"))
