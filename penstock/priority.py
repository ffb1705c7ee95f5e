"""How urgent a batch is: each priority has a queue of its own, and a share of the slots."""

from enum import StrEnum


class Priority(StrEnum):
    """The most urgent first."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


DEFAULT_WEIGHTS = {Priority.HIGH: 16, Priority.NORMAL: 4, Priority.LOW: 1}
