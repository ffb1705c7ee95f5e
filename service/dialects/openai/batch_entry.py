"""What the catalog has of a batch: what the engine does not know of it. Pure."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from pydantic_core import to_json

from penstock.catalog import CatalogEntry
from penstock.service.dialects.openai.lines import LineError

KIND = "openai-batch"
PREFIX = "batch_"
_ID = re.compile(rf"{PREFIX}[0-9A-HJKMNP-TV-Z]{{26}}")


@dataclass(frozen=True, slots=True)
class BatchEntry:
    """The engine has a batch with the same id. `errors` are those for which it has failed at once.

    `fingerprint` is the same for requests that ask for the same batch. `is_repeated`: the library of a client has sent
    the request before. `output_seconds` is how long its output files exist after its end.
    """

    id: str
    tenant: str
    created_at: float
    expires_at: float
    input_file_id: str
    endpoint: str
    completion_window: str
    fingerprint: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    output_seconds: int | None = None
    model: str | None = None
    errors: tuple[LineError, ...] = ()
    cancelling_at: float | None = None
    is_repeated: bool = False

    def entry(self) -> CatalogEntry:
        """Return what the catalog keeps."""
        content = {
            "created_at": self.created_at,
            "input_file_id": self.input_file_id,
            "endpoint": self.endpoint,
            "completion_window": self.completion_window,
            "fingerprint": self.fingerprint,
            "metadata": self.metadata,
            "output_seconds": self.output_seconds,
            "model": self.model,
            "errors": [error.encode() for error in self.errors],
            "cancelling_at": self.cancelling_at,
            "is_repeated": self.is_repeated,
        }
        return CatalogEntry(KIND, self.tenant, self.id, self.expires_at, content)

    @classmethod
    def of_entry(cls, entry: CatalogEntry) -> Self:
        kept = {**entry.content, "errors": tuple(map(LineError.decode, entry.content["errors"]))}
        return cls(id=entry.id, tenant=entry.tenant, expires_at=entry.expires_at, **kept)


def is_batch_id(batch_id: str) -> bool:
    return _ID.fullmatch(batch_id) is not None


def fingerprint_of(wanted: Mapping[str, Any]) -> str:
    """Return a text that is the same for requests that ask for the same batch."""
    return hashlib.sha256(to_json(dict(sorted(wanted.items())))).hexdigest()
