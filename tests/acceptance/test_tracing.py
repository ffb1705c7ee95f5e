"""The spans that front end and consumer send to a collector are one trace, across a real queue."""

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.acceptance.conftest import Install
from tests.acceptance.installation import on_any_aws
from tests.support.api import Operation
from tests.support.collector import collecting

NOTE: Operation = {"method": "POST", "path": "/notes"}


@on_any_aws
async def test_request_chunks_and_operations_are_one_trace(install: Install) -> None:
    with collecting() as collector:
        penstock = await install(SYNC_MAX_OPERATIONS="0", CHUNK_OPERATIONS="2")
        programs = [await penstock.serve(**traced(collector.url)), await penstock.consume(**traced(collector.url))]
        batch_id = await penstock.api.submit([NOTE] * 3)
        await penstock.api.ended(batch_id)
        for program in programs:
            program.terminate()
        assert [await program.ended() for program in programs] == [0, 0]

        [(_, request)] = [(service, span) for service, span in collector.spans if span.name == "POST /batch"]
        of_trace = [(service, span) for service, span in collector.spans if span.trace_id == request.trace_id]
        names = {span.span_id: span.name for _, span in of_trace}
        queue = f"{penstock.name}-chunks-normal"
        assert sorted((service, *lineage(span, names)) for service, span in of_trace) == sorted(
            [
                (f"{penstock.name}-service", "POST /batch", ""),
                (f"{penstock.name}-service", f"send {queue}", "POST /batch"),
                *[(f"{penstock.name}-consumer", f"process {queue}", f"send {queue}")] * 2,
                *[(f"{penstock.name}-consumer", "POST /notes", f"process {queue}")] * 3,
            ]
        )


def traced(url: str) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "PENSTOCK_LEAVE_SECONDS": "0"}


def lineage(span: Span, names: dict[bytes, str]) -> tuple[str, str]:
    """Return the name of a span and the name of its parent."""
    return span.name, names.get(span.parent_span_id, "")
