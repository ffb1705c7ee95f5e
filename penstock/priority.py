"""The priority of a batch. Each priority has its own queue and a share of the slots."""

from enum import StrEnum


class Priority(StrEnum):
    """The priorities, the most urgent first."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


DEFAULT_WEIGHTS = {Priority.HIGH: 16, Priority.NORMAL: 4, Priority.LOW: 1}
