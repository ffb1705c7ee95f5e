"""Keeps spans in memory, and arranges them as trees."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler

from penstock.tracing.spans import Spans

ALL = ParentBased(ALWAYS_ON)
NONE = ParentBased(ALWAYS_OFF)


@dataclass(frozen=True, slots=True)
class Recording:
    provider: TracerProvider
    exporter: InMemorySpanExporter
    spans: Spans

    @property
    def ended(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.ended if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        [span] = self.named(name)
        return span

    def trees(self, tell: Callable[[ReadableSpan], Any] = lambda span: span.name) -> list[Any]:
        """Return every trace as nested lists, `[name, child, child, ...]`. Children are in the order of their start."""
        spans = sorted(self.ended, key=lambda span: span.start_time or 0)
        known = {_id(span) for span in spans}

        def tree(span: ReadableSpan) -> list[Any]:
            children = [child for child in spans if child.parent is not None and child.parent.span_id == _id(span)]
            return [tell(span), *map(tree, children)]

        return [tree(span) for span in spans if span.parent is None or span.parent.span_id not in known]


def record_spans(sampler: Sampler = ALL) -> Recording:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Recording(provider, exporter, Spans(provider))


def _id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id
