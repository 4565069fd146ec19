"""Show the progress of a training run."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from tqdm import tqdm

from training.loop.time_left import TimeLeft


@contextmanager
def passes_counted(backbone: nn.Module, count: Callable[[int], None]) -> Iterator[None]:
    """Call `count` with the number of pictures before each forward pass of a backbone."""
    hook = backbone.register_forward_pre_hook(lambda _, inputs: count(len(inputs[0])))
    try:
        yield
    finally:
        hook.remove()


class _Bar(tqdm):
    """tqdm with the time left as TimeLeft estimates it, in place of one by the mean speed."""

    def __init__(self, time_left: TimeLeft, **options: Any):
        self.time_left = time_left  # first, because tqdm draws at once
        super().__init__(**options)

    @property
    def format_dict(self) -> dict[str, Any]:
        """Values that bar_format may name."""
        seconds = self.time_left.seconds()
        return {**super().format_dict, "left": "?" if seconds is None else self.format_interval(seconds)}


class ProgressBar:
    """A bar of the whole run: training, validation and saving, with the time left, the speed and the latest figures.

    Args:
        left: The estimate of the time left, which follows what this bar is told.
        visible: False shows nothing.
    """

    def __init__(self, left: TimeLeft, visible: bool):
        terminal = sys.stderr.isatty()
        self._bar = _Bar(
            left,
            total=1.0,
            initial=left.position(),
            dynamic_ncols=terminal,
            # A log file wants a line a minute, a terminal a live bar.
            mininterval=0.5 if terminal else 60,
            # Only time decides when to draw: the steps of a validation are smaller than those of training.
            miniters=0,
            bar_format="{l_bar}{bar}| [{elapsed}<{left}{postfix}]",
            disable=not visible,
        )
        self._left, self._terminal = left, terminal
        self._figures: dict[str, str] = {}
        self._epoch_figures: dict[str, str] = {}
        self._stage = ""
        self.start_epoch()

    def start_epoch(self) -> None:
        """Measure the speed from now on."""
        self._start = self._left.clock()
        self._images, self._passes = 0, 0
        self._measured, self._measuring, self._passes_here = 0.0, 0.0, 0.0
        self._stage = ""

    @property
    def images_per_second(self) -> float:
        """The speed since the epoch's start, in pictures a second."""
        return self._images / max(1e-9, self._left.clock() - self._start)

    def passed(self, pictures: int) -> None:
        """Count pictures that go through the backbone."""
        if not self._measuring:
            self._passes += pictures
            return
        # The count is that of a picture that withstands the attack. Others need fewer passes, never more than told.
        self._passes_here = min(self._measuring, self._passes_here + pictures)
        self._validated(self._measured + self._passes_here)

    def update(self, images: int) -> None:
        """Add pictures to those that this epoch has trained on."""
        self._images += images
        if self._left.work.passes_of_picture is None:
            self._left.work.passes_of_picture = self._passes / images
        self._left.reached(self._images / self._left.work.pictures)
        self._draw()

    def begin_validation(self) -> None:
        """Show a validation from now on, whose measurements `measure` names one by one."""
        self._left.begin("validation")

    def measure(self, name: str) -> None:
        """Show that a measurement of the validation begins. The one before it is done."""
        self._measured += self._measuring
        # A name without passes, such as waiting for other processes, moves nothing.
        self._measuring, self._passes_here = self._left.work.validation.get(name, 0.0), 0.0
        self._validated(self._measured)
        self.stage(f"validation: {name}")

    def begin_saving(self) -> None:
        """Show that an epoch's end is saved."""
        self._measuring = 0.0
        self._left.begin("saving")
        self.stage("saving")

    def epoch_done(self) -> None:
        """Count an epoch that is trained, validated and saved."""
        self._left.epoch_done()
        self._draw()

    def _validated(self, passes: float) -> None:
        if passes:
            self._left.reached(passes / self._left.work.validation_passes)
        self._draw()

    def _draw(self) -> None:
        self._bar.n = self._left.position()
        self._bar.update(0)

    def show(self, figures: dict[str, str], *, of_epoch: bool = False) -> None:
        """Show figures by name. Those of an epoch stay until the next epoch's."""
        if of_epoch:
            self._epoch_figures = figures
        else:
            self._figures = {"images/s": f"{self.images_per_second:.0f}"} | figures
        self._stage = ""
        self._set_postfix(refresh=False)

    def stage(self, name: str) -> None:
        """Show what is done between two epochs, such as "validation: pgd10".

        A terminal shows it at once. A log file shows it with its next line, and gets none for it.
        """
        self._stage = name
        self._bar.n = self._left.position()
        self._set_postfix(refresh=self._terminal)

    def _set_postfix(self, *, refresh: bool) -> None:
        now = {"now": self._stage} if self._stage else {}
        self._bar.set_postfix(now | self._figures | self._epoch_figures, refresh=refresh)

    def close(self) -> None:
        """Leave the bar as it is and end its line."""
        self._bar.close()
