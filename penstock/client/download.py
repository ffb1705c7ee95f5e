"""Files that downloads are written to, so that a broken connection costs nothing that was there before."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


class DownloadedFile:
    """An opened file, and how much a download has written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._written_bytes = 0

    def write(self, piece: bytes) -> None:
        self._file.write(piece)
        self._written_bytes += len(piece)

    def take_back(self) -> bool:
        """Remove what the download has written. Return False if that is not possible, as in a pipe or a terminal."""
        if self._written_bytes == 0:
            return True
        try:
            if not self._file.seekable():
                return False
            self._file.flush()
            # A file that is opened for appending shows its position only after the first write.
            self._file.seek(self._file.tell() - self._written_bytes)
            self._file.truncate()
        except OSError:
            return False
        self._written_bytes = 0
        return True


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` at the end. If something fails, `path` stays as it was.

    What cannot be replaced is opened itself: a device, a named pipe, or a file in a folder that may not be written.
    """
    target = path.resolve()  # a link stays a link
    if not _is_replaceable(target):
        with path.open("wb") as file:
            yield file
        return
    new = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with _created(new, path) as file:
            yield file
        if target.exists():
            shutil.copymode(target, new)
        new.replace(target)
    finally:
        new.unlink(missing_ok=True)


def _created(new: Path, path: Path) -> BinaryIO:
    """Create the file that takes the place of `path`. An error names `path`."""
    try:
        return new.open("xb")
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error


def _is_replaceable(path: Path) -> bool:
    """Return True if another file can take the place of this one. Raises OSError if the file may not be written."""
    if not path.exists():
        return True
    if not path.is_file():
        return False
    with path.open("r+b"):
        return os.access(path.parent, os.W_OK)


@contextmanager
def opened(file: Path | str | BinaryIO) -> Iterator[DownloadedFile]:
    """Return the file for a download. One that is named is replaced at the end."""
    if isinstance(file, str | Path):
        with replacing(Path(file)) as new:
            yield DownloadedFile(new)
    else:
        yield DownloadedFile(file)
