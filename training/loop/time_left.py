"""Estimate how long the rest of a training run takes: its epochs, their validation and their saving."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Phase = Literal["training", "validation", "saving"]
PHASES: tuple[Phase, ...] = ("training", "validation", "saving")
"""The parts of an epoch, in order."""
_PASSES_BEFORE_ANY = 2
"""Passes that training is taken to need for a picture, before a batch has shown how many."""


@dataclass
class Work:
    """The work of a run, as one process does it. Passes are pictures that go through the backbone.

    Attributes:
        epochs: Epochs of the whole run.
        pictures: Pictures of an epoch's batches.
        validation: Passes of each measurement of a validation, by name. Attacks that succeed at once need fewer.
        passes_of_picture: Passes in training for each picture, None before they are counted.
    """

    epochs: int
    pictures: int
    validation: Mapping[str, float]
    passes_of_picture: float | None = None

    @property
    def training_passes(self) -> float:
        """Passes of an epoch's training."""
        return self.pictures * (self.passes_of_picture or _PASSES_BEFORE_ANY)

    @property
    def validation_passes(self) -> float:
        """Passes of a validation."""
        return sum(self.validation.values())


@dataclass
class _Part:
    """A phase of the running epoch.

    Attributes:
        known: Seconds that it took in the last epoch; None before the first.
        share: Share that is done, from 0 to 1.
        seconds: Seconds that this share took.
        warm_up: Share and seconds of the very first step, which takes longer than the others.
    """

    known: float | None = None
    share: float = 0.0
    seconds: float = 0.0
    warm_up: tuple[float, float] = (0.0, 0.0)

    def again(self, guess: float | None = None) -> float | None:
        """Return how many seconds the whole phase takes in a later epoch; None where nothing is known of it.

        Args:
            guess: Stands in for the last epoch in the first one.
        """
        rest, speed = self.rest(guess), self._speed()
        if rest is None or speed is None:
            return rest if self.share == 0 else None
        return self.seconds - self.warm_up[1] + self.warm_up[0] * speed + rest

    def rest(self, guess: float | None = None) -> float | None:
        """Return how many seconds the rest of the phase takes; None where nothing is known of it.

        The rest is taken to be as fast as the part that is done and as the last epoch, in proportion to that part.
        """
        here, earlier = self._speed(), guess if self.known is None else self.known
        if here is None or earlier is None:
            speed = earlier if here is None else here
        else:
            speed = self.share * here + (1 - self.share) * earlier
        return None if speed is None else (1 - self.share) * speed

    def _speed(self) -> float | None:
        """Return how many seconds the whole phase takes at the speed so far, None before its first step."""
        share, seconds = self.share - self.warm_up[0], self.seconds - self.warm_up[1]
        if share > 0:
            return seconds / share
        return self.seconds / self.share if self.share > 0 else None


@dataclass
class TimeLeft:
    """An estimate that follows a run from phase to phase.

    A validation that was never measured is taken to cost as much for each pass as training does.

    Attributes:
        work: The work of the whole run.
        epochs_done: Complete epochs.
        budget: Seconds of the whole run where a time budget ends it; 0 for a run of so many epochs.
        used: Seconds of the budget that earlier parts of the run used.
        clock: Returns seconds.
    """

    work: Work
    epochs_done: int = 0
    budget: float = 0.0
    used: float = 0.0
    clock: Callable[[], float] = time.perf_counter
    _parts: dict[Phase, _Part] = field(default_factory=lambda: {name: _Part() for name in PHASES})
    _running: Phase = "training"
    _began: float = 0.0
    _ends: float = 0.0

    def __post_init__(self) -> None:
        """Start the clock of the first phase."""
        self._began = self.clock()
        self._ends = self._began + self.budget - self.used

    def knows(self, phase: Phase, seconds: float) -> None:
        """Take over how many seconds a phase took in an earlier part of the run. 0 says nothing."""
        if seconds > 0:
            self._parts[phase].known = seconds

    def skip_training(self, seconds: float) -> None:
        """Count this epoch's training as done: an earlier part of the run did it in so many seconds."""
        self._parts["training"] = _Part(seconds, 1.0, seconds)
        self._running, self._began = "validation", self.clock()

    def begin(self, phase: Phase) -> None:
        """Start a phase. The one before it is done."""
        if phase != self._running:
            self._end()
            self._running, self._began = phase, self.clock()

    def reached(self, share: float) -> None:
        """Take note of the share of the running phase that is done, from 0 to 1."""
        part = self._parts[self._running]
        first = self._running == "training" and part.share == 0 and part.known is None
        part.share, part.seconds = min(1.0, share), self.clock() - self._began
        if first and part.share < 1:
            part.warm_up = (part.share, part.seconds)

    def epoch_done(self) -> None:
        """Count an epoch. The next ones are expected to take as long."""
        self._end()
        self.epochs_done += 1
        for name, part in self._parts.items():
            self._parts[name] = _Part(part.again(part.known))
        self._running, self._began = "training", self.clock()

    def _end(self) -> None:
        part = self._parts[self._running]
        part.share, part.seconds = 1.0, self.clock() - self._began

    def position(self) -> float:
        """Return the share of the run that is done, from 0 to 1: of its passes, or of its time budget."""
        if self.budget:
            return min(1.0, 1 - max(0.0, self._ends - self.clock()) / self.budget)
        work, parts = self.work, self._parts
        here = parts["training"].share * work.training_passes + parts["validation"].share * work.validation_passes
        return min(1.0, (self.epochs_done + here / (work.training_passes + work.validation_passes)) / work.epochs)

    def seconds(self) -> float | None:
        """Return how many seconds the rest of the run takes; None before anything is known of it."""
        if self.budget:
            return max(0.0, self._ends - self.clock())
        epochs = self.work.epochs - self.epochs_done
        if epochs <= 0:
            return 0.0
        training = self._parts["training"].again()
        if training is None:
            return None
        guess = training * self.work.validation_passes / self.work.training_passes
        left = 0.0
        for name, part in self._parts.items():
            instead = {"training": None, "validation": guess, "saving": 0.0}[name]
            rest = part.rest(instead) or 0.0
            if name == self._running:
                rest -= self.clock() - self._began - part.seconds  # time since the last report
            left += max(0.0, rest) + (epochs - 1) * (part.again(instead) or 0.0)
        return left
