"""What an application imports, and nothing else."""

from penstock.context import Context, Reject, Retry
from penstock.operations import Operations

__all__ = ["Context", "Operations", "Reject", "Retry"]
