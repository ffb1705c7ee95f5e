"""A process of the pool: `python -m penstock.running.cpu_worker`, started by `cpu_pool.py` and by nobody else.

It reads requests from its standard input and answers each on its standard output, until the input ends. It ends with
its parent, also in the middle of an operation.
"""

import argparse
import os
import pickle
import signal
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import structlog

from penstock.context import Context, NoTransaction
from penstock.errors import PenstockError
from penstock.outcome import Verdict, succeeded
from penstock.route import InvalidOperation, Route, build_route
from penstock.running.cpu_pool import HEADER_BYTES, Job, Load
from penstock.running.verdict import as_json, judge
from penstock.settings import read_settings
from penstock.signals import end_with_parent
from penstock.telemetry import configure_logging

# So that the event loop, which needs little, need not wait for what takes every core it can get.
NICENESS = 10


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m penstock.running.cpu_worker")
    parser.add_argument("--exit-with-parent", type=int, required=True, metavar="PID")
    arguments = parser.parse_args()
    end_with_parent(arguments.exit_with_parent)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # sent to all there is, they are for the parent
    os.nice(NICENESS)
    requests, answers = _take_pipes()
    _configure_logging()
    serve(requests, answers)


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    routes: dict[str, Route] = {}
    while (request := _read(requests)) is not None:
        answer = _load(routes, request) if isinstance(request, Load) else _perform(routes[request.route], request)
        content = pickle.dumps(answer)
        answers.write(len(content).to_bytes(HEADER_BYTES) + content)
        answers.flush()


def _load(routes: dict[str, Route], load: Load) -> str | None:
    """What stood in the way, if anything did."""
    sys.path += [path for path in load.paths if path not in sys.path]
    try:
        handler: Callable[..., Any] = pickle.loads(load.handler)  # noqa: S301 - from our parent
        route = build_route(handler, load.method, load.path, load.policy)
    except Exception as error:  # noqa: BLE001 - whatever importing it comes to, the parent is told
        return f"{type(error).__name__}: {error}"
    routes[route.name] = route
    return None


def _perform(route: Route, job: Job) -> Verdict | InvalidOperation:
    """The operation is validated here and not by the parent: so its loop has no part in that, nor is a model sent."""
    transaction = NoTransaction(route.name) if job.has_transaction else None
    context: Context[Any] = Context(job.operation.id, job.batch_id, job.attempt, job.key, transaction, job.headers)
    with structlog.contextvars.bound_contextvars(**job.fields):
        try:
            arguments = route.arguments(job.operation.path, job.operation.body)
            return succeeded(job.operation, route.policy.status, as_json(route, route.call(arguments, context)))
        except InvalidOperation as error:
            return error
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises becomes its operation's outcome
            return judge(error, job.operation, route)


def _read(requests: BinaryIO) -> Load | Job | None:
    header = requests.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return None
    request: Load | Job = pickle.loads(requests.read(int.from_bytes(header)))  # noqa: S301 - from our parent
    return request


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The pipes to the parent are ours alone: what a handler prints goes to standard error, and it reads nothing."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


def _configure_logging() -> None:
    try:
        configure_logging(read_settings(), "cpu worker")
    except PenstockError as error:
        sys.exit(f"penstock: {error}")


if __name__ == "__main__":
    main()
