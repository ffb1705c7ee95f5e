"""Uploaded files: what clients upload, and the checks of batches that a consumer plans from a file.

A file is invalid if one of its lines is, or if two operations have the same id. A client may replace a file after
it has made a batch of it. Then the batch runs as it was uploaded first, or not at all.
"""

import json
import random
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from penstock.bucket import upload_key
from penstock.chunk import Chunk
from penstock.message import decode_plan_request
from tests.simulation.expressions import Item
from tests.simulation.truth import Truth

if TYPE_CHECKING:
    from tests.simulation.promises import BatchFacts

Check = Callable[[bool, int, str], None]
FAULTS = ("no json\n", '{"method":"POST","path":"/nowhere"}\n', None)  # None: the id of the first operation again


def upload_id_of(label: str) -> str:
    return label.upper().rjust(26, "0")


def key_of(label: str) -> str:
    """Return where the file of a submission is in the bucket."""
    return upload_key("default", upload_id_of(label))


def content_of(operations: list[dict[str, Any]], fault: int | None, chance: random.Random) -> bytes:
    """Return the file of these operations, perhaps with an invalid line, and with a few blank ones."""
    lines = [json.dumps(operation) + "\n" for operation in operations]
    if fault is not None:
        lines.insert(chance.randint(0, len(lines)), FAULTS[fault] or lines[0])
    for _ in range(chance.randint(0, 2)):
        lines.insert(chance.randint(0, len(lines)), chance.choice(["\n", "  \n"]))
    return "".join(lines).encode().removesuffix(b"\n" if chance.random() < 0.5 else b"")


class UploadChecks:
    """Checks batches that a consumer plans, from the items of the table and the messages alone."""

    def __init__(self, truth: Truth, check: Check) -> None:
        self._truth = truth
        self._check = check
        self._sent: defaultdict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)  # by batch: the ids in each chunk

    def on_plan(self, key: tuple[str, str], before: Item | None, after: Item) -> None:
        """Check that the plan of a group is written once."""
        self._check(before in (None, after), 1, f"the plan {key} was replaced")

    def on_sent(self, facts: "BatchFacts", chunk: Chunk) -> None:
        """Check that a chunk has the same operations whenever it is sent, and that it comes before its acceptance."""
        if not facts.is_planned or "." in chunk.id:
            return
        ids = tuple(operation.id for operation in chunk.operations)
        before = self._sent[chunk.batch_id].setdefault(chunk.id, ids)
        self._check(before == ids, 1, f"chunk {chunk.id} of batch {chunk.batch_id} has {ids}, and had {before}")

    def on_accepted(self, batch_id: str, facts: "BatchFacts", after: Item) -> None:
        """Check that the chunks on the queues have each operation of the file once when the batch is accepted."""
        chunks = self._sent[batch_id]
        ids = [one for number in range(int(after["chunk_count"]["N"])) for one in chunks.get(str(number), ())]
        if batch_id not in self._truth.labels:
            self._check(False, 1, f"batch {batch_id} was accepted without the ids of its operations")
            return
        label = self._truth.labels[batch_id]
        wanted = [f"{label}-{index}" for index in range(len(self._truth.submission_of(batch_id).toys))]
        self._check(ids == wanted, 1, f"batch {batch_id} was accepted with {ids}, and its file has {wanted}")
        self._check(facts.total == len(wanted), 1, f"batch {batch_id} was accepted with the total {facts.total}")

    def check_unaccepted(self, batch_id: str, facts: "BatchFacts") -> None:
        """Check that there is a reason for a planned batch that was never accepted."""
        submissions = [one for one in self._truth.submissions if batch_id in one.batch_ids]
        for submission in submissions:
            match facts.state:
                case "failed":
                    is_right = submission.is_invalid or submission.is_replaced
                case "cancelled":
                    is_right = submission.is_cancelled
                case _:
                    is_right = facts.state == "expired" and submission.deadline_seconds is not None
            self._check(is_right, 2, f"batch {batch_id} of {submission.label} is {facts.state} without a reason")

    def check_accepted(self, batch_id: str) -> None:
        submission = self._truth.submission_of(batch_id)
        self._check(not submission.is_invalid, 1, f"batch {batch_id} was accepted, and its file is invalid")


def is_plan_request(body: str) -> bool:
    return decode_plan_request(body) is not None
