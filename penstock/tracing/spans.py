"""Shows what happens to a batch as OpenTelemetry spans. This is the only file that imports OpenTelemetry.

    SERVER    POST /batch                          the request
    PRODUCER  └ send penstock-chunks-normal        sending chunks, follow-ups, or dead letters
    CONSUMER    └ process penstock-chunks-normal   processing a delivery of a chunk
    INTERNAL      └ POST /users                    an attempt at an operation; its handler's own spans are below it

Kinds, names and the attributes `messaging.*` and `http.*` follow OpenTelemetry's semantic conventions. The span of a
delivery has the send as its parent and as a link, which the conventions allow for messages that are processed one by
one. A request that is not sampled leaves no span anywhere: its messages carry no context, and a delivery without a
context starts no trace.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from penstock.chunk import Chunk, Operation
from penstock.outcome import OutcomeState, Verdict, as_outcome, is_final
from penstock.queue import Delivery, Message, TraceContext

_W3C = TraceContextTextMapPropagator()
_EXPORTERS: Mapping[str, type[SpanExporter]] = {"otlp": OTLPSpanExporter, "console": ConsoleSpanExporter}

BATCH_ID = "penstock.batch.id"
CHUNK_ID = "penstock.chunk.id"
OPERATION_ID = "penstock.operation.id"
OPERATIONS = "penstock.operations"  # how many operations a bulk handler was called with
ATTEMPT = "penstock.attempt"
RECEIVE_COUNT = "penstock.receive_count"
OUTCOME = "penstock.outcome"  # succeeded, failed, or "try again"; missing if the attempt was cut short
STATUS = "penstock.status"


def open_provider(name: str, exporters: Sequence[str]) -> TracerProvider:
    """Return the application's own provider if it has set one, or else a new one that handlers use too.

    OpenTelemetry itself reads sampler, limits, headers and the rest from its variables.
    """
    existing = trace.get_tracer_provider()
    if isinstance(existing, TracerProvider):
        return existing
    provider = TracerProvider(resource=describe_program(name), shutdown_on_exit=False)
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(_EXPORTERS[exporter]()))
    trace.set_tracer_provider(provider)
    return provider


def describe_program(name: str) -> Resource:
    """Return the attributes of the program that all its spans have. OpenTelemetry's variables take precedence."""
    return Resource.create(Resource({SERVICE_NAME: name}).merge(OTELResourceDetector().detect()).attributes)


class Spans:
    """Makes the spans. Each method returns a context manager that is open while the span lasts.

    This is the observer of a runner, too (see `penstock/running/observer.py`).
    """

    def __init__(self, provider: trace.TracerProvider) -> None:
        self._tracer = provider.get_tracer("penstock")
        self._nowhere = _unsampled_context()

    @contextmanager
    def answering(
        self, method: str, route: str | None, path: str, headers: Mapping[str, str]
    ) -> Iterator["AnsweringSpan"]:
        """Open the span of a request. `headers` are its `traceparent` and `tracestate`, if its client traces it."""
        with self._tracer.start_as_current_span(
            method if route is None else f"{method} {route}",
            context=_W3C.extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "url.path": path, **({"http.route": route} if route else {})},
        ) as span:
            yield AnsweringSpan(span)

    @contextmanager
    def sending(self, queue: str, messages: Sequence[Message]) -> Iterator[TraceContext | None]:
        """Open the span of a send. Yield the context for its messages to carry, or None if nothing is traced."""
        if not trace.get_current_span().get_span_context().trace_flags.sampled:
            yield None
            return
        with self._tracer.start_as_current_span(
            f"send {queue}",
            kind=SpanKind.PRODUCER,
            attributes={**_messaging(queue, "send"), "messaging.batch.message_count": len(messages)},
            links=[link for message in messages for link in _links(_context_of(message.trace))],
        ):
            yield _current()

    @contextmanager
    def processing(self, queue: str, delivery: Delivery, chunk: Chunk) -> Iterator[None]:
        """Open the span of a delivery of a chunk, below the span of its send."""
        parent = _context_of(delivery.trace)
        links = _links(parent)
        if not links:
            token = attach(self._nowhere)
            try:
                yield
            finally:
                detach(token)
            return
        with self._tracer.start_as_current_span(
            f"process {queue}",
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes={
                **_messaging(queue, "process"),
                "messaging.message.id": delivery.message_id,
                BATCH_ID: chunk.batch_id,
                CHUNK_ID: chunk.id,
                ATTEMPT: chunk.attempt,
                RECEIVE_COUNT: delivery.receive_count,
            },
            links=links,
        ):
            yield

    @contextmanager
    def attempting(
        self, handler: str, batch_id: str, operations: Sequence[Operation], attempt: int
    ) -> Iterator["AttemptSpan"]:
        """Open the span of an attempt, with the name of its handler. The runner calls this."""
        around = trace.get_current_span()
        if around is not trace.INVALID_SPAN and not around.get_span_context().trace_flags.sampled:
            yield AttemptSpan(around, attempt)  # it is not sampled, so no span is made
            return
        what = {OPERATION_ID: operations[0].id} if len(operations) == 1 else {OPERATIONS: len(operations)}
        with self._tracer.start_as_current_span(
            handler, attributes={BATCH_ID: batch_id, **what, ATTEMPT: attempt}
        ) as span:
            yield AttemptSpan(span, attempt)


class AnsweringSpan:
    """The span of a request."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def end(self, status: int, batch_id: str | None) -> None:
        self._span.set_attribute("http.response.status_code", status)
        if batch_id is not None:
            self._span.set_attribute(BATCH_ID, batch_id)
        if status >= 500:
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(StatusCode.ERROR)


class AttemptSpan:
    """The span of an attempt at one or more operations."""

    def __init__(self, span: Span, attempt: int) -> None:
        self._span = span
        self._attempt = attempt

    def end(self, verdicts: Mapping[int, Verdict]) -> None:
        """Note the verdict on a single operation. The verdicts on several are in the results of the batch."""
        if len(verdicts) == 1 and self._span.is_recording():
            [verdict] = verdicts.values()
            self._note(verdict)

    def _note(self, verdict: Verdict) -> None:
        """Note status and title, but not the detail, which may be personal data."""
        outcome = as_outcome(verdict)
        self._span.set_attribute(OUTCOME, str(outcome.state) if is_final(verdict, self._attempt) else "try again")
        self._span.set_attribute(STATUS, outcome.status)
        if outcome.state is OutcomeState.FAILED:
            title = (outcome.error or {}).get("title", "")
            self._span.set_attribute("error.type", title)
            if not outcome.rejected:  # a rejected operation is not an error of the handler
                self._span.set_status(StatusCode.ERROR, title)


def _messaging(queue: str, operation: str) -> dict[str, str]:
    return {
        "messaging.system": "aws_sqs",
        "messaging.destination.name": queue,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }


def _current() -> TraceContext:
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return TraceContext(carrier["traceparent"], carrier.get("tracestate"))


def _context_of(carried: TraceContext | None) -> Context:
    """Return the context that a message carries. It is read as strictly as a client's: anything invalid is ignored."""
    if carried is None:
        return Context()
    carrier = {"traceparent": carried.traceparent}
    if carried.tracestate:
        carrier["tracestate"] = carried.tracestate
    return _W3C.extract(carrier)


def _links(context: Context) -> list[Link]:
    linked = trace.get_current_span(context).get_span_context()
    return [Link(linked)] if linked.is_valid else []


def _unsampled_context() -> Context:
    """Return a parent below which a parent-based sampler samples nothing, not even the spans of handlers."""
    ids = RandomIdGenerator()
    unsampled = SpanContext(ids.generate_trace_id(), ids.generate_span_id(), is_remote=True)
    return trace.set_span_in_context(NonRecordingSpan(unsampled), Context())
