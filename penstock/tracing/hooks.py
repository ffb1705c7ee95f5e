"""Decides whether there are spans, and opens them. Only `spans.py` imports OpenTelemetry, and only if there are spans.

There are spans if the `tracing` extra is installed and OpenTelemetry's own variables ask for them:
`OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_TRACES_EXPORTER`. Then every message carries the W3C trace context.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from threading import Thread
from typing import TYPE_CHECKING

from penstock.chunk import Chunk
from penstock.distribution import install_command
from penstock.errors import Misconfigured
from penstock.queue import Delivery, Message, Queue
from penstock.settings import Settings, TracingSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from penstock.tracing.spans import Spans

EXPORTERS = ("otlp", "console")
PROTOCOL = "http/protobuf"
FLUSH_SECONDS = 3.0  # the time limit for sending the last spans when a program stops


def wanted_exporters(settings: TracingSettings) -> list[str]:
    """Return the exporters by OpenTelemetry's names, or an empty list for no spans. Raise Misconfigured. Pure."""
    if settings.is_disabled:
        return []
    names = [name.strip() for name in settings.exporter.split(",") if name.strip()]
    if not names and settings.has_endpoint:
        names = ["otlp"]
    wanted = [name for name in dict.fromkeys(names) if name != "none"]
    unknown = [name for name in wanted if name not in EXPORTERS]
    if unknown:
        raise Misconfigured(f"OTEL_TRACES_EXPORTER is {unknown[0]!r}. Set it to otlp, console or none.")
    if "otlp" in wanted and settings.protocol not in {"", PROTOCOL}:
        raise Misconfigured(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {settings.protocol!r}. Set it to {PROTOCOL}, or remove it."
        )
    return wanted


@contextmanager
def open_spans(settings: Settings, tracing: TracingSettings, program: str) -> Iterator["Spans | None"]:
    """Yield the spans of a program, or None if nobody asks for them. At the end of the block the last ones are sent.

    Raise Misconfigured if spans are asked for and cannot be created.
    """
    exporters = wanted_exporters(tracing)
    if not exporters:
        yield None
        return
    try:
        from penstock.tracing.spans import Spans, open_provider  # noqa: PLC0415 - it imports OpenTelemetry
    except ImportError as error:
        raise Misconfigured(
            "OTEL_* variables ask for traces, but OpenTelemetry is not installed. Install it with "
            f"{install_command('tracing')}, or unset these variables. Python reports: {error}."
        ) from error
    provider = open_provider(f"{settings.name}-{program}", exporters)
    try:
        yield Spans(provider)
    finally:
        _send_the_last(provider)


def _send_the_last(provider: "TracerProvider") -> None:
    """Send the last spans in a thread, and give up after FLUSH_SECONDS.

    Otherwise a slow collector would keep a program from ending.
    """
    sending = Thread(target=provider.shutdown, name="last spans", daemon=True)
    sending.start()
    sending.join(FLUSH_SECONDS)


def processing(
    spans: "Spans | None", queue: str, delivery: Delivery, chunk: Chunk
) -> AbstractContextManager[object, bool | None]:
    """Return a context manager for the processing of a delivery. It opens a span if there are any."""
    return nullcontext() if spans is None else spans.processing(queue, delivery, chunk)


class TracedQueue:
    """A queue that makes a span for each send, and puts the trace context into its messages.

    A message that has a context keeps it: a redriven dead letter still belongs to the trace of its batch.
    """

    def __init__(self, queue: Queue, name: str, spans: "Spans") -> None:
        self._queue = queue
        self._name = name
        self._spans = spans
        self.receive = queue.receive
        self.delete = queue.delete
        self.extend = queue.extend
        self.depth = queue.depth

    async def send(self, messages: Sequence[Message]) -> None:
        if not messages:
            return
        with self._spans.sending(self._name, messages) as trace:
            await self._queue.send([replace(message, trace=message.trace or trace) for message in messages])
