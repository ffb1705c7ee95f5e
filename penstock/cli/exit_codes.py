"""The exit codes of the commands for batches."""

ALL_SUCCEEDED, SOME_FAILED, NOT_DONE, INTERRUPTED = 0, 1, 2, 130
