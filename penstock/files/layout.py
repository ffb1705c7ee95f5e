"""What is kept of a file with its batch: enough to write the rows that failed as they came. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic_core import from_json, to_json

from penstock import zstd
from penstock.files.rejected import own_columns
from penstock.files.template import Template


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of a file became operations. `columns` are those of a CSV file, in their order.

    `needs_mark` says that a copy of the file starts with a byte order mark.
    """

    template: Template
    columns: Sequence[str] | None = None
    delimiter: str | None = None
    needs_mark: bool = False

    def encode(self) -> bytes:
        template, columns = self.template, None if self.columns is None else own_columns(self.columns)
        of_template = [template.method, template.path, template.names, template.key]
        kept = [of_template, columns, self.delimiter, self.needs_mark]
        return zstd.compress(to_json(kept))

    @classmethod
    def decode(cls, content: bytes) -> "Layout":
        of_template, *of_file = from_json(zstd.decompress(content))
        return cls(Template(*of_template), *of_file)
