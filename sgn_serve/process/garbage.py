"""Keep full garbage collections, 100 ms each, out of the requests."""

import gc


def freeze_long_lived_objects() -> None:
    """Collect now, exclude every object that is left from later collections, and make those rarer."""
    gc.unfreeze()  # the model that was served before may be garbage by now
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1000)
