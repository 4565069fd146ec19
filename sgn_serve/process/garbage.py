"""Full garbage collections, 100 ms each, kept out of the requests."""

import gc


def quiet_garbage() -> None:
    """Collects now; what is left is never looked at again, and what comes is collected seldom."""
    gc.unfreeze()  # what was served before may be garbage by now
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1000)
