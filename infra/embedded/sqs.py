"""Patches for moto's SQS: the cost of deep queues, long polls, and the rules for receipts.

For each message that moto sends or receives, it computes every attribute of the queue several dozen times, and each
time it counts the messages. It builds datetimes to compare two numbers, copies deeply what it only reads, and scans the
whole queue to delete a message. So the cost grows with the square of the depth. `PATCHES` lists what is replaced.
"""

import copy
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from functools import cache, partial
from typing import Any
from weakref import WeakKeyDictionary

import flask
from moto.core.utils import camelcase_to_underscores
from moto.sqs import models
from moto.sqs.constants import MAXIMUM_MESSAGE_LENGTH
from moto.sqs.exceptions import (
    BatchRequestTooLong,
    InvalidParameterValue,
    ReceiptHandleIsInvalid,
    SQSException,
)
from moto.sqs.models import Message, Queue, SQSBackend

from penstock.infra.embedded.long_poll import EMPTY_RECEIVE, EmptyReceive

_moto_receive_message = SQSBackend.receive_message
_moto_send_message_batch = SQSBackend.send_message_batch
_moto_validate_message = SQSBackend._validate_message  # noqa: SLF001 - moto calls it through this name
_moto_change_message_visibility = SQSBackend.change_message_visibility

_issued_receipts: WeakKeyDictionary[Queue, set[str]] = WeakKeyDictionary()


def _unix_time_millis() -> float:
    return time.time() * 1000


def _receipt_handle() -> str:
    """Return a receipt as random and about as long as moto's. moto draws its 185 letters one by one."""
    return secrets.token_urlsafe(138)


# --- The messages of a queue


def _ready_messages(queue: Queue) -> Iterator[Message]:
    """Yield the messages that may be received now, the oldest first. A receive stops when it has enough.

    Messages in flight are among the oldest. So the cost depends on the number of messages in flight, not on the depth.
    """
    now = _unix_time_millis()
    return (m for m in queue._messages if m.visible_at < now and m.delayed_until <= now)  # noqa: SLF001


def _count_ready(queue: Queue) -> int:
    return sum(1 for _ in _ready_messages(queue))


def _count_delayed(queue: Queue) -> int:
    now = _unix_time_millis()
    return sum(message.delayed_until > now for message in queue._messages)  # noqa: SLF001


def _count_in_flight(queue: Queue) -> int:
    now = _unix_time_millis()
    return sum(message.visible_at >= now for message in queue._messages)  # noqa: SLF001


class _Attributes(Mapping[str, Any]):
    """The attributes of a queue, each computed when it is read.

    moto computes all attributes, and counts the queue three times, to read one of them for each message sent.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue: Any = queue

    def _names(self) -> list[str]:
        queue = self._queue
        return [
            *queue.BASE_ATTRIBUTES,
            *(queue.FIFO_ATTRIBUTES if queue.fifo_queue else ()),
            *(queue.KMS_ATTRIBUTES if queue.kms_master_key_id else ()),
        ]

    def __getitem__(self, name: str) -> Any:
        if name not in self._names():
            raise KeyError(name)
        value = getattr(self._queue, _field_name(name))
        if name == "RedrivePolicy":
            return json.dumps(value) if value else None
        return str(value).lower() if isinstance(value, bool) else value

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())


@cache
def _field_name(attribute: str) -> str:
    name: str = camelcase_to_underscores(attribute)
    return name


# --- Sending


def _validate_message(backend: SQSBackend, queue: Any, message_body: str, *rest: Any, **named: Any) -> None:
    """Limit the size of a message in bytes, as AWS does. moto counts characters."""
    _moto_validate_message(backend, queue, message_body, *rest, **named)
    if len(message_body.encode()) > queue.maximum_message_size:
        raise InvalidParameterValue(
            "One or more parameters are invalid. "
            f"Reason: Message must be shorter than {queue.maximum_message_size} bytes."
        )


def _send_message_batch(
    backend: SQSBackend, queue_name: str, entries: dict[str, dict[str, Any]]
) -> tuple[list[Message], list[dict[str, Any]]]:
    total_bytes = sum(len(entry["MessageBody"].encode()) for entry in entries.values())
    if total_bytes > MAXIMUM_MESSAGE_LENGTH:
        raise BatchRequestTooLong(total_bytes)
    return _moto_send_message_batch(backend, queue_name, entries)


# --- Receiving


def _receive_message(
    backend: SQSBackend, queue_name: str, count: int, wait_seconds: int, *rest: Any, **named: Any
) -> list[Message]:
    """Receive without waiting, since a wait would block the host's event loop. Leave an EmptyReceive for the host."""
    messages = _moto_receive_message(backend, queue_name, count, 0, *rest, **named)
    if messages:
        receipts = _issued_receipts.setdefault(backend.get_queue(queue_name), set())
        receipts.update(str(message.receipt_handle) for message in messages)
    elif wait_seconds:
        check = partial(_is_worth_repeating, backend, queue_name)
        flask.request.environ[EMPTY_RECEIVE] = EmptyReceive(wait_seconds, check)
    return messages


def _is_worth_repeating(backend: SQSBackend, queue_name: str) -> bool:
    """Return True if a message is ready, or if the queue was deleted, since moto then returns an error."""
    queue = backend.queues.get(queue_name)
    return queue is None or any(True for _ in queue.messages)


def _is_retained(backend: SQSBackend, queue_name: str, message: Any) -> bool:
    """Read only the retention period. moto computes all attributes of the queue for each message that it returns."""
    queue: Any = backend.get_queue(queue_name)
    return bool(message.sent_timestamp / 1000 + queue.message_retention_period > time.time())


# --- Receipts


def _is_issued(queue: Queue, receipt_handle: str) -> bool:
    return receipt_handle in _issued_receipts.get(queue, ())


def _delete_message(queue: Queue, receipt_handle: str) -> None:
    """Delete a message only with its last receipt, as on AWS. With an older one succeed and delete nothing.

    moto deletes with any receipt that the message ever had, even if another consumer has received it since.
    """
    for position, message in enumerate(queue._messages):  # noqa: SLF001 - messages in flight come first, so this is quick
        if message.receipt_handle == receipt_handle:
            del queue._messages[position]  # noqa: SLF001
            queue.pending_messages.discard(message)
            return
    if not _is_issued(queue, receipt_handle):
        raise ReceiptHandleIsInvalid


def _change_message_visibility(
    backend: SQSBackend, queue_name: str, receipt_handle: str, visibility_timeout: int
) -> None:
    """Change the visibility only with the last receipt and only while the message is in flight, as on AWS.

    moto accepts any receipt that the message ever had, so a consumer could extend a lease that it has lost.
    """
    queue = backend.get_queue(queue_name)
    if not _is_issued(queue, receipt_handle):
        raise ReceiptHandleIsInvalid
    in_flight = (m for m in queue._messages if m.receipt_handle == receipt_handle and not m.visible)  # noqa: SLF001
    if next(in_flight, None) is None:
        raise InvalidParameterValue(
            f"Value {receipt_handle} for parameter ReceiptHandle is invalid. "
            "Reason: Message does not exist or is not available for visibility timeout change."
        )
    _moto_change_message_visibility(backend, queue_name, receipt_handle, visibility_timeout)


def _change_message_visibility_batch(
    backend: SQSBackend, queue_name: str, entries: list[dict[str, Any]]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Report the failure of an entry without failing the others. In moto it fails all of them in most cases."""
    changed, failed = [], []
    for entry in entries:
        try:
            backend.change_message_visibility(queue_name, entry["ReceiptHandle"], entry["VisibilityTimeout"])
        except SQSException as error:
            failed.append({"Id": entry["Id"], "SenderFault": True, "Code": error.code, "Message": error.message})
        else:
            changed.append(entry["Id"])
    return changed, failed


PATCHES: tuple[tuple[object, str, object], ...] = (
    (models, "unix_time", time.time),
    (models, "unix_time_millis", _unix_time_millis),
    (models, "generate_receipt_handle", _receipt_handle),
    (models, "deepcopy", copy.copy),  # moto replaces the copied objects completely and never changes their members
    (Queue, "messages", property(_ready_messages)),
    (Queue, "approximate_number_of_messages", property(_count_ready)),
    (Queue, "approximate_number_of_messages_delayed", property(_count_delayed)),
    (Queue, "approximate_number_of_messages_not_visible", property(_count_in_flight)),
    (Queue, "attributes", property(_Attributes)),
    (Queue, "delete_message", _delete_message),
    (SQSBackend, "_validate_message", _validate_message),
    (SQSBackend, "send_message_batch", _send_message_batch),
    (SQSBackend, "receive_message", _receive_message),
    (SQSBackend, "is_message_valid_based_on_retention_period", _is_retained),
    (SQSBackend, "change_message_visibility", _change_message_visibility),
    (SQSBackend, "change_message_visibility_batch", _change_message_visibility_batch),
)
