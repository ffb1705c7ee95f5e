"""Whether there are spans, and where they hook in. OpenTelemetry itself is in `spans.py`, imported only if there are.

They are there when OpenTelemetry's own variables ask for them (`OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_TRACES_EXPORTER`)
and the extra is installed. Then the context of a trace travels with every message, as W3C writes it.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from threading import Thread
from typing import TYPE_CHECKING

from penstock.chunk import Chunk
from penstock.errors import Misconfigured
from penstock.queue import Delivery, Message, Queue
from penstock.settings import Settings, TracingSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from penstock.tracing.spans import Spans

EXPORTERS = ("otlp", "console")
PROTOCOL = "http/protobuf"
FLUSH_SECONDS = 3.0  # what sending the last spans may take at stop


def wanted_exporters(settings: TracingSettings) -> list[str]:
    """Where spans go, by the names that OpenTelemetry gives it; empty: there are none. Raises Misconfigured. Pure."""
    if settings.is_disabled:
        return []
    names = [name.strip() for name in settings.exporter.split(",") if name.strip()]
    if not names and settings.has_endpoint:
        names = ["otlp"]
    wanted = [name for name in dict.fromkeys(names) if name != "none"]
    unknown = [name for name in wanted if name not in EXPORTERS]
    if unknown:
        raise Misconfigured(f"Set OTEL_TRACES_EXPORTER to otlp, console or none: Penstock knows no {unknown[0]!r}.")
    if "otlp" in wanted and settings.protocol not in {"", PROTOCOL}:
        raise Misconfigured(
            f"Set OTEL_EXPORTER_OTLP_PROTOCOL to {PROTOCOL}, or leave it out: {settings.protocol!r} is not spoken here."
        )
    return wanted


@contextmanager
def open_spans(settings: Settings, tracing: TracingSettings, program: str) -> Iterator["Spans | None"]:
    """The spans of a program, None where nobody asks for them. Around all that it does: at the end they are sent.

    Raises Misconfigured when they are asked for and cannot be made.
    """
    exporters = wanted_exporters(tracing)
    if not exporters:
        yield None
        return
    try:
        from penstock.tracing.spans import Spans, open_provider  # noqa: PLC0415 - it imports OpenTelemetry
    except ImportError as error:
        raise Misconfigured(
            "Install what traces: pip install 'penstock[tracing]', or unset the OTEL_* variables that ask for traces. "
            f"Python says: {error}."
        ) from error
    provider = open_provider(f"{settings.name}-{program}", exporters)
    try:
        yield Spans(provider)
    finally:
        _send_the_last(provider)


def _send_the_last(provider: "TracerProvider") -> None:
    """In a thread that nobody waits for longer: whoever collects spans must not keep a program from ending."""
    sending = Thread(target=provider.shutdown, name="last spans", daemon=True)
    sending.start()
    sending.join(FLUSH_SECONDS)


def processing(
    spans: "Spans | None", queue: str, delivery: Delivery, chunk: Chunk
) -> AbstractContextManager[object, bool | None]:
    """Around the processing of a delivery."""
    return nullcontext() if spans is None else spans.processing(queue, delivery, chunk)


class TracedQueue:
    """A queue whose sends are spans, and whose messages carry the context on.

    A message that has a context already keeps it: a dead letter put back is still part of its batch's trace.
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
