"""The options of `python -m training.evaluate`: one frozen record.

An option is described once, by its field of Options. The command line, the checks and the table in the documentation
follow from that; see training.common.described_options.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from training.attacks.registry import DEFAULT
from training.common.command_line import INTENSITY, Option
from training.common.described_options import check_options
from training.common.devices import check_threads, default_device
from training.data.loading import DATASETS

REPORT = "evaluation.json"
"""The name of a report."""
PICTURES = 1000
"""Pictures that are judged where nobody says how many."""
ELSEWHERE = Path("runs") / "evaluations"
"""Folder of reports that have no place beside their checkpoint."""


@dataclass(frozen=True)
class Options:
    """All that is asked of an evaluation.

    Raises:
        OptionError: A value is out of range.
        DeviceError: A number of threads is none.
    """

    ckpt: Annotated[Path, Option("model.safetensors written by python -m training", required=True)]
    data_root: Annotated[Path, Option("folder of the data set", required=True)]
    dataset: Annotated[
        str | None,
        Option("which reader reads --data-root", choices=DATASETS, default="the one that it was trained with"),
    ] = None
    split: Annotated[Literal["test", "train"], Option("part of the data set")] = "test"
    pictures: Annotated[
        int | None,
        Option(
            "how many pictures, the same number of each class",
            minimum=1,
            default=f"{PICTURES}, or all where there are fewer",
        ),
    ] = None
    attacks: Annotated[
        tuple[str, ...], Option("presets and names of attacks, see the list of both", metavar="A", some=True)
    ] = DEFAULT
    eps: Annotated[
        float,
        Option(
            "L-inf budget in units of pixel intensity",
            above=0,
            maximum=1,
            unit=INTENSITY,
            hint="without a budget there is only clean accuracy",
        ),
    ] = 8 / 255
    restarts: Annotated[int, Option("restarts of PGD-K and CW-K", minimum=1)] = 1
    beta: Annotated[
        tuple[float, ...],
        Option("sharpness of the smooth surrogates", above=0, hint="5, 20 and 100 are the usual three"),
    ] = (5.0, 20.0, 100.0)
    transfer_from: Annotated[
        Path | None, Option("also show it what fools this network: a plain one, say", metavar="CKPT")
    ] = None
    onnx: Annotated[
        Path | None,
        Option(
            "also attack this exported graph of the checkpoint, as a black box: by those of the graph-* attacks that "
            "are asked for, or by all of them"
        ),
    ] = None
    seed: Annotated[int, Option("seed of the pictures' draw and of the attacks' starts", minimum=0, below=2**32)] = 0
    batch_size: Annotated[int, Option("pictures attacked at once", minimum=1)] = 250
    report: Annotated[
        Path | None,
        Option(
            "folder for everything (JSON, Markdown page, plots), or a .json file for that alone",
            default=f"{REPORT} beside the checkpoint; in {ELSEWHERE}/<name of its folder> where that folder cannot be "
            "written to or belongs to a Python package",
        ),
    ] = None
    rows_from: Annotated[
        tuple[Path, ...],
        Option(
            "reports of the same setting, measured by other processes or machines: take over what they have",
            metavar="REPORT",
            some=True,
        ),
    ] = ()
    device: Annotated[str, Option("cpu, cuda, cuda:1, ...", default="cuda where PyTorch finds a GPU, else cpu")] = (
        field(default_factory=default_device)
    )
    threads: Annotated[int | None, Option("CPU threads", default="all cores")] = None

    def __post_init__(self) -> None:
        """Check every value against its option."""
        check_options(self)
        check_threads(self.threads)

    def output_paths(self) -> tuple[Path, Path | None]:
        """Return the JSON file, and the folder for the page and the plots where one is asked for."""
        if self.report is None:
            return default_folder(self.ckpt) / REPORT, None
        if self.report.suffix == ".json":
            return self.report, None
        return self.report / REPORT, self.report


def default_folder(checkpoint: Path) -> Path:
    """Return the folder of a report that nobody chose a place for: never a read-only one, nor one of a package."""
    folder = checkpoint.absolute().parent
    in_package = any((parent / "__init__.py").exists() for parent in (folder, *folder.parents))
    read_only = folder.exists() and not os.access(folder, os.W_OK)
    return ELSEWHERE / folder.name if in_package or read_only else checkpoint.parent
