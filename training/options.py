"""The command line of `python -m training`, made from what TrainConfig says of its options."""

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from training.common.described_options import DescribedOption, add_options, given_options
from training.common.devices import default_device
from training.common.errors import first_line
from training.config import METHODS, TrainConfig, check_given, check_side, recipe_defaults
from training.data.archives import ARCHIVES, IMAGE_SIZE
from training.data.loading import DATASETS
from training.networks.activations import with_activation
from training.networks.backbones import build_backbone, strides_over_one_pixel, usual_image_size
from training.networks.errors import ArchitectureError

LARGEST_OWN_SIDE = 512
"""Longest side in pixels of pictures of one size that are not resized, where nobody says to what."""
_SIDES = (32, 64, 96, 128)
"""Sides that pictures of several sizes are resized to, where neither the user nor the backbone says to what."""


def hardware_precision(device: torch.device) -> str:
    """Return "bf16" where the device computes in it, "float32" where it would be emulated and slower."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "float32"
    # PyTorch has no public name for this; without the function, float32 is right everywhere, only slower.
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "bf16" if supported() else "float32"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; options of TrainConfig that are not given are absent from what it parses."""
    parser = argparse.ArgumentParser(
        "python -m training",
        description="Trains a self-gradient network or a baseline. The defaults are the paper's recipe for WRN-28-10.",
    )
    parser.add_argument("--data-root", type=Path, required=True, help="folder of the data set")
    parser.add_argument(
        "--run",
        # torchrun takes a --run anywhere on its command line for its own --run-path.
        "--run-name",
        help="name of the run: results go to runs/<name> (default: <arch>-<method>-<dataset>); "
        "under torchrun write --run-name",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue an interrupted run after its last complete epoch"
    )
    parser.add_argument(
        "--device",
        default=default_device(),
        help="cpu, cuda, cuda:1, ...; under torchrun cuda is each process's own GPU",
    )
    parser.add_argument(
        "--threads", type=int, help="CPU threads (default: all cores); figures depend on it in the last bits"
    )
    add_options(parser, TrainConfig, variations)
    return parser


def configure(arguments: argparse.Namespace, device: torch.device) -> TrainConfig:
    """Return the configuration: the options that were given, over the recipe's defaults.

    Args:
        arguments: The namespace that build_parser's parser returned.
        device: Where training will run, which decides the default precision.

    Raises:
        OptionError: An option is out of range, or does not go with another one.
        ArchitectureError: The backbone is unknown, or cannot have this activation or take such pictures.
    """
    given = given_options(TrainConfig, arguments)
    method = given.get("method", "self-gradient")
    defaults = recipe_defaults(given.get("dataset", "image-folder"), method) | {"precision": hardware_precision(device)}
    config = TrainConfig(**(defaults | given))
    check_given(config, given)
    check_backbone(config, device)
    return config


def check_backbone(config: TrainConfig, device: torch.device) -> None:
    """Build the backbone for pictures of the size that is known before they are read, and try a single one.

    Raises:
        OptionError: A hole or a padding is larger than such pictures.
        ArchitectureError: It cannot be built, or cannot be trained on such pictures or in such batches.
    """
    side = IMAGE_SIZE if config.dataset in ARCHIVES else config.image_size
    if side is not None:
        check_side(config, side)
    backbone = build_backbone(config.arch, 2, None if side is None else (side, side))
    with_activation(backbone, config.activation)
    if side is None:
        return
    if device.type == "cpu" and config.precision == "bf16" and strides_over_one_pixel(backbone, side):
        # Measured with PyTorch 2.14: that layer's weight gradient is read from memory that nothing was written to.
        raise ArchitectureError(
            f"{config.arch} on pictures of {side}x{side} has a convolution that strides over a single pixel, which "
            "PyTorch differentiates wrongly in bf16 on a CPU; pass --precision float32, or a larger --image-size"
        )
    if config.batch_size > 1:
        return
    try:
        with torch.no_grad():
            backbone.train()(torch.zeros(1, 3, side, side))
    except ValueError as error:  # batch norm has nothing to normalise in one picture of one pixel
        raise ArchitectureError(
            f"{config.arch} cannot be trained on one picture of {side}x{side} at a time ({first_line(error)}); pass a "
            "larger --batch-size or --image-size"
        ) from None


def with_image_size(config: TrainConfig, sizes: list[tuple[int, int]], start: int | None) -> tuple[TrainConfig, str]:
    """Return the configuration with the image size of a folder's pictures, and a line that says so.

    Args:
        config: The configuration. An image size in it stays, and the line is empty then.
        sizes: The (height, width) of the pictures, in pixels.
        start: Side of the pictures of the network that training starts from; None where it starts anew.

    Returns:
        An image size of None leaves pictures of one size as they are.
    """
    if config.image_size is not None:
        return config, ""
    usual = usual_image_size(config.arch)
    common = sizes[0] if len(set(sizes)) == 1 else None
    if common is not None and max(common) <= (usual or LARGEST_OWN_SIDE):
        return config, ""
    if start is not None:
        side, why = start, f"as for {config.init_from}"
    elif usual is not None:
        side, why = usual, f"which {config.arch} is made for"
    else:
        middle = statistics.median(min(size) for size in sizes)
        side = max((side for side in _SIDES if side <= middle), default=_SIDES[0])
        why = f"by the median of their shorter sides, {middle:g}, and at most {_SIDES[-1]}"
    found = f"{len(set(sizes)):,} sizes" if common is None else f"{common[1]}x{common[0]}"
    line = f"pictures of {found} are resized to {side}x{side}, {why}; --image-size PIXELS takes another size"
    return replace(config, image_size=side), line


def variations(item: DescribedOption) -> Iterator[str]:
    """Yield the values that recipe_defaults gives an option for some data sets and methods, and for which ones."""
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
