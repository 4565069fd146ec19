"""Convert weights of another program to a checkpoint, as the command line asks."""

import sys
from pathlib import Path
from typing import Any

import torch

from sgn_serve.graph_format import file_sha256
from training.checkpoint import BlockConfig, CheckpointInfo, build_model, save_checkpoint
from training.common.errors import TrainingError
from training.common.provenance import current_versions, git_commit
from training.convert.errors import ConversionError
from training.convert.guessing import guess_architecture
from training.convert.matching import Match, match
from training.convert.options import CIFAR10, CIFAR_SIZE, Options
from training.convert.reading import ForeignWeights, read_weights
from training.convert.spellings import refuse_other_networks
from training.networks.errors import ArchitectureError
from training.networks.names import TIMM_PREFIX

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NO_NORMALISATION = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Mean and standard deviation of a network that takes pictures as they are, in [0, 1]."""

BLOCK = BlockConfig(scale=8 / 255, gradient_scaling="rms")
"""The block that --add-block adds: the form that this project trains."""
SEED = 0
"""Seed of that block's first weights."""


def class_names(text: str) -> tuple[str, ...]:
    """Return the names that --classes stands for.

    Raises:
        ConversionError: There are fewer than two, or one of them comes twice.
    """
    if text == CIFAR10:
        return CIFAR10_CLASSES
    path = Path(text)
    parts = path.read_text().splitlines() if "," not in text and path.is_file() else text.split(",")
    names = tuple(part.strip() for part in parts if part.strip())
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConversionError(f"--classes names {twice!r} twice; give each class a name of its own")
    if len(names) < 2:
        raise ConversionError(f"--classes {text!r} names {len(names)} class; pass a,b,c, {CIFAR10} or a file of names")
    return names


def convert(options: Options) -> list[str]:
    """Write the checkpoint, and return what was done, one line each.

    Raises:
        ConversionError: The weights cannot be read, or do not fit the network.
        WriteError: The checkpoint cannot be written.
    """
    names = class_names(options.classes)
    if options.out.exists() and options.weights.exists() and options.out.samefile(options.weights):
        raise ConversionError(f"--out {options.out} is the file of --weights itself; pass another")
    weights = read_weights(options.weights)
    refuse_other_networks(weights.tensors)
    lines = [f"{weights.path}: {note}" for note in weights.notes]
    arch = options.arch
    if arch is None:
        arch = guess_architecture(weights.tensors)
        lines.append(f"took it for {arch}, by its names and shapes")
    mean, std, source = _normalisation(options, weights, arch)
    lines.append(f"normalisation: {source}")
    info = _describe(options, arch, names, mean, std)
    torch.manual_seed(SEED)
    try:
        network = build_model(info)
    except ArchitectureError as error:
        raise ConversionError(str(error)) from None
    found = match(weights.tensors, arch, network.backbone.state_dict())
    _require_complete(found, weights, arch, len(names))
    network.backbone.load_state_dict(found.tensors)
    if not all(bool(tensor.isfinite().all()) for tensor in found.tensors.values()):
        raise ConversionError(
            f"{weights.path}: not all of its numbers are finite; take an earlier file of that training"
        )
    if found.unused:
        lines.append(
            f"left out {len(found.unused)} tensors that its own program does not use, such as {found.unused[0]}"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(options.out, network.state_dict(), info)
    lines.append(f"names: {found.spelling.title}")
    block = "a block of random weights added" if options.add_block else "no block"
    lines.append(f"wrote {options.out}: {arch}, {len(found.tensors)} tensors, {len(names)} classes, {block}")
    return lines


def _describe(
    options: Options, arch: str, names: tuple[str, ...], mean: tuple[float, ...], std: tuple[float, ...]
) -> CheckpointInfo:
    """Return the description of the checkpoint."""
    cifar10 = options.classes == CIFAR10
    size = options.image_size or _usual_size(arch)
    return CheckpointInfo(
        architecture=arch,
        class_names=names,
        image_size=(size, size),
        mean=mean,
        std=std,
        dataset=options.dataset_name or ("CIFAR-10" if cifar10 else "unknown"),
        method="converted",
        epsilon=options.epsilon,
        block=BLOCK if options.add_block else None,
        seed=SEED,
        recipe={
            "dataset": CIFAR10 if cifar10 else "image-folder",
            "image_size": None if cifar10 else size,
            "weights": options.weights.name,
            "weights_sha256": file_sha256(options.weights),
        },
        versions=current_versions(),
        git_commit=git_commit(),
        activation=options.activation,
    )


def _usual_size(arch: str) -> int:
    if not arch.startswith(TIMM_PREFIX):
        return CIFAR_SIZE
    return int(_timm_config(arch).get("input_size", (3, 224, 224))[1])


def _timm_config(arch: str) -> dict[str, Any]:
    """Return timm's configuration of a network, empty where timm or the network is missing."""
    try:
        import timm
    except ModuleNotFoundError:
        return {}  # build_model says so
    described = timm.get_pretrained_cfg(arch.removeprefix(TIMM_PREFIX), allow_unregistered=True)
    return {} if described is None else dict(described.to_dict())  # type: ignore[no-untyped-call]


def _normalisation(
    options: Options, weights: ForeignWeights, arch: str
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Return mean and standard deviation, and where they are from.

    Raises:
        ConversionError: Only one of --mean and --std is given, or a standard deviation is not above zero.
    """
    if (options.mean is None) != (options.std is None):
        raise ConversionError("--mean and --std belong together; pass both or neither")
    if options.mean is not None and options.std is not None:
        mean, std, source = options.mean, options.std, "by --mean and --std"
    elif weights.mean is not None and weights.std is not None:
        mean, std, source = weights.mean, weights.std, "the file's own"
    elif arch.startswith(TIMM_PREFIX) and "mean" in _timm_config(arch):
        config = _timm_config(arch)
        mean, std = (tuple(float(value) for value in config[name]) for name in ("mean", "std"))
        source = "timm's for this network"
    else:
        mean, std = NO_NORMALISATION
        source = "none, for the file has none; pass --mean and --std if its program normalises outside the network"
    if min(std) <= 0:
        raise ConversionError("the standard deviation of a channel must be above 0; pass --mean and --std")
    shown = " and ".join(",".join(f"{value:.4g}" for value in values) for values in (mean, std))
    return mean, std, f"{shown} ({source})"


def _require_complete(found: Match, weights: ForeignWeights, arch: str, classes: int) -> None:
    """Raise ConversionError unless every tensor of the file and of the network has its counterpart."""
    if not found.problems:
        return
    logits = found.logits_in_file
    if logits is not None:
        raise ConversionError(
            f"{weights.path}: has {logits} logits, and --classes names {classes}; name {logits} classes", found.lines()
        )
    raise ConversionError(
        f"{weights.path}: {found.problems} of its or the network's tensors do not fit {arch}; pass the --arch that it "
        "is of, or see docs/how-to/own-backbone.md",
        found.lines(),
    )


def run(options: Options) -> int:
    """Convert the weights, print what was done, and return the exit status."""
    try:
        print("\n".join(convert(options)))
    except TrainingError as error:
        for line in getattr(error, "details", ()):
            print(line, file=sys.stderr)
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0
