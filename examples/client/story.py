"""How a program uses Penstock: it submits a batch, watches it, hears of its end, sees what failed, and retries that.

Start the server with `penstock up --app examples.client.app:operations`, then run `python -m examples.client.story`.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from queue import Queue
from threading import Thread
from typing import Any

from penstock.client import Batch, Client, InvalidWebhook, Status, verify_webhook

URL = "http://127.0.0.1:8080"
OUR_PORT = 9000
RETRY_SECONDS = 60
CUSTOMERS = ["Ada", "Bob", "Cem"]
INVOICES = {"Ada": 12.5, "Bob": 80.0, "Cem": 7.25, "Dora": 31.0, "Eve": 5.5}  # two of them are no customers yet


def main(url: str = URL, port: int = OUR_PORT) -> None:
    with Client(url, os.environ.get("PENSTOCK_API_KEY")) as client, receiving(client, port) as events:
        add_customers(client, CUSTOMERS)

        # Submit the invoices. The server calls us when the batch is final.
        invoices = [
            {"id": name, "method": "POST", "path": f"/customers/{name}/invoices", "body": {"amount": amount}}
            for name, amount in INVOICES.items()
        ]
        batch = client.submit(invoices, title="Invoices", callback_url=f"http://127.0.0.1:{port}/hook")

        # Watch it. A program that need not know this waits for the event instead.
        batch.wait(progress=show)
        event = events.get(timeout=60)
        print(f"Event {event['type']}: {event['data']['succeeded']} of {event['data']['total']} succeeded.")

        # See what failed and why, put that right, and run only the failed operations again.
        for group in batch.failures().groups:
            print(f"{group.count} x {group.status} {group.title}, such as: {group.samples[0].detail}")
        missing = [outcome.id for outcome in batch.results(status="failed")]
        add_customers(client, missing)
        print(f"{batch.retry(status=[404])} invoices are sent again.")
        wait_until_all_succeeded(batch)

        for outcome in batch.results():
            print(outcome.result)


def add_customers(client: Client, names: list[str]) -> None:
    batch = client.submit({"method": "PUT", "path": f"/customers/{name}"} for name in names)
    assert batch.wait().all_succeeded


def wait_until_all_succeeded(batch: Batch) -> None:
    """Wait for a retry. Its batch stays final, so `batch.wait` does not wait, and a failure may simply happen again."""
    until = time.monotonic() + RETRY_SECONDS
    while failed := batch.status().failed:
        if time.monotonic() > until:
            raise TimeoutError(f"{failed} invoices still fail after {RETRY_SECONDS} s.")
        time.sleep(0.1)


def show(status: Status) -> None:
    print(f"{status.status}: {status.completed} of {status.total}, {status.failed} failed")


@contextmanager
def receiving(client: Client, port: int) -> Iterator["Queue[dict[str, Any]]"]:
    """Listen for events of our batches. Yields those that are really from the server."""
    secret = client.ask("GET", "v1/webhook_endpoints/callback/secret").document["secret"]
    events = Queue[dict[str, Any]]()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                events.put(verify_webhook(body, self.headers, secret))
            except InvalidWebhook:
                self.send_response(401)
            else:
                self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print no line for each request."""

    with HTTPServer(("127.0.0.1", port), Receiver) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield events
        finally:
            server.shutdown()
            thread.join()


if __name__ == "__main__":
    main()
