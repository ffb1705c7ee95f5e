"""A client for Penstock's HTTP API: `Client` for scripts and notebooks, `AsyncClient` for asyncio programs.

It imports no AWS library, and nothing of the programs. Everything that a program needs is exported here.
"""

from penstock.client.async_batch import AsyncBatch
from penstock.client.async_client import AsyncClient
from penstock.client.errors import (
    AnswerLost,
    BatchError,
    ClientError,
    Conflict,
    InvalidBatch,
    InvalidFile,
    InvalidWebhook,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    NotPenstock,
    Problem,
    RateLimited,
    ServerUnreachable,
    TimedOut,
    TooLarge,
    Unavailable,
)
from penstock.client.events import Event
from penstock.client.export import Export, ExportFailed, ExportFile
from penstock.client.outcome import Failure, Failures, Outcome, Sample
from penstock.client.patience import Patience
from penstock.client.status import FINAL, Status, Validation
from penstock.client.sync_batch import Batch
from penstock.client.sync_client import Client
from penstock.client.webhook import verify_webhook

__all__ = [
    "FINAL",
    "AnswerLost",
    "AsyncBatch",
    "AsyncClient",
    "Batch",
    "BatchError",
    "Client",
    "ClientError",
    "Conflict",
    "Event",
    "Export",
    "ExportFailed",
    "ExportFile",
    "Failure",
    "Failures",
    "InvalidBatch",
    "InvalidFile",
    "InvalidWebhook",
    "NotAllowed",
    "NotAuthenticated",
    "NotFound",
    "NotPenstock",
    "Outcome",
    "Patience",
    "Problem",
    "RateLimited",
    "Sample",
    "ServerUnreachable",
    "Status",
    "TimedOut",
    "TooLarge",
    "Unavailable",
    "Validation",
    "verify_webhook",
]
