"""The main job with the generated client: submit, poll, read all results, read the failures."""

import json
import sys
import time
from typing import Any

from bulk_client import Client
from bulk_client.api.batches import get_failures, get_results, get_status
from bulk_client.api.submit import submit_batch
from bulk_client.models import Accepted, BatchRequest, FailedOutcome, Failures, Page, Status, SucceededOutcome

url, job = sys.argv[1:]
client = Client(base_url=url, headers={"Accept": "application/json"})


def found(answer: Any, kind: type[Any]) -> Any:
    assert isinstance(answer, kind), answer
    return answer


def wait(batch_id: str) -> Any:
    while (status := found(get_status.sync(batch_id, client=client), Status)).finished_at is None:
        time.sleep(0.1)
    return status


def results(batch_id: str) -> list[Any]:
    page = found(get_results.sync(batch_id, client=client, limit=50), Page)
    outcomes = list(page.results)
    while page.next_cursor is not None:
        page = found(get_results.sync(batch_id, client=client, limit=50, cursor=page.next_cursor), Page)
        outcomes += page.results
    return outcomes


def main() -> None:
    request = BatchRequest.from_dict({"operations": json.loads(job)})
    accepted = found(submit_batch.sync(client=client, body=request, idempotency_key="python"), Accepted)
    status, outcomes = wait(accepted.batch_id), results(accepted.batch_id)
    failures = found(get_failures.sync(accepted.batch_id, client=client), Failures)
    first = found(outcomes[0], SucceededOutcome)
    done = {
        "status": status.status.value,
        "failed": [outcome.id for outcome in outcomes if isinstance(outcome, FailedOutcome)],
        "total": len(outcomes),
        "email": first.result.email,
        "causes": [[group.status, group.count] for group in failures.groups],
    }
    sys.stdout.write(json.dumps(done))


main()
