"""The stages of a run: their order, and how long each may take."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from training.common.errors import TrainingError

SHORTEST_SECONDS = 5.0
"""A stage that would get less is not started."""


@dataclass(frozen=True)
class Stage:
    """One process of a run.

    name:     as recorded, and as the process is told
    module:   of release.gpu, whose process it is
    seconds:  at most
    share:    of what is left when it starts, less what later stages reserve; None for all of `seconds`
    reserved: seconds that shares before this stage leave to it
    command:  what to run instead of the module
    """

    name: str
    module: str
    seconds: float
    share: float | None = None
    reserved: float = 0.0
    command: tuple[str, ...] = ()

    def process(self, settings: str, deadline: float) -> list[str]:
        """Return the command line.

        settings: path of the run's settings
        deadline: moment of time.monotonic at which the stage should be done by itself
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
    # The continuation costs about four times as much a picture, and was two of 26 epochs in the bundled network.
    Stage("train-plain", "train", 3600, share=0.62),
    Stage("train-self-gradient", "train", 3600, share=1.0),
    Stage("attacks", "attacks", 3600, reserved=95),
)
REHEARSAL = tuple(replace(stage, seconds=90, share=None, reserved=0) for stage in PLAN)
"""The same stages, far less to do. A busy machine may take several times as long as an idle one."""


def choose(stages: Sequence[Stage], names: Sequence[str]) -> tuple[Stage, ...]:
    """Return the stages of these names, in the plan's order; all of them for no names.

    Raises:
        ValueError: a name is not known; the message lists those that are.
    """
    known = [stage.name for stage in stages]
    for name in names:
        if name not in known:
            raise TrainingError(f"--stages {name}: no such stage; known are: {', '.join(known)}")
    return tuple(stage for stage in stages if not names or stage.name in names)


def limit(stages: Sequence[Stage], index: int, left: float) -> float:
    """Return how many seconds a stage may take, 0 or more.

    stages: of the run
    index:  of the stage
    left:   seconds that are left of the whole run
    """
    stage = stages[index]
    if stage.share is not None:
        left = stage.share * (left - sum(later.reserved for later in stages[index + 1 :]))
    return max(0.0, min(stage.seconds, left))
