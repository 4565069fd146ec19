"""Tell the kernel that a process does long work that nobody waits for."""

import os
from contextlib import suppress


def schedule_as_batch() -> None:
    """Have this thread, and those and the processes that it starts, give way to none that wakes up meanwhile.

    So a decoder that gets a message does not interrupt the network, whose caches it would empty. Nothing gets less time
    than before. Where the kernel knows no such policy, or forbids it, all stays as it was.
    Source: sched(7), SCHED_BATCH.
    """
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
