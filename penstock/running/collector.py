"""Tunes Python's garbage collector for programs in which reference counts free nearly everything."""

import gc

THRESHOLD = 50_000  # new container objects before a collection; the chunks that a consumer holds have about as many


def spare_what_stays() -> None:
    """Exclude all existing objects from collections. Call this once the program is loaded: they stay until its end.

    Chunks of a thousand operations come and go. With Python's default settings each of them makes the collector visit
    the hundred thousand objects that AWS clients hold, which took a fifth of a consumer's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(THRESHOLD)
