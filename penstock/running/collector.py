"""Tunes how memory is freed: reference counts free nearly everything, and large blocks go back to the system."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

THRESHOLD = 50_000  # new container objects before a collection; the chunks that a consumer holds have about as many


LARGE_BLOCK_BYTES = 131_072
_MMAP_THRESHOLD = -3  # the parameter M_MMAP_THRESHOLD of glibc's mallopt
LARGE_BYTES = 65_536  # a smaller document has too few values to start a collection


@contextmanager
def spare_json() -> Iterator[None]:
    """Pause collections while JSON is read, which matters if it is large.

    Its values have no cycles, so a collection frees none of them. But it would visit them all, again and again while
    they are created, and this took most of the time to read a large document.
    """
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_enabled:
            gc.enable()


def spare_what_stays() -> None:
    """Exclude all existing objects from collections. Call this once the program is loaded: they stay until its end.

    Chunks of a thousand operations come and go. With Python's default settings each of them makes the collector visit
    the hundred thousand objects that AWS clients hold, which took a fifth of a consumer's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(THRESHOLD)


def return_large_blocks() -> None:
    """Give large blocks of memory back to the system as soon as they are free. Only glibc offers this.

    By default glibc raises the size from which it does so, up to 32 MB. Then blocks of a megabyte leave gaps that
    nothing else fills, which doubled the memory for large results.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
