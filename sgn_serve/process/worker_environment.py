"""Set the environment variables that the libraries of a worker read when it starts."""

import os
from collections.abc import Sequence

MALLOC = {
    # glibc would give nearly every thread a heap of its own, and keep in each what it once needed. Bodies are written
    # to the disk in threads.
    "MALLOC_ARENA_MAX": "1",
    # Once glibc has seen pieces as large as a picture's freed, it would keep them: 130 MB. With these limits they go
    # back to the system. Smaller pieces, such as the network's tensors, are still kept.
    "MALLOC_MMAP_THRESHOLD_": str(8 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(4 << 20),
}
"""Variables for glibc's allocator. One that is set already keeps its value."""


def set_worker_environment(trusted_proxies: Sequence[str]) -> None:
    """Set what the workers that this process starts inherit.

    Args:
        trusted_proxies: Addresses whose X-Forwarded-For uvicorn believes. By default it believes everybody on this
            machine.
    """
    for name, value in MALLOC.items():
        os.environ.setdefault(name, value)
    os.environ["FORWARDED_ALLOW_IPS"] = ",".join(trusted_proxies)
