"""Tracing is on when OpenTelemetry's variables say so; off it costs nothing; it keeps no program from ending."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from penstock import Operations
from penstock.aws.sqs import _attribute_bytes, _entry
from penstock.chunk import Operation
from penstock.errors import Misconfigured
from penstock.queue import Message
from penstock.running.runner import Runner
from penstock.running.source import Source
from penstock.settings import TracingSettings
from penstock.testing import MemoryQueue
from penstock.tracing.hooks import FLUSH_SECONDS, TracedQueue, open_spans, processing, wanted_exporters
from penstock.tracing.spans import describe_program
from tests.support.attempts import run_one
from tests.support.builders import build_chunk, build_operation, build_settings
from tests.support.collector import Collector, collecting
from tests.support.full import full
from tests.support.programs import free_port
from tests.support.spans import record_spans
from tests.support.waiting import UNIT_SECONDS

ROOT = Path(__file__).parents[4]
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
EXPORTER = "OTEL_TRACES_EXPORTER"
DISABLED = "OTEL_SDK_DISABLED"
PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"


# --- When there are spans


@pytest.mark.parametrize(
    ("environment", "exporters"),
    [
        ({}, []),
        ({ENDPOINT: ""}, []),
        ({ENDPOINT: "http://collector:4318"}, ["otlp"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, ["otlp"]),
        ({EXPORTER: "otlp"}, ["otlp"]),
        ({EXPORTER: "console"}, ["console"]),
        ({EXPORTER: "otlp, console,otlp"}, ["otlp", "console"]),
        ({EXPORTER: "none"}, []),
        ({EXPORTER: "none", ENDPOINT: "http://collector:4318"}, []),
        ({EXPORTER: "console", ENDPOINT: "http://collector:4318"}, ["console"]),
        ({EXPORTER: "", ENDPOINT: "http://collector:4318"}, ["otlp"]),
        ({DISABLED: "true", ENDPOINT: "http://collector:4318"}, []),
        ({DISABLED: " TRUE ", EXPORTER: "otlp"}, []),
        ({DISABLED: "1", EXPORTER: "otlp"}, ["otlp"]),  # the specification knows "true" alone
        ({DISABLED: "true", EXPORTER: "zipkin"}, []),
        ({PROTOCOL: "http/protobuf", EXPORTER: "otlp"}, ["otlp"]),
        ({PROTOCOL: "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", EXPORTER: "otlp"}, ["otlp"]),
        ({PROTOCOL: "grpc", EXPORTER: "console"}, ["console"]),
    ],
)
def test_opentelemetrys_variables_say_where_spans_go(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], exporters: list[str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wanted_exporters(TracingSettings()) == exporters


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({EXPORTER: "zipkin"}, "OTEL_TRACES_EXPORTER is 'zipkin'. Set it to otlp, console or none."),
        (
            {PROTOCOL: "grpc", EXPORTER: "otlp"},
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'. Set it to http/protobuf, or remove it.",
        ),
    ],
)
def test_unsupported_exporter_or_protocol_is_reported(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], words: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Misconfigured, match=f"^{words}"):
        wanted_exporters(TracingSettings())


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


def test_missing_extra_is_reported_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "penstock.tracing.spans")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.setenv(EXPORTER, "otlp")
    words = re.escape(
        "OTEL_* variables ask for traces, but OpenTelemetry is not installed. Install it with "
        "pip install 'penstock-bulk[tracing]', or unset these variables."
    )
    with (
        pytest.raises(Misconfigured, match=f"^{words}"),
        open_spans(build_settings(), TracingSettings(), "consumer"),
    ):
        pass


# --- Off it costs nothing


IMPORTED = """
import sys
import penstock.consumer.program, penstock.service.program
from penstock.settings import Settings, TracingSettings
from penstock.tracing.hooks import open_spans
with open_spans(Settings(), TracingSettings(), "consumer") as spans:
    assert spans is None
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""


def test_nothing_of_opentelemetry_is_imported() -> None:
    result = run(IMPORTED)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


def test_messages_are_what_they_are_without_tracing() -> None:
    message = Message("{}", tenant="acme")
    assert _entry(0, message) == {"Id": "0", "MessageBody": "{}", "MessageGroupId": "acme"}
    assert _attribute_bytes(message) == 0


def test_processing_opens_nothing_without_tracing() -> None:
    delivery: Any = None
    assert isinstance(processing(None, "chunks", delivery, build_chunk([])), nullcontext)


# --- Sends


class FailingQueue(MemoryQueue):
    async def send(self, messages: Any) -> None:
        raise RuntimeError("no")


async def test_send_that_fails_is_an_error_of_its_span() -> None:
    recording = record_spans()
    queue = TracedQueue(FailingQueue(), "chunks", recording.spans)
    with recording.provider.get_tracer("test").start_as_current_span("request"), pytest.raises(RuntimeError):
        await queue.send([Message("a")])
    assert recording.one("send chunks").status.status_code.name == "ERROR"


async def test_nothing_to_send_is_no_span() -> None:
    recording = record_spans()
    queue = TracedQueue(MemoryQueue(), "chunks", recording.spans)
    with recording.provider.get_tracer("test").start_as_current_span("request"):
        await queue.send([])
    assert [span.name for span in recording.ended] == ["request"]


async def test_send_in_no_trace_is_no_span() -> None:
    recording, kept = record_spans(), MemoryQueue()
    await TracedQueue(kept, "chunks", recording.spans).send([Message("a")])
    assert (recording.ended, kept.messages) == ([], [Message("a")])


# --- A handler that is gone


async def test_operation_that_nothing_handles_is_named_by_its_method_alone() -> None:
    recording = record_spans()
    runner = Runner(Operations(), 1, observer=recording.spans)
    await run_one(runner, Operation(0, "a", "POST", "/gone/123"), Source("batch", "batch"), 1)
    assert recording.one("POST").attributes == {
        "penstock.batch.id": "batch",
        "penstock.operation.id": "a",
        "penstock.attempt": 1,
        "penstock.outcome": "failed",
        "penstock.status": 404,
        "error.type": "Unknown operation",
    }


# --- Who collects the spans


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as server:
        server.may_answer.clear()
        yield server


ONE_SPAN = """
import sys, time
from penstock.settings import Settings, TracingSettings
from penstock.tracing.hooks import open_spans
from opentelemetry import trace
begun_at = time.monotonic()
with open_spans(Settings(), TracingSettings(), "consumer") as spans:
    with trace.get_tracer("shop").start_as_current_span("mine"):
        print("working", time.monotonic() - begun_at)
    begun_at = time.monotonic()
print("stopped", time.monotonic() - begun_at)
"""


def seconds(output: str, word: str) -> float:
    return float(next(line for line in output.splitlines() if line.startswith(word)).split()[1])


def test_the_last_spans_are_sent_before_the_program_ends(collector: Collector) -> None:
    collector.may_answer.set()
    result = run(ONE_SPAN, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, PENSTOCK_NAME="shop")
    assert result.returncode == 0, result.stderr
    [request] = collector.requests
    [resource_spans] = request.resource_spans
    names = {one.key: one.value.string_value for one in resource_spans.resource.attributes}
    assert names["service.name"] == "shop-consumer"
    assert [span.name for span in resource_spans.scope_spans[0].spans] == ["mine"]


def test_program_is_called_as_opentelemetrys_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    assert describe_program("shop-consumer").attributes["service.name"] == "shop-consumer"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "bulk")
    attributes = describe_program("shop-consumer").attributes
    assert (attributes["service.name"], attributes["deployment.environment.name"]) == ("bulk", "test")


@pytest.mark.parametrize("trouble", [*full(["nobody listens"]), "never answers", "no address at all"])
def test_collector_in_trouble_keeps_no_program_from_working_or_ending(collector: Collector, trouble: str) -> None:
    addresses = {"never answers": collector.url, "nobody listens": f"http://127.0.0.1:{free_port()}"}
    result = run(ONE_SPAN, OTEL_EXPORTER_OTLP_ENDPOINT=addresses.get(trouble, "nonsense"))
    assert result.returncode == 0, result.stderr
    assert seconds(result.stdout, "working") < 2 * UNIT_SECONDS
    assert seconds(result.stdout, "stopped") < FLUSH_SECONDS + UNIT_SECONDS


def test_applications_own_provider_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = record_spans()
    monkeypatch.setattr("opentelemetry.trace.get_tracer_provider", lambda: recording.provider)
    monkeypatch.setenv(EXPORTER, "otlp")
    with open_spans(build_settings(), TracingSettings(), "consumer") as spans:
        assert spans is not None
        with spans.attempting("POST /users", "batch", [build_operation(0)], 1):
            pass
    assert recording.one("POST /users").attributes is not None
