"""What every stage is told, and how it ends."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from release.gpu.record import NAME, SAYS, Record
from release.gpu.supervise import seconds_until
from training.common.signals import Terminated, terminable

SKIPPED = 75
"""Exit status of a stage that cannot be run here; the last line of its output says why."""
ARCHITECTURES = ("wrn-16-4", "wrn-10-1")
"""Of the networks that are trained: in a run, in a rehearsal."""


class Skip(Exception):
    """A stage that cannot be run here; the message, one line, says why."""


@dataclass(frozen=True)
class Settings:
    """A run's settings, the same for all stages.

    out:          folder for what is kept
    work:         folder for what is not
    data:         archive of an image folder; "" generates pictures
    dataset_name: what figures call the data
    rehearse:     whether everything is tiny and on the CPU
    """

    out: str
    work: str
    data: str
    dataset_name: str
    rehearse: bool

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> "Settings":
        return cls(**json.loads(path.read_text()))

    @property
    def arch(self) -> str:
        return ARCHITECTURES[self.rehearse]


@dataclass(frozen=True)
class Run:
    """One stage's view of the run.

    deadline: moment of time.monotonic by which the stage should be done; some seconds later it is killed
    """

    name: str
    settings: Settings
    deadline: float

    @property
    def out(self) -> Path:
        return Path(self.settings.out)

    @property
    def work(self) -> Path:
        return Path(self.settings.work)

    @property
    def rehearse(self) -> bool:
        return self.settings.rehearse

    @property
    def log(self) -> Path:
        return self.out / "log.txt"

    def seconds_left(self) -> float:
        return seconds_until(self.deadline)

    def record(self, says: str = "", /, **figures: Any) -> None:
        """Add figures to the stage's in gpu.json, at once.

        says: the result so far as one sentence; "" leaves the last one
        """
        Record(self.out / NAME).add_figures(self.name, figures | ({SAYS: says} if says else {}))

    def figures_of(self, stage: str) -> dict[str, Any]:
        """Return what another stage of the run has recorded."""
        figures: dict[str, Any] = Record(self.out / NAME).stage(stage)["figures"]
        return figures

    def device(self) -> Any:
        """Return the torch.device to use.

        cuDNN does not try out algorithms (torch.backends.cudnn.benchmark): attacks drop pictures that have fallen, and
        every new batch size would be tried out anew.

        Raises:
            Skip: there is no GPU, and this is no rehearsal.
        """
        import torch

        if self.rehearse:
            return torch.device("cpu")
        if not torch.cuda.is_available():
            raise Skip("no NVIDIA GPU that PyTorch can use; for a try on the CPU pass --rehearse")
        return torch.device("cuda")


def main(work: Callable[[Run], None], argv: list[str] | None = None) -> int:
    """Run a stage as its process: parse its arguments, call `work`, and turn Skip into an exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument("--deadline", type=float, required=True)
    arguments = parser.parse_args(argv)
    try:
        with terminable():  # so that what it started is ended with it
            work(Run(arguments.name, Settings.load(arguments.settings), arguments.deadline))
    except Skip as reason:
        print(reason)
        return SKIPPED
    except Terminated:
        return 143
    return 0
