"""A process of the pool: `python -m penstock.running.cpu_worker`. Only `cpu_pool.py` starts it.

It reads requests from standard input and writes a reply to each to standard output, until the input ends. It ends
together with its parent, even in the middle of an operation.
"""

import argparse
import os
import pickle
import signal
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import structlog

from penstock.application import importing_from_working_directory
from penstock.context import Context, NoState, NoTransaction
from penstock.errors import PenstockError
from penstock.outcome import Verdict, succeeded
from penstock.process.signals import end_with_parent
from penstock.route import InvalidOperation, Route, build_route
from penstock.running.cpu_pool import HEADER_BYTES, ImportRequest, Job
from penstock.running.verdict import as_json, judge
from penstock.settings import Settings, read_settings
from penstock.telemetry import configure_logging

# The event loop needs little CPU time, and must not wait for handlers that use every core.
NICENESS = 10


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m penstock.running.cpu_worker")
    parser.add_argument("--exit-with-parent", type=int, required=True, metavar="PID")
    arguments = parser.parse_args()
    end_with_parent(arguments.exit_with_parent)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent gets them too, and decides
    os.nice(NICENESS)
    requests, answers = _take_pipes()
    settings = _read_settings()
    configure_logging(settings, "cpu worker")
    with importing_from_working_directory(settings.app or ""):
        serve(requests, answers, has_bucket=settings.bucket is not None)


def serve(requests: BinaryIO, answers: BinaryIO, *, has_bucket: bool = False) -> None:
    routes: dict[str, Route] = {}
    while (request := _read(requests)) is not None:
        answer = (
            _import_handler(routes, request, has_bucket=has_bucket)
            if isinstance(request, ImportRequest)
            else _perform(routes[request.route], request)
        )
        content = pickle.dumps(answer)
        answers.write(len(content).to_bytes(HEADER_BYTES) + content)
        answers.flush()


def _import_handler(routes: dict[str, Route], request: ImportRequest, *, has_bucket: bool) -> str | None:
    """Import a handler. Return the error, or None if there was none."""
    sys.path += [path for path in request.paths if path not in sys.path]
    try:
        handler: Callable[..., Any] = pickle.loads(request.handler)  # noqa: S301 - from our parent
        route = build_route(handler, request.method, request.path, request.policy)
    except Exception as error:  # noqa: BLE001 - the parent reports every error of the import
        return f"{type(error).__name__}: {error}"
    route.surroundings.has_bucket = has_bucket
    routes[route.name] = route
    return None


def _perform(route: Route, job: Job) -> Verdict | InvalidOperation:
    """Validate and perform an operation. Validation runs here to keep the parent's event loop free."""
    transaction = NoTransaction(route.name) if job.has_transaction else None
    state = NoState(route.name) if job.has_state else None
    operation = job.operation
    context: Context[Any] = Context(
        operation.id, job.batch_id, job.attempt, job.key, transaction, job.headers, job.tenant, state
    )
    with structlog.contextvars.bound_contextvars(**job.fields):
        try:
            arguments = route.arguments(operation.path, operation.body, shows_errors=job.error_id is None)
            return succeeded(operation, route.policy.status, as_json(route, route.call(arguments, context)))
        except InvalidOperation as error:
            return error
        except BaseException as error:  # noqa: BLE001 - everything that a handler raises becomes an outcome
            return judge(error, operation, route, job.error_id)


def _read(requests: BinaryIO) -> ImportRequest | Job | None:
    header = requests.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return None
    request: ImportRequest | Job = pickle.loads(requests.read(int.from_bytes(header)))  # noqa: S301 - from our parent
    return request


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Keep the pipes to the parent for ourselves: a handler prints to standard error, and reads an empty input."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


def _read_settings() -> Settings:
    try:
        return read_settings()
    except PenstockError as error:
        sys.exit(f"penstock: {error}")


if __name__ == "__main__":
    main()
