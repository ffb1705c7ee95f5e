"""Every log event by name, with its meaning; and how lines are written.

A line is one event with fields; `batch_id`, `chunk_id` and `attempt` are on every line about a chunk. In a pipe or file
a line is a JSON object, on a terminal it is text.
"""

import logging
import sys
from enum import StrEnum
from typing import Any, Literal

import structlog

from penstock.settings import Settings


class Event(StrEnum):
    # service
    SERVICE_READY = "service ready"  # it listens
    SERVICE_STOPPED = "service stopped"
    BATCH_ACCEPTED = "batch accepted"  # every chunk is on the queue; it runs from here on
    BATCH_ANSWERED = "batch answered"  # a small batch, run at once
    BATCH_REFUSED = "batch refused"  # nothing of it runs
    BATCH_HANDED_OVER = "batch handed over"  # it outlived its time; what had not ended runs in the background
    BATCH_RETRIED = "batch retried"  # its failed operations run again
    DEAD_LETTERS_REDRIVEN = "dead letters redriven"
    REQUEST_BROKE = "request broke"  # a fault of ours, answered 500
    AWS_UNAVAILABLE = "aws unavailable"  # answered 503
    # consumer
    CONSUMER_READY = "consumer ready"  # it receives
    CONSUMER_DRAINING = "consumer draining"  # it takes nothing new
    CONSUMER_STOPPED = "consumer stopped"
    CONSUMER_DIED = "consumer died"  # its parent restarts it
    CONSUMER_HOPELESS = "consumer cannot run"  # it cannot start, or keeps dying without work: all consumers stop
    RECEIVE_FAILED = "receive failed"  # not an empty queue: the queue did not answer
    LOOP_BLOCKED = "loop blocked"  # a handler blocks the event loop: the process is ended
    CHUNK_DONE = "chunk done"  # recorded, counted, acknowledged
    CHUNK_BROKE = "chunk broke"  # left to its lease: it will be delivered again
    CHUNK_DROPPED = "chunk dropped"  # of an abandoned or forgotten batch; nothing of it ran
    CHUNK_RELEASED = "chunk released"  # given back unstarted
    OPERATION_SUSPECTED = "operation suspected"  # consumers died while it may have been running: it runs alone now
    CHUNK_HALVED = "chunk halved"  # an earlier delivery died with it
    MESSAGE_SET_ASIDE = "message set aside"  # not a chunk of ours: put in the dead letter queue as it is
    LEASE_LOST = "lease lost"  # another consumer may work on the same chunk
    HEARTBEAT_FAILED = "heartbeat failed"
    STEP_REPEATED = "step repeated"  # AWS was unavailable; the step is tried again while the lease is held
    OPERATION_BROKE = "operation broke"  # a handler raised what it does not declare; with its traceback
    BULK_CALL_BROKE = "bulk call broke"  # a bulk handler raised: its operations are tried singly
    BATCH_ENDED = "batch ended"  # nothing more of it begins: too much failed, or it killed too many consumers
    BATCH_SWEPT = "batch swept"  # past its time; what was open of it is counted as expired or cancelled
    SWEEP_FAILED = "sweep failed"
    PACE_UNKNOWN = "pace unknown"  # how long operations take could not be asked; chunks are cut by what was known
    PACE_NOT_PUBLISHED = "pace not published"  # how long operations take; front ends plan by what they knew
    BATCH_FINISHED = "batch finished"  # every operation has its outcome
    # both
    HANDLER_FIGURES = (
        "handler figures"  # what a handler has done and taken since its last such line, about a minute ago
    )
    METRICS_STAY = "metrics stay"  # nothing is published to CloudWatch, and why
    METRICS_UNSENT = "metrics unsent"  # CloudWatch is out of reach; said once, until it takes them again
    METRICS_SENT_AGAIN = "metrics sent again"
    REPORTER_BROKE = "reporter broke"  # a fault of ours; the program goes on without figures in log and CloudWatch


Log = structlog.typing.FilteringBoundLogger


def get_log() -> Log:
    log: Log = structlog.get_logger()
    return log


def configure_logging(settings: Settings, program: str) -> None:
    """Call once, before anything is logged. `program` is on every line."""
    as_json = _is_json(settings.log_format)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True)
        if as_json
        else structlog.processors.TimeStamper("%H:%M:%S", utc=False),
    ]
    written: list[Any] = (
        [_tracebacks(), structlog.processors.JSONRenderer()]
        if as_json
        else [_for_people(has_colors=sys.stderr.isatty())]
    )
    structlog.configure(
        processors=[*shared, *written],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(program=program)
    _join_standard_logging(shared, written)


def _for_people(*, has_colors: bool) -> structlog.dev.ConsoleRenderer:
    """Return a renderer for a terminal: local time, program, level, event, then the fields of the line."""
    dim, bold, reset = ("\033[2m", "\033[1m", "\033[0m") if has_colors else ("", "", "")
    levels = structlog.dev.ConsoleRenderer.get_default_level_styles(has_colors)
    column = structlog.dev.KeyValueColumnFormatter
    return structlog.dev.ConsoleRenderer(
        exception_formatter=structlog.dev.plain_traceback,
        columns=[
            structlog.dev.Column("timestamp", column(None, dim, reset, str)),
            structlog.dev.Column("program", column(None, "", "", str, width=8)),
            structlog.dev.Column("level", lambda _, level: f"{levels[level]}{level:<7}{reset}"),
            structlog.dev.Column("event", column(None, bold, reset, str, width=18)),
            structlog.dev.Column("", column(dim, "", reset, str)),
        ],
    )


def _tracebacks() -> structlog.processors.ExceptionRenderer:
    """Without the values of variables: those are people's data."""
    return structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def _is_json(log_format: Literal["auto", "json", "text"]) -> bool:
    return log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())


def _join_standard_logging(shared: list[Any], written: list[Any]) -> None:
    """What libraries log comes out as the same lines; from warnings up, since botocore and aiohttp are talkative."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *written],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
