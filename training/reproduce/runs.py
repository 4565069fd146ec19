"""Trains and judges one system of a table, or finds that it has been done."""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from training.config import TrainConfig
from training.data.loading import load_pictures, split_indices
from training.data.picture_set import DatasetError
from training.loop.state import TrainingError, description, differing_pictures, differing_settings, load_state
from training.options import build_parser, configure
from training.reproduce.systems import SYSTEMS, Budget

SMOOTH_BETA = "20"


class ReproductionError(RuntimeError):
    """A table cannot be made; the message says what failed. What was trained and measured so far stays."""


@dataclass(frozen=True)
class Source:
    """Where a data set's pictures are and which reader reads them.

    dataset:   of the paper: cifar10, cifar100 or svhn
    reader:    --dataset of `python -m training`
    data_root: its --data-root
    name:      its --dataset-name, for figures; "" for the data set's own name
    """

    dataset: str
    reader: str
    data_root: Path
    name: str

    def flags(self) -> list[str]:
        named = ["--dataset-name", self.name] if self.name else []
        return ["--dataset", self.reader, "--data-root", str(self.data_root), *named]


@cache
def training_pictures(source: Source, held_out: int, seed: int) -> dict[str, Any] | None:
    """What a run's state says about the pictures that it is trained on, None where they are not here.

    held_out: for validation
    """
    try:
        pictures = load_pictures(source.reader, source.data_root, "train")
    except DatasetError:
        # A network that was trained elsewhere can still be judged.
        return None
    mean, _ = pictures.channel_statistics(split_indices(pictures, held_out, seed)[0])
    return description(pictures, mean)


@dataclass(frozen=True)
class Run:
    """One system trained on one data set at one budget, in runs/reproduce/<budget>/<data set>/<system>."""

    system: str
    source: Source
    budget_name: str
    budget: Budget
    threads: int | None

    @property
    def name(self) -> str:
        return f"reproduce/{self.budget_name}/{self.source.dataset}/{self.system}"

    @property
    def directory(self) -> Path:
        return Path("runs") / self.name

    @property
    def checkpoint(self) -> Path:
        return self.directory / "model.safetensors"

    @property
    def report(self) -> Path:
        return self.directory / "evaluation.json"

    def training_command(self, resume: bool) -> list[str]:
        """Arguments of `python`."""
        arguments = ["-m", "training", *self.source.flags(), "--arch", self.budget.arch, "--run", self.name]
        arguments += [*self.budget.flags, *SYSTEMS[self.system].flags, *self._machine()]
        return [*arguments, "--resume"] if resume else arguments

    def evaluation_command(self) -> list[str]:
        """Arguments of `python`: the paper's attacks, and the smooth surrogate's where there is a block."""
        source = self.source
        arguments = ["-m", "training.evaluate", "--ckpt", str(self.checkpoint), "--dataset", source.reader]
        arguments += ["--data-root", str(source.data_root), "--pictures", str(self.budget.pictures)]
        arguments += ["--attacks", "paper"]
        if SYSTEMS[self.system].has_block:
            arguments += ["smooth-cw", "--beta", SMOOTH_BETA]
        return [*arguments, *self._machine()]

    def _machine(self) -> list[str]:
        return [] if self.threads is None else ["--threads", str(self.threads)]

    @staticmethod
    def shell_command(arguments: list[str]) -> str:
        return "python " + shlex.join(arguments)

    def check(self) -> None:
        """Whatever there is of this run, was it trained as training_command says?

        Its pictures may have moved, and it may have been trained on hardware of another precision.
        raises ReproductionError, naming what differs and the fix
        """
        state = self._state()
        if state is None:
            return
        saved = TrainConfig.from_dict(state["config"])
        fix = f"give what it was trained with, or move {self.directory} away to train it anew"
        arguments = build_parser().parse_args(self.training_command(resume=False)[2:])
        config = configure(arguments, torch.device("cpu"))
        # The command leaves the precision to the hardware.
        differing = differing_settings(saved, replace(config, precision=saved.precision))
        if differing:
            raise ReproductionError(f"{self.directory} was trained with other settings: {differing}; {fix}")
        # States that an older version saved do not say what they were trained on, and reading pictures takes a while.
        pictures = training_pictures(self.source, saved.validation_pictures, saved.seed) if "data" in state else None
        if pictures is not None and (differing := differing_pictures(state, pictures)):
            raise ReproductionError(f"{self.directory} was trained on other pictures ({differing}); {fix}")

    def trained(self) -> bool:
        """Whether the last epoch is done, or training stopped for good because its figures showed a collapse.

        raises ReproductionError where it was not trained as training_command says
        """
        self.check()
        state = self._state()
        if state is None:
            return False
        return bool(self.problem()) or state["progress"]["epoch"] >= state["config"]["epochs"]

    def problem(self) -> str:
        """Why training stopped early, in the trainer's words, or ""."""
        state = self._state()
        return "" if state is None else str(state["progress"]["problem"])

    def _state(self) -> dict[str, Any] | None:
        path = self.directory / "state.pt"
        if not path.is_file():
            return None
        try:
            state, _ = load_state(path, f"move {self.directory} away to train it anew", mmap=True)
        except TrainingError as error:
            raise ReproductionError(str(error)) from None
        return state

    def train(self) -> None:
        """Trains what is missing; an interrupted training goes on.

        raises ReproductionError
        """
        if self.trained():
            return
        code = self._python(self.training_command(resume=(self.directory / "state.pt").is_file()))
        # A collapse is a result: the best checkpoint there is, is judged, and the table says so.
        if code != 0 and not (self.problem() and self.checkpoint.is_file()):
            raise ReproductionError(f"training {self.name} failed; its message is above. The same command goes on")

    def judge(self) -> dict[str, Any]:
        """The report of the trained system; asked for every time, because it measures only what it lacks.

        raises ReproductionError
        """
        if self._python(self.evaluation_command()) != 0:
            raise ReproductionError(f"judging {self.name} failed; its message is above. The same command goes on")
        report: dict[str, Any] = json.loads(self.report.read_text())
        return report

    def _python(self, arguments: list[str]) -> int:
        # A process of its own keeps threads, seeds and memory of one run from touching the next.
        print(f"$ {self.shell_command(arguments)}", file=sys.stderr, flush=True)
        return subprocess.run([sys.executable, *arguments], env=os.environ | {"PYTHONUNBUFFERED": "1"}).returncode
