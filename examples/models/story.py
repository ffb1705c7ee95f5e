"""A batch of requests to a model, sent with OpenAI's own library. The server of the model allows few of them a second.

Start both servers as README.md says, then run `python -m examples.models.story`.
"""

import json
import os
import time
from typing import Final

from openai import OpenAI

from examples.models.server import MODEL

URL = "http://127.0.0.1:8080"
ENDPOINT: Final = "/v1/chat/completions"
REQUESTS = 500
FINAL = {"completed", "failed", "expired", "cancelled"}
POLL_SECONDS = 0.5


def main(url: str = URL, requests: int = REQUESTS) -> None:
    client = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("PENSTOCK_API_KEY", "none"))

    file = client.files.create(file=("questions.jsonl", input_lines(requests)), purpose="batch")
    print(f"The file has {file.bytes:,} bytes and is {file.status}.")

    batch = client.batches.create(
        input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h", metadata={"title": "Questions"}
    )
    while batch.status not in FINAL:
        time.sleep(POLL_SECONDS)
        batch = client.batches.retrieve(batch.id)
    counts = batch.request_counts
    assert counts is not None
    print(f"The batch is {batch.status}: {counts.completed} of {counts.total} requests are answered.")
    print(f"{counts.failed} have failed.")

    assert batch.output_file_id is not None
    for number, line in enumerate(client.files.content(batch.output_file_id).iter_lines()):
        outcome = json.loads(line)
        if number < 3:
            print(f"{outcome['custom_id']}: {outcome['response']['body']['choices'][0]['message']['content']}")


def input_lines(requests: int) -> bytes:
    """Return the input file. In a program with more requests, write it to the disk, and pass the open file."""
    questions = (" ".join(["Why", *["oh"] * (number % 3), "why?"]) for number in range(requests))
    return b"".join(
        json.dumps(
            {
                "custom_id": f"question-{number}",
                "method": "POST",
                "url": ENDPOINT,
                "body": {"model": MODEL, "messages": [{"role": "user", "content": question}]},
            }
        ).encode()
        + b"\n"
        for number, question in enumerate(questions)
    )


if __name__ == "__main__":
    main()
