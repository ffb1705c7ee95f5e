"""Python's garbage collector, set for programs in which nearly everything is freed by its reference count."""

import gc

THRESHOLD = 50_000  # container objects more than were freed: what the chunks that a consumer holds are made of


def spare_what_stays() -> None:
    """Once a program is loaded: what it has made so far stays until its end, so let no collection go through it.

    Chunks come and go by the thousand operations. With Python's own settings each makes the collector go through all
    that AWS clients hold, a hundred thousand objects, which took a fifth of a consumer's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(THRESHOLD)
