"""Penstock turns Python functions into a bulk API. This package exports the names that an application imports."""

from penstock.context import Context, Reject, Retry
from penstock.operations import Operations

__all__ = ["Context", "Operations", "Reject", "Retry"]
