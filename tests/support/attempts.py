"""A single attempt at a single operation, outside a chunk."""

from penstock.chunk import Operation
from penstock.outcome import Verdict
from penstock.running.attempt import OpenTransaction
from penstock.running.runner import Runner
from penstock.running.source import Source


async def run_one(
    runner: Runner, operation: Operation, source: Source, attempt: int = 1, transaction: OpenTransaction | None = None
) -> Verdict:
    verdicts = await runner.run((operation,), source, attempt, transaction)
    return verdicts[operation.index]
