"""What is kept of a file with its batch: enough to write the rows that failed as they came. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic_core import from_json, to_json

from penstock import zstd
from penstock.files.rejected import own_columns
from penstock.files.template import Template


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of a file became operations. `columns` are those of a CSV file, in their order."""

    template: Template
    columns: Sequence[str] | None = None
    delimiter: str | None = None

    def encode(self) -> bytes:
        template, columns = self.template, None if self.columns is None else own_columns(self.columns)
        kept = [template.method, template.path, template.names, columns, self.delimiter, template.key]
        return zstd.compress(to_json(kept))

    @classmethod
    def decode(cls, content: bytes) -> "Layout":
        method, path, names, columns, delimiter, key, *_ = from_json(zstd.decompress(content))
        return cls(Template(method, path, names, key), columns, delimiter)
