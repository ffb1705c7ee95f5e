"""An input file: what the catalog has of it, where its content is, and how OpenAI writes it. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from penstock.bucket import upload_key
from penstock.catalog import CatalogEntry
from penstock.service.dialects.openai.lines import LineError, first_errors, url_mismatch

KIND = "openai-file"
PURPOSE = "batch"
LONGEST_NAME = 255
MOST_LINES_HERE = 5_000  # of a file that a front end reads for a batch: in about a second. Consumers read larger files
SHOWN_ERRORS = 3  # in the details of the status
_ID = re.compile(r"file-[0-9A-HJKMNP-TV-Z]{26}")


@dataclass(frozen=True, slots=True)
class InputFile:
    """An input file. `urls` has those of its lines, each with the first lines that have it.

    `errors` has the first ones, and `error_count` counts all.
    """

    id: str
    tenant: str
    filename: str
    size: int
    created_at: float
    expires_at: float
    total: int = 0
    urls: Mapping[str, Sequence[int]] | None = None
    model: str | None = None
    errors: tuple[LineError, ...] = ()
    error_count: int = 0

    @property
    def is_valid(self) -> bool:
        return self.error_count == 0

    def is_read_here(self, most_bytes: int) -> bool:
        """Return True if a front end reads the file to make a batch, and not a consumer."""
        return self.total <= MOST_LINES_HERE and self.size <= most_bytes

    def errors_for(self, endpoint: str) -> list[LineError]:
        """Return why the file is no input of a batch with this endpoint; nothing if it is one."""
        if not self.is_valid:
            return list(self.errors)
        others = {url: lines for url, lines in (self.urls or {}).items() if url != endpoint}
        found = [(line, url) for url, lines in others.items() for line in lines]
        return first_errors([url_mismatch(url, endpoint, line) for line, url in sorted(found)])

    def entry(self) -> CatalogEntry:
        """Return what the catalog keeps."""
        content = {
            "filename": self.filename,
            "size": self.size,
            "created_at": self.created_at,
            "total": self.total,
            "urls": self.urls or {},
            "model": self.model,
            "errors": [error.encode() for error in self.errors],
            "error_count": self.error_count,
        }
        return CatalogEntry(KIND, self.tenant, self.id, self.expires_at, content)

    @classmethod
    def of_entry(cls, entry: CatalogEntry) -> Self:
        kept = {**entry.content, "errors": tuple(map(LineError.decode, entry.content["errors"]))}
        return cls(id=entry.id, tenant=entry.tenant, expires_at=entry.expires_at, **kept)

    def body(self) -> dict[str, Any]:
        status = "processed" if self.is_valid else "error"
        return file_body(
            self.id,
            self.filename,
            PURPOSE,
            size=self.size,
            created_at=self.created_at,
            expires_at=self.expires_at,
            status=status,
            details=None if self.is_valid else self._details(),
        )

    def _details(self) -> str:
        """Return the first errors as a text."""
        shown = [f"Line {one.line}: {one.message}" if one.line else one.message for one in self.errors[:SHOWN_ERRORS]]
        left = self.error_count - len(shown)
        return " ".join([*shown, *([f"There are {left:,} more errors."] if left else [])])


def is_input_file(file_id: str) -> bool:
    return _ID.fullmatch(file_id) is not None


def content_key(tenant: str, file_id: str) -> str:
    """Return where the file is as it came."""
    return upload_key(tenant, file_id)


def operations_key(tenant: str, file_id: str) -> str:
    """Return where the file is as operations."""
    return upload_key(tenant, f"{file_id}.operations")


def file_body(
    file_id: str,
    filename: str,
    purpose: str,
    *,
    size: int,
    created_at: float,
    expires_at: float,
    status: str = "processed",
    details: str | None = None,
) -> dict[str, Any]:
    """Return a file as OpenAI writes it."""
    return {
        "id": file_id,
        "object": "file",
        "bytes": size,
        "created_at": int(created_at),
        "expires_at": int(expires_at),
        "filename": filename,
        "purpose": purpose,
        "status": status,
        "status_details": details,
    }
