"""The options of `python -m training.convert`: one frozen record. Nothing here imports PyTorch.

An option is described once, by its field; see training.common.described_options.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from sgn_serve.common.graph_format import MAX_SIDE
from training.common import run_files
from training.common.command_line import INTENSITY, Option, OptionError, number
from training.common.described_options import check_options
from training.common.given_paths import require_file
from training.data.class_names import HELP as CLASSES_HELP
from training.data.class_names import read_class_names
from training.networks.names import ACTIVATIONS, KNOWN, check_spelling

SUFFIX = ".safetensors"
"""Ending of a checkpoint's name."""


def three_numbers(text: str) -> tuple[float, ...]:
    """Return the three numbers that a text such as "0.49,0.48,0.45" stands for.

    Raises:
        argparse.ArgumentTypeError: They are not three, or are for pixels from 0 to 255.
    """
    values = tuple(number(part) for part in text.split(","))
    if len(values) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers; write them like 0.49,0.48,0.45")
    if max(values) > 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is for pixels from 0 to 255, and they are from 0 to 1; divide by 255"
        )
    return values


@dataclass(frozen=True)
class Options:
    """The options of a conversion.

    Raises:
        OptionError: A value is out of range, or does not go with another one.
        ArchitectureError: The name of the backbone is misspelled.
    """

    weights: Annotated[Path, Option("state dict: .pt, .pth or .safetensors", required=True)]
    classes: Annotated[str, Option(CLASSES_HELP, required=True)]
    out: Annotated[Path, Option("checkpoint to write, such as runs/x/model.safetensors", required=True, writes=True)]
    arch: Annotated[str | None, Option(f"backbone: {KNOWN}", default="guessed from the tensors")] = None
    mean: Annotated[
        tuple[float, ...] | None,
        Option(
            "per-channel mean that its program normalises with",
            default="the file's own, or timm's, or none",
            metavar="R,G,B",
            read=three_numbers,
        ),
    ] = None
    std: Annotated[
        tuple[float, ...] | None,
        Option(
            "per-channel standard deviation that its program normalises with",
            default="the file's own, or timm's, or none",
            metavar="R,G,B",
            read=three_numbers,
        ),
    ] = None
    image_size: Annotated[
        int | None,
        Option(
            "height and width in pixels",
            minimum=1,
            maximum=MAX_SIDE,
            default="32, or what the timm network is made for",
        ),
    ] = None
    activation: Annotated[str, Option("activation of the backbone", choices=tuple(ACTIVATIONS))] = "relu"
    epsilon: Annotated[
        float,
        Option(
            "L-inf budget it was trained for, such as 8/255; 0 for none",
            minimum=0,
            below=1,
            unit=INTENSITY,
            aliases=("--eps",),
        ),
    ] = 0.0
    dataset_name: Annotated[str, Option("what reports call the data that it was trained on")] = ""
    add_block: Annotated[
        bool,
        Option(
            "wrap it in a self-gradient block of random weights, to be trained with --init-from; else it stays a plain "
            "network"
        ),
    ] = False

    def __post_init__(self) -> None:
        """Check every value against its option, then the values against each other."""
        check_options(self)
        if self.arch is not None:
            check_spelling(self.arch)
        if (self.mean is None) != (self.std is None):
            raise OptionError("--mean and --std belong together; pass both or neither")
        if self.out.suffix not in ("", SUFFIX):
            raise OptionError(f"--out {self.out} is written as safetensors; pass a name that ends in {SUFFIX}")

    def check_files(self) -> None:
        """Check what can be told of the files without reading tensors.

        Raises:
            PathError: The weights are not there.
            OptionError: The classes are none, or the weights would be overwritten.
        """
        read_class_names(self.classes)
        require_file(self.weights, "--weights", "the weights")
        if self.out.exists() and self.out.samefile(self.weights):
            raise OptionError(f"--out {self.out} is the file of --weights itself; pass another")
        if self.out.name == run_files.CHECKPOINT and self.out.with_name(run_files.STATE).exists():
            raise OptionError(
                f"--out {self.out} is the network of a training, which could not be resumed; pass another"
            )
