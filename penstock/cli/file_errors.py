"""Prints the errors in a file that the server validated in the background."""

from penstock.cli.terminal import one_line, print_error
from penstock.client import Status

_LISTED = 20


def print_errors_in_file(status: Status) -> None:
    """Print the first errors in the file of a batch that has failed because of them."""
    for one in status.errors[:_LISTED]:
        print_error(f"  {one_line(str(one))}")
    if status.error_count > _LISTED:
        print_error(f"  and {status.error_count - _LISTED:,} more")
