"""Show the progress of a training run."""

import sys
import time

from tqdm import tqdm


class ProgressBar:
    """A bar of the pictures done in all epochs, with the time left, the speed and the latest figures.

    Args:
        total: Pictures of the whole run; None where their number is not known.
        done: Pictures of the parts of the run before this one.
        visible: False shows nothing.
    """

    def __init__(self, total: int | None, done: int, visible: bool):
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=done,
            unit="image",
            unit_scale=True,
            dynamic_ncols=terminal,
            # A log file wants a line a minute, a terminal a live bar.
            mininterval=0.5 if terminal else 60,
            # The time left is computed from the mean speed, because epochs end in a long validation.
            smoothing=0,
            # The speed among the figures is that of training, without validation. So tqdm's own is left out.
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
            disable=not visible,
        )
        self._terminal = terminal
        self._figures: dict[str, str] = {}
        self._epoch_figures: dict[str, str] = {}
        self.start_epoch()

    def start_epoch(self) -> None:
        """Measure the speed from now on."""
        self._start = time.perf_counter()
        self._images = 0

    @property
    def images_per_second(self) -> float:
        """The speed since the epoch's start, in pictures a second."""
        return self._images / (time.perf_counter() - self._start)

    def update(self, images: int) -> None:
        """Add pictures to those that are done."""
        self._images += images
        self._bar.update(images)

    def show(self, figures: dict[str, str], *, of_epoch: bool = False) -> None:
        """Show figures by name. Those of an epoch stay until the next epoch's."""
        if of_epoch:
            self._epoch_figures = figures
        else:
            self._figures = {"images/s": f"{self.images_per_second:.0f}"} | figures
        self._bar.set_postfix(self._figures | self._epoch_figures, refresh=False)

    def stage(self, name: str) -> None:
        """Show what is done between two epochs, such as "validation: pgd10", on a terminal.

        A log file gets no line for it.
        """
        if self._terminal:
            self._bar.set_postfix({"now": name} | self._figures | self._epoch_figures, refresh=True)

    def close(self) -> None:
        """Leave the bar as it is and end its line."""
        self._bar.close()
