"""Set the stages of a run, their order and their time limits."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from training.common.errors import TrainingError

SHORTEST_SECONDS = 5.0
"""Least time limit with which a stage is started."""


@dataclass(frozen=True)
class Stage:
    """One process of a run.

    Attributes:
        name: Its name in gpu.json; its process gets it as --name.
        module: The module of release.gpu that its process runs.
        seconds: Its time limit.
        share: A second limit, as a share of the time that is left when it starts, less what later stages reserve. The
            shorter limit counts. None sets no second limit.
        reserved: Seconds that earlier stages with a share leave for this one.
        command: A command line to run instead of the module.
    """

    name: str
    module: str
    seconds: float
    share: float | None = None
    reserved: float = 0.0
    command: tuple[str, ...] = ()

    def process(self, settings: str, deadline: float) -> list[str]:
        """Return the command line.

        Args:
            settings: Path of the run's settings.
            deadline: The moment of time.monotonic by which the stage should end by itself.
        """
        if self.command:
            return list(self.command)
        module = f"release.gpu.{self.module}"
        return [sys.executable, "-m", module, "--name", self.name, "--settings", settings, "--deadline", str(deadline)]


PLAN = (
    Stage("environment", "environment", 40),
    Stage("kernels", "kernels", 180),
    Stage("tests", "gpu_tests", 90),
    Stage("peak", "peak", 40),
    Stage("speed", "speed", 120),
    Stage("serving", "serving", 40),
    Stage("pictures", "pictures", 60),
    # The continuation costs about four times as much per picture, and took two of the bundled network's 26 epochs.
    Stage("train-plain", "train", 3600, share=0.62),
    Stage("train-self-gradient", "train", 3600, share=1.0),
    Stage("attacks", "attacks", 3600, reserved=95),
)
ALL = (
    *PLAN[:-1],
    Stage("train-resnet-18", "train", 380),
    Stage("recipes", "recipes", 3600),
    PLAN[-1],
)
"""PLAN with the stages that run only where they are named."""


def rehearsed(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Return the same stages with the limits of a rehearsal, which allow for a machine that is busy with other work."""
    return tuple(replace(stage, seconds=90, share=None, reserved=0) for stage in stages)


REHEARSAL = rehearsed(PLAN)
"""PLAN with tiny work."""


def choose(names: Sequence[str]) -> tuple[Stage, ...]:
    """Return the stages of these names, in the order of ALL. Without names, return PLAN.

    Raises:
        TrainingError: A name is unknown; the message lists the known names.
    """
    known = [stage.name for stage in ALL]
    for name in names:
        if name not in known:
            raise TrainingError(f"--stages {name}: no such stage; known are: {', '.join(known)}")
    return tuple(stage for stage in ALL if stage.name in names) if names else PLAN


def limit(stages: Sequence[Stage], index: int, left: float) -> float:
    """Return a stage's time limit in seconds, 0 or more.

    Args:
        stages: The run's stages.
        index: The stage's place among them.
        left: Seconds that are left of the whole run.
    """
    stage = stages[index]
    if stage.share is not None:
        left = stage.share * (left - sum(later.reserved for later in stages[index + 1 :]))
    return max(0.0, min(stage.seconds, left))
