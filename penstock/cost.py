"""What the AWS calls for a batch cost: billed units, and their price. Pure.

SQS bills each 64 KB of payload as a request, on send and on receive, and any other call as one request. DynamoDB bills
a write for each KB of the item, and a read for each 4 KB.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

SQS_UNIT_BYTES = 64 * 1024
WRITE_UNIT_BYTES = 1024
READ_UNIT_BYTES = 4096
MILLION = 1_000_000
_OUTCOME_BYTES = 32  # of an operation in a compressed record
_MESSAGES_IN_CALL = 10  # `queue.py` has it, and imports this module
_BATCH_WRITES, _BATCH_READS = 5, 2  # to accept a batch that one call sends, and to finish it


@dataclass(frozen=True, slots=True)
class Units:
    """Billed units, and the number of requests. A request for several batches is split between them."""

    sqs: float = 0
    writes: float = 0
    reads: float = 0
    requests: float = 0

    def __add__(self, other: "Units") -> "Units":
        return Units(
            self.sqs + other.sqs,
            self.writes + other.writes,
            self.reads + other.reads,
            self.requests + other.requests,
        )

    def times(self, factor: float) -> "Units":
        return Units(self.sqs * factor, self.writes * factor, self.reads * factor, self.requests * factor)


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices in USD for a million units: those of us-east-1, on demand, in 2026.

    They are from aws.amazon.com/sqs/pricing (standard queues) and aws.amazon.com/dynamodb/pricing/on-demand.
    """

    sqs: float = 0.40
    writes: float = 0.625
    reads: float = 0.125

    def usd(self, units: Units) -> float:
        return (units.sqs * self.sqs + units.writes * self.writes + units.reads * self.reads) / MILLION


@dataclass(frozen=True, slots=True)
class Cost:
    """What the AWS calls for a batch have cost, as programs have reported it until `as_of`."""

    usd: float
    requests: int
    as_of: float


def estimate_usd(operations: int, message_bytes: Sequence[int]) -> float:
    """Return about what a batch with these operations and messages will cost.

    It is assumed that results have about a hundred bytes, and that nothing is retried. A batch without messages, which
    is answered immediately, costs nothing.
    """
    chunks = len(message_bytes)
    if chunks == 0:
        return 0.0
    received = sum(map(sqs_units, message_bytes))
    sent = max(ceil(chunks / _MESSAGES_IN_CALL), ceil(sum(message_bytes) / SQS_UNIT_BYTES))
    records = chunks * write_units(_OUTCOME_BYTES * operations // chunks)
    writes = (
        _BATCH_WRITES + (chunks > _MESSAGES_IN_CALL) + records + chunks
    )  # a larger one is written before it is sent
    units = Units(sqs=sent + received + chunks, writes=writes, reads=_BATCH_READS + chunks)
    return _rounded(Prices().usd(units))


def cost_of(reported: Iterable[Units], times: Iterable[float | None]) -> Cost | None:
    """Return the cost of a batch from its reports. The last of `times` is that of the last report.

    Return None if nothing was reported: an earlier version accepted the batch.
    """
    units, known_times = sum_units(reported), [one for one in times if one is not None]
    if units.requests <= 0 or not known_times:
        return None
    return Cost(_rounded(Prices().usd(units)), round(units.requests), max(known_times))


def _rounded(usd: float) -> float:
    return float(f"{usd:.3g}")


def sum_units(units: Iterable[Units]) -> Units:
    return sum(units, start=Units())


def sqs_units(payload_bytes: int) -> int:
    """Return the units of a call that sends or receives messages."""
    return max(1, ceil(payload_bytes / SQS_UNIT_BYTES))


def write_units(item_bytes: int) -> int:
    return max(1, ceil(item_bytes / WRITE_UNIT_BYTES))


def read_units(item_bytes: int) -> int:
    """Return the units of a strongly consistent read. A missing item costs as much as the smallest one."""
    return max(1, ceil(item_bytes / READ_UNIT_BYTES))
