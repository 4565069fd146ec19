"""Train and judge one system of a table, or find that this has been done."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from sgn_serve.common.error_text import say
from training.common import run_files
from training.config import TrainConfig
from training.data.automatic_split import AutomaticSplit, Part
from training.data.datasets import IMAGE_FOLDER, IMAGE_SIZE
from training.data.loading import load_pictures, split_indices
from training.data.picture_set import DatasetError, PictureSet
from training.loop.state import (
    TrainerError,
    describe_pictures,
    differing_pictures,
    differing_settings,
    load_state,
    with_saved_defaults,
)
from training.options import configure, parse
from training.reproduce.systems import SYSTEMS, Budget
from training.reproduce.targets import ReproductionError

SMOOTH_BETA = "20"


@dataclass(frozen=True)
class DataSource:
    """The place of a data set's pictures, and the reader that reads them.

    Attributes:
        dataset: The paper's data set: cifar10, cifar100 or svhn.
        reader: --dataset of `python -m training`.
        data_root: Its --data-root.
        name: Its --dataset-name, for figures; "" for the data set's own name.
    """

    dataset: str
    reader: str
    data_root: Path
    name: str

    def flags(self) -> list[str]:
        """Return the options of `python -m training` that name these pictures."""
        named = ["--dataset-name", self.name] if self.name else []
        return ["--dataset", self.reader, "--data-root", str(self.data_root), *named]


@cache
def training_pictures(source: DataSource, config: TrainConfig) -> dict[str, Any] | None:
    """Return what a training state says about its pictures; None where the pictures are not here.

    Args:
        source: The pictures.
        config: Configuration of the training, which says how they are divided and resized.
    """
    try:
        part = Part("train", AutomaticSplit(config.test_share, config.seed))
        pictures = load_pictures(source.reader, source.data_root, part, config.image_size, resize=config.resize)
    except DatasetError:
        # A network that was trained elsewhere can still be judged.
        return None
    mean, _ = pictures.channel_statistics(split_indices(pictures, config.validation_pictures, config.seed)[0])
    return describe_pictures(pictures, mean)


@cache
def image_folder(source: DataSource, part: Part) -> PictureSet | None:
    """Return a part of an image folder; None where the pictures are not here, and for archives of known size."""
    if source.reader != IMAGE_FOLDER:
        return None
    try:
        return load_pictures(source.reader, source.data_root, part, IMAGE_SIZE)
    except DatasetError:
        return None


def fitting_flags(source: DataSource, config: TrainConfig) -> list[str]:
    """Return the options of `python -m training` that make a configuration fit a small image folder.

    Where a class has too few pictures to hold out as many as asked for, a fifth of it is held out. Where the rest does
    not fill a batch, an epoch has four steps.

    Args:
        source: The pictures.
        config: The configuration that a budget asks for.
    """
    pictures = image_folder(source, Part("train", AutomaticSplit(config.test_share, config.seed)))
    if pictures is None:
        return []
    flags, held_out, classes = [], config.validation_pictures, len(pictures.class_names)
    smallest = _smallest_class(pictures)
    if held_out is not None and -(-held_out // classes) >= smallest:
        held_out = classes * max(1, smallest // 5)
        flags += ["--validation-pictures", str(held_out)]
    try:
        rest = len(split_indices(pictures, held_out, config.seed)[0])
    except DatasetError:
        return flags  # a class of one picture, which training refuses
    if config.batch_size is not None and rest < config.batch_size:
        flags += ["--batch-size", str(max(2, rest // 4))]
    return flags


def fitting_count(source: DataSource, count: int) -> int:
    """Return how many pictures of the test split can be judged, the same number of each class, up to `count`."""
    pictures = image_folder(source, Part("test"))
    if pictures is None or count >= len(pictures):
        return count
    classes, smallest = len(pictures.class_names), _smallest_class(pictures)
    if -(-count // classes) < smallest:
        return count
    return classes * (smallest - 1) or len(pictures)


def _smallest_class(pictures: PictureSet) -> int:
    return int(torch.bincount(pictures.labels, minlength=len(pictures.class_names)).min())


@dataclass(frozen=True)
class Experiment:
    """One system, trained and judged on one data set at one budget, in runs/reproduce/<budget>/<data set>/<system>.

    Attributes:
        system: Key of training.reproduce.systems.SYSTEMS.
        source: The pictures.
        budget_name: Key of training.reproduce.systems.BUDGETS.
        budget: That budget.
        threads: CPU threads; None for PyTorch's default.
    """

    system: str
    source: DataSource
    budget_name: str
    budget: Budget
    threads: int | None

    @property
    def name(self) -> str:
        """The --run of `python -m training`."""
        return f"reproduce/{self.budget_name}/{self.source.dataset}/{self.system}"

    @property
    def directory(self) -> Path:
        """The folder of all its files."""
        return Path("runs") / self.name

    @property
    def checkpoint(self) -> Path:
        """The trained network."""
        return self.directory / run_files.CHECKPOINT

    @property
    def report(self) -> Path:
        """The report of its evaluation."""
        return self.directory / run_files.REPORT

    @property
    def log(self) -> Path:
        """The file of what its programs print where several machines train and judge side by side."""
        return self.directory.with_name(f"{self.system}.log")

    def training_command(self, resume: bool) -> list[str]:
        """Return the arguments of `python` that train the system."""
        arguments = ["-m", "training", *self.source.flags(), "--arch", self.budget.arch, "--run", self.name]
        arguments += [*self.budget.flags, *SYSTEMS[self.system].flags]
        fitting = fitting_flags(self.source, _configuration(arguments))
        arguments = [*_without(arguments, fitting[::2]), *fitting, *self._machine()]
        return [*arguments, "--resume"] if resume else arguments

    def evaluation_command(self) -> list[str]:
        """Return the arguments of `python` that judge it, by the smooth surrogate too where there is a block."""
        source = self.source
        arguments = ["-m", "training.evaluate", "--ckpt", str(self.checkpoint), "--dataset", source.reader]
        arguments += [
            "--data-root",
            str(source.data_root),
            "--pictures",
            str(fitting_count(source, self.budget.pictures)),
        ]
        arguments += ["--attacks", "paper"]
        if SYSTEMS[self.system].has_block:
            arguments += ["smooth-cw", "--beta", SMOOTH_BETA]
        return [*arguments, *self._machine()]

    def _machine(self) -> list[str]:
        return [] if self.threads is None else ["--threads", str(self.threads)]

    @staticmethod
    def shell_command(arguments: list[str]) -> str:
        """Return arguments of `python` as a line for a shell."""
        return "python " + shlex.join(arguments)

    def check(self) -> None:
        """Check that what is there of this experiment was trained as training_command says.

        Its pictures may have moved, and the hardware may have had another precision.

        Raises:
            ReproductionError: Settings or pictures differ. The message names them and the fix.
        """
        state = self._state()
        if state is None:
            return
        saved = TrainConfig.from_dict(state["config"])
        fix = f"give what it was trained with, or move {self.directory} away to train it anew"
        pictures = training_pictures(self.source, saved)
        others = "" if pictures is None else differing_pictures(state, pictures)
        config = with_saved_defaults(_configuration(self.training_command(resume=False)), saved)
        if others or (self.source.reader == IMAGE_FOLDER and pictures is None):
            # The options that fit the pictures can only be known where these are.
            config = replace(config, validation_pictures=saved.validation_pictures, batch_size=saved.batch_size)
        # The command leaves the precision to the hardware.
        differing = differing_settings(saved, replace(config, precision=saved.precision))
        if differing:
            raise ReproductionError(f"{self.directory} was trained with other settings: {differing}; {fix}")
        if others:
            raise ReproductionError(f"{self.directory} was trained on other pictures ({others}); {fix}")

    def trained(self) -> bool:
        """Return whether the last epoch is done, or training stopped for good because its figures showed a collapse.

        Raises:
            ReproductionError: It was not trained as training_command says.
        """
        self.check()
        state = self._state()
        if state is None:
            return False
        return bool(self.problem()) or state["progress"]["epoch"] >= state["config"]["epochs"]

    def problem(self) -> str:
        """Return why training stopped early, in the trainer's words, or ""."""
        state = self._state()
        return "" if state is None else str(state["progress"]["problem"])

    def _state(self) -> dict[str, Any] | None:
        path = self.directory / run_files.STATE
        if not path.is_file():
            return None
        try:
            state, _ = load_state(path, f"move {self.directory} away to train it anew", mmap=True)
        except TrainerError as error:
            raise ReproductionError(str(error)) from None
        return state

    def train(self) -> None:
        """Train what is missing. An interrupted training continues.

        Raises:
            ReproductionError: Training failed.
        """
        if self.trained():
            return
        code = self._python(self.training_command(resume=(self.directory / run_files.STATE).is_file()))
        # A collapse is a result: the best checkpoint until then is judged, and the table says so.
        if code != 0 and not (self.problem() and self.checkpoint.is_file()):
            raise ReproductionError(f"training {self.name} failed; its message is above. The same command continues")

    def judge(self) -> dict[str, Any]:
        """Judge the trained system and return the report. The evaluation measures only what the report lacks.

        Raises:
            ReproductionError: The evaluation failed.
        """
        if self._python(self.evaluation_command()) != 0:
            raise ReproductionError(f"judging {self.name} failed; its message is above. The same command continues")
        return self.read_report()

    def read_report(self) -> dict[str, Any]:
        """Return the report of the trained system, which judge has made.

        Raises:
            OSError: It cannot be read.
            json.JSONDecodeError: It is none.
        """
        report: dict[str, Any] = json.loads(self.report.read_text())
        return report

    def _python(self, arguments: list[str]) -> int:
        # A process of its own keeps threads, seeds and memory of one experiment from reaching the next.
        say(f"$ {self.shell_command(arguments)}")
        return subprocess.run([sys.executable, *arguments], env=os.environ | {"PYTHONUNBUFFERED": "1"}).returncode


def _without(arguments: list[str], flags: Sequence[str]) -> list[str]:
    """Return arguments without some options and the value of each."""
    dropped = {index + more for index, text in enumerate(arguments) if text in flags for more in (0, 1)}
    return [text for index, text in enumerate(arguments) if index not in dropped]


def _configuration(arguments: list[str]) -> TrainConfig:
    """Return the configuration of arguments of `python` that train."""
    return configure(parse(arguments[2:]), torch.device("cpu"))
