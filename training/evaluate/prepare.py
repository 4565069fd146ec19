"""Load what an evaluation needs and check that it fits together."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from training.attacks.registry import Source
from training.checkpoint import CheckpointInfo, load_checkpoint
from training.common.files import sha256
from training.data.picture_set import DatasetError


def same_classes(place: Path, names: Sequence[str], info: CheckpointInfo) -> None:
    """raises DatasetError, naming the fix, where the classes are not the checkpoint's"""
    if tuple(names) == info.class_names:
        return
    if len(names) != len(info.class_names):
        difference = f"it has {len(names)} classes and the checkpoint {len(info.class_names)}"
    else:
        difference = f"its classes are not the checkpoint's ({', '.join(info.class_names)})"
    raise DatasetError(f"{place}: {difference}; use what the network was trained on ({info.dataset})")


def source(path: Path, info: CheckpointInfo, device: torch.device) -> Source:
    """The --transfer-from network.

    raises CheckpointError, or DatasetError where it tells other classes apart
    """
    network, description = load_checkpoint(path)
    same_classes(path, description.class_names, info)
    network.to(device).to(memory_format=torch.channels_last)
    network.requires_grad_(False)
    return Source(network, f"{description.method} {description.architecture}", sha256(path))


def output_paths(arguments: argparse.Namespace) -> tuple[Path, Path | None]:
    """The JSON file, and the folder for the page and the plots where one is asked for."""
    if arguments.report is None:
        return arguments.ckpt.with_name("evaluation.json"), None
    if arguments.report.suffix == ".json":
        return arguments.report, None
    return arguments.report / "evaluation.json", arguments.report


def other_reports(given: Sequence[Path]) -> tuple[Path, ...]:
    """The JSON files of --rows-from, each named itself or by its folder.

    raises ValueError where one is not there
    """
    paths = tuple(path / "evaluation.json" if path.is_dir() else path for path in given)
    for path in paths:
        if not path.exists():
            raise ValueError(f"--rows-from {path}: no such file; name what another command wrote with --report")
    return paths
