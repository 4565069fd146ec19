"""The progress bar of a training run."""

import sys
import time

from tqdm import tqdm


class TrainingBar:
    """Pictures done of all epochs, time left, pictures a second, and figures.

    total, done: pictures of the whole run (None where they are not known), and of its parts before this one
    visible:     False shows nothing
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
            # The time left is worked out from the mean speed, because epochs end in a long validation.
            smoothing=0,
            # The speed is shown among the figures: that of training, validation left out.
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
            disable=not visible,
        )
        self._epoch_figures: dict[str, str] = {}
        self.start_epoch()

    def start_epoch(self) -> None:
        """Pictures a second are counted from here."""
        self._start = time.perf_counter()
        self._images = 0

    @property
    def images_per_second(self) -> float:
        """Since the epoch's start."""
        return self._images / (time.perf_counter() - self._start)

    def update(self, images: int) -> None:
        self._images += images
        self._bar.update(images)

    def show(self, figures: dict[str, str], *, of_epoch: bool = False) -> None:
        """Figures by name; those of an epoch stay until the next one's."""
        if of_epoch:
            self._epoch_figures = figures
            return
        speed = {"images/s": f"{self.images_per_second:.0f}"}
        self._bar.set_postfix(speed | figures | self._epoch_figures, refresh=False)

    def close(self) -> None:
        self._bar.close()
