"""The command line of `python -m training`, made from what TrainConfig says of its options."""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgn_serve.command_parser import CommandParser
from training.common.command_line import OptionError
from training.common.described_options import DescribedOption, add_options, given_options
from training.common.devices import DEFAULT_DEVICE, check_threads
from training.common.given_paths import PathError
from training.config import FINETUNE, METHODS, TrainConfig, check_given, recipe_defaults
from training.data.datasets import DATASETS
from training.networks.names import check_spelling

if TYPE_CHECKING:
    import torch

PROGRAM = "python -m training"


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


def checked(arguments: argparse.Namespace) -> TrainConfig:
    """Return the configuration without PyTorch: all of it but the precision that depends on the device.

    Args:
        arguments: The namespace that build_parser's parser returned.

    Raises:
        OptionError: An option is out of range, or does not go with another one.
        ArchitectureError: The backbone's name is misspelled.
        DeviceError: The number of threads is none.
    """
    check_threads(arguments.threads)
    given = given_options(TrainConfig, arguments)
    method = given.get("method", TrainConfig.method)
    recipe = given.get("recipe", "finetune" if given.get("pretrained") else TrainConfig.recipe)
    defaults = recipe_defaults(given.get("dataset", TrainConfig.dataset), method, recipe)
    config = TrainConfig(**(defaults | {"recipe": recipe} | given))
    check_given(config, given)
    check_spelling(config.arch)
    return config


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
    state = folder / "state.pt"
    if resume:
        model = folder / "model.safetensors"
        if not state.is_file() and model.is_file():
            raise PathError(
                f"{state}: no such file, so there is nothing to resume; restore it from a copy, or give another --run "
                f"and --init-from {model}"
            )
        if not state.is_file():
            raise PathError(f"{state}: no such file, so there is nothing to resume; leave --resume away to start")
        return
    for file in (state, folder / "model.safetensors"):
        if file.exists():
            hint = "add --resume to continue that run, or give" if file == state else "move it away or give"
            raise PathError(f"{file} exists: {hint} another --run")


def configure(arguments: argparse.Namespace, device: "torch.device") -> TrainConfig:
    """Return the configuration: the options that were given, over the recipe's defaults.

    Args:
        arguments: The namespace that build_parser's parser returned.
        device: Where training will run, which decides the default precision.

    Raises:
        OptionError: An option is out of range, or does not go with another one.
        ArchitectureError: The backbone is unknown, or cannot have this activation or take such pictures.
        DeviceError: The number of threads is none.
    """
    config = checked(arguments)
    from training.hardware import check_backbone, hardware_precision  # it imports PyTorch

    if "precision" not in given_options(TrainConfig, arguments):
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
