"""Uploaded files: what clients upload, and the checks of batches that a consumer plans from a file.

A file is written in one of three ways:

    ids       NDJSON, and each operation has its id
    some ids  NDJSON, and only the first operations have ids. The id of another one is its index
    rows      CSV. The id of an operation is the number of its line, and each has a key

A file is invalid if one of its lines is, or if two operations have the same id or the same key. A client may replace a
file after it has made a batch of it. Then the batch runs as it was uploaded first, or not at all.
"""

import csv
import io
import json
import random
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from penstock.bucket import upload_key
from penstock.chunk import Chunk
from penstock.message import decode_plan_request
from penstock.planning import PlannedFile
from tests.simulation.expressions import Item
from tests.simulation.truth import Plan, Submission, Truth

if TYPE_CHECKING:
    from tests.simulation.promises import BatchFacts

Check = Callable[[bool, int, str], None]
FORMS = ("ids", "some ids", "rows")
FAULTS = ("no json\n", '{"method":"POST","path":"/nowhere"}\n', None)  # None: an id or a key again
COLUMNS = ("toy", "key", "who", *Plan.model_fields)
TEMPLATE = {"method": "POST", "path": "/{toy}", "key": "key"}


def upload_id_of(label: str) -> str:
    return label.upper().rjust(26, "0")


def key_of(label: str) -> str:
    """Return where the file of a submission is in the bucket."""
    return upload_key("default", upload_id_of(label))


def content_of(submission: Submission, operations: list[dict[str, Any]], chance: random.Random) -> bytes:
    """Return the file of these operations, perhaps with an invalid line, and with a few blank ones.

    Each body says `who` its operation is, also if the operation has no id.
    """
    for operation in operations:
        operation["body"]["who"] = operation["id"]
    lines = _rows(operations) if submission.form == "rows" else _lines(submission, operations, chance)
    first = 1 if submission.form == "rows" else 0  # the header stays in front
    if submission.fault is not None:
        lines.insert(chance.randint(first, len(lines)), FAULTS[submission.fault] or _again(lines[first:]))
    for _ in range(chance.randint(0, 2)):
        lines.insert(chance.randint(first, len(lines)), chance.choice(["\n", "  \n"]))
    if submission.form == "rows":
        submission.lines = [number for number, line in enumerate(lines, 1) if line.strip()][first:]
    return "".join(lines).encode().removesuffix(b"\n" if chance.random() < 0.5 else b"")


def _lines(submission: Submission, operations: list[dict[str, Any]], chance: random.Random) -> list[str]:
    named = chance.randint(0, len(operations)) if submission.form == "some ids" else len(operations)
    if submission.form == "some ids" and submission.fault is not None:
        operations[0]["id"], named = str(len(operations)), 1  # the index of the last line, once there is one line more
    for operation in operations[named:]:
        del operation["id"]
    return [json.dumps(operation) + "\n" for operation in operations]


def _again(lines: list[str]) -> str:
    """Return the line that makes two operations have the same id, or the same key, once it is added."""
    names_the_last = f'"id": "{len(lines)}"' in lines[0]
    return lines[-1] if names_the_last else lines[0]


def _rows(operations: list[dict[str, Any]]) -> list[str]:
    rows = io.StringIO()
    writer = csv.DictWriter(rows, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for operation in operations:
        key = operation.get("key", f"key of {operation['id']}")
        writer.writerow({"toy": operation["path"][1:], "key": key, **operation["body"]})
    return rows.getvalue().splitlines(keepends=True)


def _who(operation: Any) -> str:
    return str(operation.body["who"])


class UploadChecks:
    """Checks batches that a consumer plans, from the items of the table and the messages alone."""

    def __init__(self, truth: Truth, check: Check) -> None:
        self._truth = truth
        self._check = check
        self._sent: defaultdict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)  # by batch: the ids in each chunk

    def on_file(self, batch_id: str, after: Item) -> None:
        """Learn whose batch it is."""
        key = PlannedFile.decode(after["file"]["B"]).stored.key
        self._truth.labels[batch_id] = next(one.label for one in self._truth.submissions if key_of(one.label) == key)

    def on_plan(self, key: tuple[str, str], before: Item | None, after: Item) -> None:
        """Check that the plan of a group is written once."""
        self._check(before in (None, after), 1, f"the plan {key} was replaced")

    def on_sent(self, facts: "BatchFacts", chunk: Chunk) -> None:
        """Check that a chunk has the same operations whenever it is sent, and that it comes before its acceptance."""
        if not facts.is_planned or "." in chunk.id:
            return
        ids = tuple(_who(operation) for operation in chunk.operations)
        named = tuple(self._truth.named(chunk.batch_id, operation.id) for operation in chunk.operations)
        is_replaced = self._truth.submission_of(chunk.batch_id).is_replaced
        self._check(named == ids or is_replaced, 1, f"the operations {ids} of chunk {chunk.id} have the ids of {named}")
        before = self._sent[chunk.batch_id].setdefault(chunk.id, ids)
        self._check(before == ids, 1, f"chunk {chunk.id} of batch {chunk.batch_id} has {ids}, and had {before}")

    def on_accepted(self, batch_id: str, facts: "BatchFacts", after: Item) -> None:
        """Check that the chunks on the queues have each operation of the file once when the batch is accepted."""
        chunks = self._sent[batch_id]
        ids = [one for number in range(int(after["chunk_count"]["N"])) for one in chunks.get(str(number), ())]
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
