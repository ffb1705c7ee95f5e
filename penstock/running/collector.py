"""Tunes Python's garbage collector for programs in which reference counts free nearly everything."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

THRESHOLD = 50_000  # new container objects before a collection; the chunks that a consumer holds have about as many


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
