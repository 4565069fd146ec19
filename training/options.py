"""The command line of `python -m training`: its parser, made from TrainConfig, its defaults, and what it refuses."""

import argparse
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgn_serve.common.command_parser import CommandParser
from training.common import run_files
from training.common.command_line import OptionError, flag
from training.common.described_options import DescribedOption, add_options, described_options, given_options
from training.common.devices import DEFAULT_DEVICE, check_threads
from training.common.given_paths import PathError
from training.config import FINETUNE, METHODS, OWN_START, TrainConfig, options_in_words
from training.data.datasets import DATASETS
from training.networks.names import check_spelling

if TYPE_CHECKING:
    import torch

PROGRAM = "python -m training"

_OF_THE_ATTACK = ("attack", "attack_steps", "attack_step_size", "attack_start")
"""Options that do nothing where nothing is attacked."""
_OF_A_SCHEDULE = {"lr_milestones": "step", "lr_decay": "step", "lr_warmup": "cyclic"}
"""Options that one schedule alone has."""


@dataclass(frozen=True)
class TrainOptions:
    """All that is asked of a training.

    Attributes:
        data_root: Folder of the data set.
        run: Name of the run; None for that of its configuration.
        resume: Whether an interrupted run goes on.
        device: Where to train; None for the default.
        threads: CPU threads; None for all cores.
        given: The options of TrainConfig that were given, as its constructor takes them.
    """

    data_root: Path
    run: str | None
    resume: bool
    device: str | None
    threads: int | None
    given: Mapping[str, Any]


def parse(argv: Sequence[str] | None = None, program: str = PROGRAM) -> TrainOptions:
    """Return what a command line asks for, or end the program where it cannot be parsed.

    Args:
        argv: The arguments. None takes those of the process.
        program: Name of the program in --help and errors.
    """
    arguments = build_parser(program).parse_args(argv)
    return TrainOptions(
        data_root=arguments.data_root,
        run=arguments.run,
        resume=arguments.resume,
        device=arguments.device,
        threads=arguments.threads,
        given=given_options(TrainConfig, arguments),
    )


def build_parser(program: str = PROGRAM) -> argparse.ArgumentParser:
    """Return the parser; options of TrainConfig that are not given are absent from what it parses."""
    parser = CommandParser(
        program,
        description="Trains a self-gradient network or a baseline. The defaults are the paper's recipe for WRN-28-10.",
    )
    parser.add_argument("--data-root", "--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument(
        "--run",
        # torchrun takes a --run anywhere on its command line for its own --run-path.
        "--run-name",
        help="name of the run: results go to runs/<name> (default: <arch>-<method>-<dataset>); "
        "under torchrun write --run-name",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue an interrupted run where it was saved last; with more --epochs than before, lengthen it",
    )
    parser.add_argument(
        "--device",
        help=f"cpu, cuda, cuda:1, ... (default: {DEFAULT_DEVICE}); under torchrun cuda is each process's own GPU",
    )
    parser.add_argument(
        "--threads", type=int, help="CPU threads (default: all cores); figures depend on it in the last bits"
    )
    add_options(parser, TrainConfig, variations)
    return parser


def checked(options: TrainOptions) -> TrainConfig:
    """Return the configuration without PyTorch: all of it but the precision that depends on the device.

    Args:
        options: What the command line asks for.

    Raises:
        OptionError: An option is out of range, or does not go with another one.
        ArchitectureError: The backbone's name is misspelled.
        DeviceError: The number of threads is none.
    """
    check_threads(options.threads)
    given = dict(options.given)
    method = given.get("method", TrainConfig.method)
    recipe = given.get("recipe", "finetune" if given.get("pretrained") else TrainConfig.recipe)
    defaults = recipe_defaults(given.get("dataset", TrainConfig.dataset), method, recipe)
    config = TrainConfig(**(defaults | {"recipe": recipe} | given))
    check_given(config, given)
    check_spelling(config.arch)
    return config


def recipe_defaults(dataset: str, method: str, recipe: str = "paper") -> dict[str, Any]:
    """Return what a recipe changes with the data set and the method, as TrainConfig's arguments.

    Args:
        dataset: One of DATASETS.
        method: One of METHODS.
        recipe: "paper", or "finetune", which changes some of it.

    Source: section 5.1.2; one-step attack for self-gradient, ten steps of 2/255 for pgd (Madry), its equal with a
    gradient oracle, and trades; labels of bilateral as its authors recommend; steps of nuat as in its code.
    """
    defaults: dict[str, Any] = {}
    if dataset == "svhn":
        # House numbers are not mirror-symmetric.
        defaults |= {"lr": 0.01, "flip": False}
    if method in ("pgd", "trades", "gradient-oracle"):
        defaults |= {"attack_steps": 10, "attack_step_size": 2 / 255}
    if method == "nuat":
        defaults |= {"attack_step_size": 8 / 255}
    if method == "bilateral" and dataset == "cifar100":
        defaults |= {"label_beta": 11.0}
    return defaults | FINETUNE if recipe == "finetune" else defaults


def recipe_line(config: TrainConfig, given: Collection[str]) -> str:
    """Return a line that says what the recipe "finetune" set, "" for the paper's.

    Args:
        config: The configuration.
        given: Names of the fields that were set on purpose, and not by the recipe.
    """
    if config.recipe != "finetune":
        return ""
    by_it = {name: getattr(config, name) for name in FINETUNE if name not in given}
    others = [f"{flag(name)} {getattr(config, name)}" for name in FINETUNE if name in given]
    kept = f"; given instead: {', '.join(others)}" if others else ""
    return f"recipe finetune sets {options_in_words(by_it) or 'nothing'}{kept}"


def check_given(config: TrainConfig, given: Iterable[str]) -> None:
    """Refuse options that somebody gave and that would be ignored.

    Args:
        config: The configuration that they led to.
        given: Names of the fields that were set on purpose.

    Raises:
        OptionError: One of them does nothing for this method or this attack.
    """
    options = {item.name: item.option for item in described_options(TrainConfig)}
    for name in given:
        methods = options[name].methods
        if methods and config.method not in methods:
            raise OptionError(f"{flag(name)} does nothing for --method {config.method}; it is for {', '.join(methods)}")
        if name == "attack_start" and config.method in OWN_START and config.attack_start != "prior":
            raise OptionError(
                f"--attack-start {config.attack_start} does nothing for --method {config.method}, whose attack has a "
                "start of its own; pass --attack-start prior, or leave it away"
            )
        if config.method == "gradient-denoiser" and config.epsilon == 0 and name in _OF_THE_ATTACK:
            raise OptionError(f"{flag(name)} does nothing with --epsilon 0, which attacks nothing; leave one away")
        if name == "minutes_of" and not config.minutes:
            raise OptionError("--minutes-of says what --minutes counts; add --minutes, or leave it away")
        if config.attack == "n-fgsm" and name in ("attack_start", "attack_steps", "attack_step_size"):
            raise OptionError(
                f"{flag(name)} does nothing for --attack n-fgsm, one step from noise; leave one of them away"
            )
        if name in _OF_A_SCHEDULE and config.lr_schedule != _OF_A_SCHEDULE[name]:
            raise OptionError(
                f"{flag(name)} does nothing for --lr-schedule {config.lr_schedule}; add --lr-schedule "
                f"{_OF_A_SCHEDULE[name]}, or leave it away"
            )
        if name == "lr_milestones" and (late := [epoch for epoch in config.lr_milestones if epoch >= config.epochs]):
            raise OptionError(
                f"--lr-milestones {' '.join(map(str, late))} would never come in a training of --epochs "
                f"{config.epochs}; give earlier ones, or more epochs"
            )
        if config.random_resized_crop > 0 and name == "crop_padding":
            raise OptionError("--crop-padding does nothing beside --random-resized-crop; leave one of them away")
        if name == "attack_beta" and config.attack_view != "smooth":
            raise OptionError("--attack-beta is the smooth surrogate's; add --attack-view smooth")


_LONGEST_PART = 255
"""Bytes that Linux's file systems take for the name of a folder."""


def run_folder(name: str | None, config: TrainConfig) -> Path:
    """Return the folder of a run.

    Args:
        name: The run's name, possibly of several parts, such as "cifar10/first". None stands for the configuration's.
        config: The configuration.

    Raises:
        OptionError: The name would lead out of runs/, is not UTF-8, or has a part that is too long for a folder.
    """
    name = f"{config.arch}-{config.method}-{config.dataset}" if name is None else name
    parts = name.split("/")
    if "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise OptionError(
            f"--run {name!r} is no name of a folder in runs/; give one without '..' and without '/' at its ends, "
            f"such as {next((part for part in parts if part.strip('.')), 'first')}"
        )
    try:
        longest = max(len(part.encode()) for part in parts)
    except UnicodeEncodeError:
        # TensorBoard and safetensors take no other names.
        raise OptionError(f"--run {name!r} is not UTF-8; give a name that is") from None
    if longest > _LONGEST_PART:
        raise OptionError(
            f"--run has a part of {longest:,} bytes, too long for the name of a folder; give at most {_LONGEST_PART}"
        )
    return Path("runs", *parts)


def check_run(folder: Path, *, resume: bool) -> None:
    """Check that a run's folder holds a state to resume, or that it is free for a new run.

    Args:
        folder: The folder.
        resume: Whether the run is continued.

    Raises:
        PathError: It does not, or is not.
    """
    state = folder / run_files.STATE
    if resume:
        model = folder / run_files.CHECKPOINT
        if not state.is_file() and model.is_file():
            raise PathError(
                f"{state}: no such file, so there is nothing to resume; restore it from a copy, or give another --run "
                f"and --init-from {model}"
            )
        if not state.is_file():
            raise PathError(f"{state}: no such file, so there is nothing to resume; leave --resume away to start")
        return
    for file in (state, folder / run_files.CHECKPOINT):
        if file.exists():
            hint = "add --resume to continue that run, or give" if file == state else "move it away or give"
            raise PathError(f"{file} exists: {hint} another --run")


def configure(options: TrainOptions, device: "torch.device") -> TrainConfig:
    """Return the configuration: the options that were given, over the recipe's defaults.

    Args:
        options: What the command line asks for.
        device: Where training will run, which decides the default precision.

    Raises:
        OptionError: An option is out of range, or does not go with another one.
        ArchitectureError: The backbone is unknown, or cannot have this activation or take such pictures.
        DeviceError: The number of threads is none.
    """
    config = checked(options)
    from training.hardware import check_backbone, hardware_precision  # it imports PyTorch

    if "precision" not in options.given:
        config = replace(config, precision=hardware_precision(device))
    check_backbone(config, device)
    return config


def variations(item: DescribedOption) -> Iterator[str]:
    """Yield the values that recipe_defaults gives an option for some data sets, methods and recipes, and for which."""
    methods = item.option.methods or METHODS
    where: dict[Any, list[tuple[str, str]]] = {}
    for dataset in DATASETS:
        for method in methods:
            value = recipe_defaults(dataset, method).get(item.name, item.default)
            if value != item.default:
                where.setdefault(value, []).append((dataset, method))
    for value, cases in where.items():
        datasets = [dataset for dataset in DATASETS if any(case[0] == dataset for case in cases)]
        some = [method for method in methods if any(case[1] == method for case in cases)]
        parts = [*([", ".join(some)] if len(some) < len(methods) else [])]
        parts += [", ".join(datasets)] if len(datasets) < len(DATASETS) else []
        yield f"{item.text(value)} for {' on '.join(parts)}"
    if item.name in FINETUNE:
        yield f"{item.text(FINETUNE[item.name])} with --recipe finetune"
