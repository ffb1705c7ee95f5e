"""The exit codes of the commands that call a server."""

ALL_SUCCEEDED, SOME_FAILED, NOT_DONE, INTERRUPTED = 0, 1, 2, 130
