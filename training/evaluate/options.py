"""The options of `python -m training.evaluate`: one frozen record.

An option is described once, by its field of Options. The command line, the checks and the table in the documentation
follow from that; see training.common.described_options.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from sgn_serve.pictures.resizing import RESIZES
from training.attacks.names import DEFAULT, graph_fix, split_names
from training.common import run_files
from training.common.command_line import INTENSITY, Option, OptionError
from training.common.described_options import check_options
from training.common.devices import DEFAULT_DEVICE, check_threads
from training.common.given_paths import PathError, require_file
from training.config import EPS
from training.data.datasets import DATASETS, require_root
from training.foreign.kind import is_foreign

MODULE_EXAMPLE = "write it like models/my.py:build"
"""Form of a value of --module, for messages."""
PICTURES = 1000
"""Pictures that are judged where nobody says how many."""
ELSEWHERE = Path("runs") / "evaluations"
"""Folder of reports that have no place beside their checkpoint."""


@dataclass(frozen=True)
class Options:
    """The options of an evaluation.

    Raises:
        OptionError: A value is out of range.
        AttackError: An attack is unknown.
        DeviceError: A number of threads is none.
    """

    ckpt: Annotated[
        Path | None,
        Option(
            "model.safetensors written by python -m training, or weights of another program that leave nothing open; "
            "or --module"
        ),
    ]
    data_root: Annotated[Path, Option("folder of the data set", required=True, aliases=("--data",))]
    dataset: Annotated[
        str | None,
        Option("which reader reads --data-root", choices=DATASETS, default="the one that it was trained with"),
    ] = None
    module: Annotated[
        str | None,
        Option(
            "instead of --ckpt: a function without arguments, such as build() of my.py, that returns a torch.nn.Module "
            "from images in [0, 1] to logits; it needs --dataset",
            metavar="FILE.py:FUNCTION",
        ),
    ] = None
    image_size: Annotated[
        int | None,
        Option(
            "side in pixels of an image folder's pictures, for --module and weights of other programs",
            minimum=1,
            default="what a timm network is made for, or their own size, the same for all; a checkpoint has its own",
        ),
    ] = None
    resize: Annotated[
        str | None,
        Option(
            "how they become that size, for --module and weights of other programs",
            choices=RESIZES,
            default="stretch; a checkpoint has its own",
        ),
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
            aliases=("--epsilon",),
        ),
    ] = EPS
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
    auto_margin: Annotated[
        float | None,
        Option(
            'also judge self_gradient="auto", as a network of its own: the second pass runs where the two largest '
            "plain probabilities differ by less than this",
            minimum=0,
            maximum=1,
            default="the checkpoint's, if it has one",
        ),
    ] = None
    seed: Annotated[int, Option("seed of the pictures' draw and of the attacks' starts", minimum=0, below=2**32)] = 0
    batch_size: Annotated[int, Option("pictures attacked at once", minimum=1)] = 250
    report: Annotated[
        Path | None,
        Option(
            "folder for everything (JSON, Markdown page, plots, table of the pictures), or a .json file for that alone",
            default=f"{run_files.REPORT} beside the checkpoint; in {ELSEWHERE}/<name of its folder> where that folder "
            "cannot be written to or belongs to a Python package, and in <name of its file>-<function> there for "
            "--module",
        ),
    ] = None
    device: Annotated[str | None, Option("cpu, cuda, cuda:1, ...", default=DEFAULT_DEVICE)] = None
    threads: Annotated[
        int | None,
        Option("CPU threads; with --ray, threads and cores of each batch", default="all cores; 1 with --ray"),
    ] = None
    ray: Annotated[
        str | None,
        Option(
            "attack on the machines of a Ray cluster: HOST:PORT of its head, or auto for the one that this machine "
            "belongs to",
            metavar="ADDRESS",
        ),
    ] = None
    gpus_per_task: Annotated[
        float | None,
        Option(
            "with --ray: GPUs of each batch, such as 0.5 for two batches on one; 0 attacks on the CPU",
            minimum=0,
            default="1 where the cluster has any, 0 with --device cpu",
        ),
    ] = None

    def __post_init__(self) -> None:
        """Check every value against its option."""
        check_options(self)
        split_names(self.attacks)
        check_threads(self.threads, elsewhere=self.ray is not None)
        if self.gpus_per_task is not None and self.ray is None:
            raise OptionError("--gpus-per-task is for --ray; give it too, or leave it out")
        if self.gpus_per_task and self.device == "cpu":
            raise OptionError(
                f"--gpus-per-task {self.gpus_per_task:g} and --device cpu contradict each other; pass one"
            )
        self._check_subject()
        if self.report is not None:
            report_place(self.report, "--report ")

    def _check_subject(self) -> None:
        """Check that there is one network to judge, and no option that only the other kind has.

        Raises:
            OptionError: There is none or two, or an option does not go with it.
        """
        if (self.ckpt is None) == (self.module is None):
            raise OptionError("pass --ckpt, or --module for a network of your own, and not both")
        others: dict[str, object]
        if self.ckpt is not None and self.ckpt.name == run_files.STATE:
            raise OptionError(f"--ckpt {self.ckpt} is the state of a training; pass the model.safetensors beside it")
        if self.ckpt is not None and is_foreign(self.ckpt):
            others, reason = {}, ""
            if self.dataset is None:
                raise OptionError(
                    f"--ckpt {self.ckpt}, weights of another program, does not say its data; pass --dataset, which is "
                    f"one of: {', '.join(DATASETS)}"
                )
        elif self.module is None:
            others = {"--image-size": self.image_size, "--resize": self.resize}
            reason = "is for --module: the checkpoint says it itself"
        else:
            others = {
                "--onnx": self.onnx,
                "--transfer-from": self.transfer_from,
                "--auto-margin": self.auto_margin,
            }
            reason = "is for --ckpt"
            if self.dataset is None:
                raise OptionError(f"--module needs --dataset, which is one of: {', '.join(DATASETS)}")
        given = [name for name, value in others.items() if value is not None]
        if given:
            raise OptionError(f"{given[0]} {reason}; leave it out")

    def check_files(self) -> None:
        """Check that what the command line names is there.

        Raises:
            PathError: A file or the folder of the data set is missing.
            OptionError: --module names no file and function.
        """
        if self.module is not None:
            function_of(self.module)
        if self.ckpt is not None:
            require_file(self.ckpt, "--ckpt")
        if self.onnx is not None and not self.onnx.is_file():
            raise PathError(f"{self.onnx}: no such file; {graph_fix(self.onnx)}")
        if self.transfer_from is not None:
            require_file(self.transfer_from, "--transfer-from")
        require_root(self.data_root, self.dataset)

    def output_paths(self) -> tuple[Path, Path | None]:
        """Return the JSON file, and the folder for the page and the plots where one is asked for."""
        if self.report is None:
            folder = ELSEWHERE / module_name(self.module or "") if self.ckpt is None else default_folder(self.ckpt)
            return folder / run_files.REPORT, None
        return report_place(self.report, "--report ")


def report_place(given: Path, name: str) -> tuple[Path, Path | None]:
    """Return the JSON file of a report, and the folder for everything where a folder is named.

    Args:
        given: A .json file, or a folder. It need not be there.
        name: The option that named it, for the message.

    Raises:
        OptionError: It has the suffix of another kind of file, such as .txt or .pt. Others, as of runs/v1.2, may be
            folders.
    """
    if given.suffix == ".json":
        return given, None
    if given.suffix[1:].isalpha() and not given.is_dir():
        raise OptionError(
            f"{name}{given}: a report is a .json file, or a folder; name {given.with_suffix('.json')}, or "
            f"{given.with_suffix('')} for the page and the plots too"
        )
    return given / run_files.REPORT, given


def function_of(given: str) -> tuple[Path, str]:
    """Return the file and the name of the function that --module names.

    Args:
        given: The value of --module, such as "models/my.py:build".

    Raises:
        OptionError: It is of another form, or there is no such file.
    """
    file, _, name = given.rpartition(":")
    path = Path(file)
    if not file or path.suffix != ".py" or not name.isidentifier():
        raise OptionError(f"--module {given}: no Python file and function; {MODULE_EXAMPLE}")
    if not path.is_file():
        raise OptionError(f"--module {given}: there is no file {path}; {MODULE_EXAMPLE}")
    return path, name


def module_name(given: str) -> str:
    """Return what a --module is called: "my-build" for "models/my.py:build"."""
    file, _, function = given.rpartition(":")
    return f"{Path(file).stem}-{function}"


def default_folder(checkpoint: Path) -> Path:
    """Return the folder of a report that nobody chose a place for: never a read-only one, nor one of a package."""
    folder = checkpoint.absolute().parent
    in_package = any((parent / "__init__.py").exists() for parent in (folder, *folder.parents))
    read_only = folder.exists() and not os.access(folder, os.W_OK)
    return ELSEWHERE / folder.name if in_package or read_only else checkpoint.parent
