"""Show that a network under attack is at work: one batch of a costly attack takes an hour on a CPU."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from tqdm import tqdm


@contextmanager
def passes_shown(backbone: nn.Module, bar: tqdm) -> Iterator[None]:
    """Show the number of forward passes in the bar, every bar.mininterval seconds."""
    if bar.disable:
        yield
        return
    count = 0
    shown = time.monotonic()

    def count_one(*_: Any) -> None:
        nonlocal count, shown
        count += 1
        now = time.monotonic()
        if now - shown >= bar.mininterval:
            shown = now
            bar.set_postfix_str(f"{count:,} forward passes")

    hook = backbone.register_forward_pre_hook(count_one)
    try:
        yield
    finally:
        hook.remove()
        bar.set_postfix_str("", refresh=False)
