"""Give every stage its settings, its deadline and its way to record figures or to be skipped."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from release.gpu.record import NAME, SAYS, Record
from release.gpu.supervise import seconds_until
from sgn_serve.common.termination import TERMINATED, Terminated, terminable

SKIPPED = 75
"""Exit status of a stage that cannot run on this machine. The last line of its output is the reason."""
ARCHITECTURES = ("wrn-16-4", "wrn-10-1")
"""Architectures of the trained networks: in a run, in a rehearsal."""
CORE_MINUTES = 90.0
"""Default of --core-minutes."""


class Skip(Exception):
    """A stage cannot run on this machine. The message, one line, is the reason."""


@dataclass(frozen=True)
class Settings:
    """Settings that all stages of a run share.

    Attributes:
        out: Folder of the results.
        work: Folder of files that are deleted when the run ends.
        data: Archive of an image folder; "" generates pictures.
        dataset_name: The data's name in the figures.
        rehearse: Whether everything is tiny and on the CPU.
        core_minutes: Minutes of a core that the recipes' epochs stand for.
        recipes: Names of the recipes that are compared; none for all that have a cost.
    """

    out: str
    work: str
    data: str
    dataset_name: str
    rehearse: bool
    core_minutes: float = CORE_MINUTES
    recipes: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Write the settings to a JSON file."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> "Settings":
        """Return the settings that save wrote."""
        return cls(**json.loads(path.read_text()))

    @property
    def arch(self) -> str:
        """Architecture of the trained networks."""
        return ARCHITECTURES[self.rehearse]


@dataclass(frozen=True)
class Run:
    """One stage's view of the run.

    Attributes:
        name: The stage's name.
        settings: The settings that all stages share.
        deadline: The moment of time.monotonic by which the stage should end. It is killed some seconds later.
    """

    name: str
    settings: Settings
    deadline: float

    @property
    def out(self) -> Path:
        """Folder of the results."""
        return Path(self.settings.out)

    @property
    def work(self) -> Path:
        """Folder of files that are deleted when the run ends."""
        return Path(self.settings.work)

    @property
    def rehearse(self) -> bool:
        """Whether everything is tiny and on the CPU."""
        return self.settings.rehearse

    @property
    def log(self) -> Path:
        """File that gets the output of every stage."""
        return self.out / "log.txt"

    def seconds_left(self) -> float:
        """Return the seconds until the deadline; negative after it."""
        return seconds_until(self.deadline)

    def record(self, says: str = "", /, **figures: Any) -> None:
        """Add figures to the stage's record in gpu.json, at once.

        Args:
            says: The result so far as one sentence; "" keeps the last one.
            **figures: The figures by name.
        """
        Record(self.out / NAME).add_figures(self.name, figures | ({SAYS: says} if says else {}))

    def figures_of(self, stage: str) -> dict[str, Any]:
        """Return the figures that another stage of the run has recorded so far."""
        figures: dict[str, Any] = Record(self.out / NAME).stage(stage)["figures"]
        return figures

    def device(self) -> Any:
        """Return the torch.device to use.

        torch.backends.cudnn.benchmark stays off. Attacks drop pictures that have fallen, and cuDNN would try its
        algorithms out again for every new batch size.

        Raises:
            Skip: There is no GPU, and this is no rehearsal.
        """
        import torch

        if self.rehearse:
            return torch.device("cpu")
        if not torch.cuda.is_available():
            raise Skip("no NVIDIA GPU that PyTorch can use; for a try on the CPU pass --rehearse")
        return torch.device("cuda")


def main(work: Callable[[Run], None], argv: list[str] | None = None) -> int:
    """Run a stage as a process of its own.

    Args:
        work: The stage.
        argv: The command line; None for the process's own.

    Returns:
        The exit status: 0, SKIPPED, or 143 after SIGTERM.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument("--deadline", type=float, required=True)
    arguments = parser.parse_args(argv)
    try:
        with terminable():  # SIGTERM then also ends the processes that the stage started
            work(Run(arguments.name, Settings.load(arguments.settings), arguments.deadline))
    except Skip as reason:
        print(reason)
        return SKIPPED
    except Terminated:
        return TERMINATED
    return 0
