"""All log events with their meanings, and the format of the log.

Each line is one event with fields. Every line about a chunk has the fields `batch_id`, `chunk_id` and `attempt`. On a
terminal a line is text; in a pipe or a file it is a JSON object.
"""

import logging
import sys
from collections.abc import Callable
from enum import StrEnum
from io import StringIO
from typing import Any, Literal, TextIO

import structlog

from penstock.api_key import Redaction
from penstock.settings import Settings


class Event(StrEnum):
    """The events of both programs, each with its meaning. The values are stable, because alarms may search for them."""

    # Events of the service.
    SERVICE_READY = "service ready"  # The front end listens.
    SERVICE_STOPPED = "service stopped"  # The front end has stopped after a signal.
    BATCH_ACCEPTED = "batch accepted"  # All chunks are on the queue, and consumers may run them.
    FILE_ACCEPTED = "file accepted"  # A consumer will validate the uploaded file, and accept its batch if it is valid.
    BATCH_ANSWERED = "batch answered"  # A small batch ran synchronously, and the response has its results.
    BATCH_REJECTED = "batch rejected"  # AWS rejected a part of the batch; none of its operations runs.
    BATCH_HANDED_OVER = "batch handed over"  # A small batch timed out; the rest of it runs in the background.
    # A front end seems to have died while it ran this small batch. It goes to the consumers, unless it is atomic.
    BATCH_SUSPECTED = "batch suspected"
    BATCH_RETRIED = "batch retried"  # A client asked to run the failed operations of a batch again.
    EXPORT_DONE = "export done"  # All files of an export are in the bucket.
    EXPORT_INTERRUPTED = "export interrupted"  # It goes on when a client asks for it again.
    DEAD_LETTERS_REDRIVEN = "dead letters redriven"  # Dead letters were moved back to the queues.
    REQUEST_ANSWERED = "request answered"  # One line for each request, unless PENSTOCK_ACCESS_LOG is false.
    AUDIT = "audit"  # Who made a key, cancelled, retried or redrove, and whose request was rejected (401, 403, 429).
    REQUEST_UNREADABLE = "request unreadable"  # The request is not valid HTTP; the response was 400.
    REQUEST_BROKE = "request failed unexpectedly"  # A bug in Penstock; the response was 500.
    AWS_UNAVAILABLE = "aws unavailable"  # AWS did not answer; the response was 503.
    # Events of the consumer.
    CONSUMER_READY = "consumer ready"  # The consumer receives chunks.
    CONSUMER_DRAINING = "consumer draining"  # The consumer stops: it receives no more chunks.
    CONSUMER_STOPPED = "consumer stopped"  # The consumer has stopped after a signal.
    CONSUMER_DIED = "consumer died"  # A consumer process exited unexpectedly; its parent starts it again.
    CONSUMER_HOPELESS = "consumer cannot run"  # A consumer cannot start, or keeps dying without work; all of them stop.
    RECEIVE_FAILED = "receive failed"  # The queue did not answer; logged once until it answers again.
    LIFESPAN_FAILED = "lifespan failed"  # The application's lifespan raised an error when it started or ended.
    LOOP_BLOCKED = "loop blocked"  # A handler blocks the event loop; the process exits.
    CHUNK_DONE = "chunk done"  # The chunk is recorded, counted and acknowledged.
    CHUNK_BROKE = "chunk failed unexpectedly"  # A bug in Penstock; the chunk is delivered again when its lease ends.
    # The batch was never accepted, or has ended already; none of the chunk's operations ran. Or another retry has run
    # some of them; `followed_by` is the chunk with the others.
    CHUNK_DROPPED = "chunk dropped"
    # Its front end did not accept it in time, so none of its operations runs. If that happens often, front ends die or
    # lose their connection to AWS, or the programs use different tables.
    BATCH_ABANDONED = "batch abandoned"
    CHUNKS_GIVEN_BACK = "chunks given back"  # What a consumer held that has died was returned to the queue.
    CHUNK_RELEASED = "chunk released"  # The chunk returned to the queue before any of its operations ran.
    # An earlier delivery ended without a record; a consumer may have died. The chunk is split in half.
    CHUNK_HALVED = "chunk halved"
    # A consumer may have died while it ran this operation. No other suspect runs at the same time.
    OPERATION_SUSPECTED = "operation suspected"
    # The message cannot be run by this program, or its batch is unknown; it is moved to the dead letter queue.
    MESSAGE_SET_ASIDE = "message set aside"
    # The table has a value that this version does not know. The chunk or the batch is left to a newer version.
    NEWER_VERSION = "written by a newer version"
    LEASE_LOST = "lease lost"  # The lease on the chunk ended; another consumer may run the same chunk.
    HEARTBEAT_FAILED = "heartbeat failed"  # The lease on a chunk could not be extended; the next heartbeat retries.
    STEP_REPEATED = "step repeated"  # AWS was unavailable; the step is repeated while the lease lasts.
    # A bucket does not take large results. After half a minute their operations fail.
    RESULTS_NOT_STORED = "results not stored"
    WORKS_AGAIN = "works again"  # What failed works again; `after` is the event that was logged when it failed.
    OPERATION_BROKE = "operation failed unexpectedly"  # A handler raised an exception of its own; with its traceback.
    # A handler does not end although it was cancelled. Nobody waits for it any more, but it keeps its slot.
    HANDLER_LEFT_BEHIND = "handler left behind"
    UPSTREAM_FAILED = "upstream failed"  # An upstream sent no response, or one that cannot become a result.
    LIMIT_BROKE = "limit failed unexpectedly"  # A bug in Penstock; a consumer exits, a front end leases again.
    BULK_CALL_BROKE = "bulk call failed unexpectedly"  # A bulk handler raised; its operations now run one by one.
    DEATH_DENIED = "death denied"  # Another consumer took this one for dead, after AWS was away or it was paused.
    BATCH_ENDED = "batch ended"  # Too many operations failed or consumers died; no further operation starts.
    PLANNING_STARTED = "planning started"  # This consumer reads the uploaded file of a batch, perhaps after another.
    PLANNING_STOPPED = "planning stopped"  # It stops; another consumer goes on, or the batch has ended.
    PLANNING_FAILED = "planning failed"  # The file of the batch is invalid, or could not be read. Nothing of it runs.
    QUEUE_PAUSED = "queue paused"  # An operator has paused a queue. This consumer receives nothing from it.
    QUEUE_RESUMED = "queue resumed"  # This consumer receives from the queue again.
    BATCH_SWEPT = "batch swept"  # The batch was overdue; its unfinished operations count as expired or cancelled.
    SWEEP_FAILED = "sweep failed"  # AWS did not answer the sweeper; the next sweep tries again.
    PACE_UNKNOWN = "handler times unavailable"  # AWS did not return the handler times; older ones are used.
    PACE_NOT_PUBLISHED = (
        "handler times not published"  # AWS did not store the handler times; front ends use older ones.
    )
    BATCH_FINISHED = "batch finished"  # Every operation of the batch has its outcome.
    WEBHOOK_DELIVERED = "webhook delivered"  # A receiver has accepted an event.
    WEBHOOK_REPEATED = "webhook repeated"  # An attempt at a delivery failed; there will be another one.
    # A delivery has no further attempt: the schedule is over, or the receiver answered 410, or its endpoint is gone.
    WEBHOOK_FAILED = "webhook failed"
    WEBHOOKS_FAILED = "webhooks unavailable"  # AWS did not answer; events and deliveries wait until it does.
    # Events of both programs.
    VALIDATOR_BROKE = "validator failed unexpectedly"  # It raised neither ValueError nor AssertionError; 422.
    EXIT_IGNORED = "exit ignored"  # A task of a handler raised SystemExit or KeyboardInterrupt; the program goes on.
    TASKS_LEFT_BEHIND = "tasks left behind"  # Tasks that ignore their cancellation; the program ends without them.
    HANDLER_FIGURES = "handler figures"  # Counts and times of one handler since its last such line, about a minute ago.
    METRICS_STAY = "metrics not published"  # The settings turn metrics for CloudWatch off; the line says why.
    METRICS_UNSENT = "metrics unsent"  # CloudWatch does not accept metrics; logged once until it accepts them again.
    METRICS_SENT_AGAIN = "metrics sent again"  # CloudWatch accepts metrics again.
    FIGURES_UNSENT = "figures unsent"  # The table did not accept the figures for the console; the next minute tries.
    REPORTER_BROKE = "metrics reporting failed unexpectedly"  # A bug in Penstock; the program goes on without metrics.


Log = structlog.typing.FilteringBoundLogger


def get_log() -> Log:
    log: Log = structlog.get_logger()
    return log


def configure_logging(settings: Settings, program: str) -> None:
    """Configure the log of this process. Call it once, before the first event. Every line has the field `program`."""
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
    written.append(_without_keys(settings.redaction))
    structlog.configure(
        processors=[*shared, *written],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(program=program)
    _join_standard_logging(shared, written)


def _without_keys(redaction: Redaction) -> Callable[[Any, str, str], str]:
    """Return a processor that cuts the keys out of a finished line."""
    return lambda _logger, _name, line: redaction.cut(line)


def _for_people(*, has_colors: bool) -> structlog.dev.ConsoleRenderer:
    """Return a renderer for a terminal: local time, program, level, event, then the fields of the line."""
    dim, bold, reset = ("\033[2m", "\033[1m", "\033[0m") if has_colors else ("", "", "")
    levels = structlog.dev.ConsoleRenderer.get_default_level_styles(has_colors)
    column = structlog.dev.KeyValueColumnFormatter
    return structlog.dev.ConsoleRenderer(
        exception_formatter=_write_traceback,
        columns=[
            structlog.dev.Column("timestamp", column(None, dim, reset, str)),
            structlog.dev.Column("program", column(None, "", "", str, width=8)),
            structlog.dev.Column("level", lambda _, level: f"{levels[level]}{level:<7}{reset}"),
            structlog.dev.Column("event", column(None, bold, reset, _printable, width=18)),
            structlog.dev.Column("", column(dim, "", reset, _printable)),
        ],
    )


def _printable(value: object) -> str:
    """Return a value as one line that a terminal only shows. Clients choose what is in paths, ids and errors."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _write_traceback(file: TextIO, exc_info: Any) -> None:
    whole = StringIO()
    structlog.dev.plain_traceback(whole, exc_info)
    file.write("\n".join(map(_printable, whole.getvalue().split("\n"))))


def _tracebacks() -> structlog.processors.ExceptionRenderer:
    """Return a renderer of tracebacks that leaves out local variables, since they contain personal data."""
    return structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def _is_json(log_format: Literal["auto", "json", "text"]) -> bool:
    return log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())


def _join_standard_logging(shared: list[Any], written: list[Any]) -> None:
    """Write the logs of libraries in the same format, from warnings up, since botocore and aiohttp log a lot."""
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
