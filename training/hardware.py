"""Try what a configuration asks for on the device: the precision that it computes in, and the backbone on a picture."""

from typing import Literal

import torch
from torch import nn

from sgn_serve.common.error_text import first_line
from training.common.command_line import OptionError
from training.common.devices import free_memory, gib
from training.config import TrainConfig, check_side
from training.data.datasets import ARCHIVES, IMAGE_SIZE
from training.networks.activations import with_activation
from training.networks.backbones import build_backbone, strides_over_one_pixel
from training.networks.errors import ArchitectureError

_COPIES = 3
"""Numbers of 4 bytes that training holds for each parameter: itself, its gradient and its momentum."""


def hardware_precision(device: torch.device) -> Literal["float32", "bf16"]:
    """Return "bf16" where the device computes in it, "float32" where it would be emulated and slower."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "float32"
    # PyTorch has no public name for this; without the function, float32 is right everywhere, only slower.
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "bf16" if supported() else "float32"


def check_backbone(config: TrainConfig, device: torch.device) -> None:
    """Build the backbone for pictures of the size that is known before they are read, and try a single one.

    It is built without memory for weights, on the meta device: 0.07 s instead of 0.36 s for WRN-28-10. A network that
    cannot be built or tried there is built as it will be trained.

    Args:
        config: The configuration.
        device: Where training will run.

    Raises:
        OptionError: A hole or a padding is larger than such pictures, or the memory holds no such network.
        ArchitectureError: It cannot be built, or cannot be trained on such pictures or in such batches.
    """
    side = IMAGE_SIZE if config.dataset in ARCHIVES else config.image_size
    if side is not None:
        check_side(config, side)
    try:
        with torch.device("meta"):
            _try_backbone(config, device, side)
    except OptionError:
        raise
    except Exception:  # its own errors come again; what the meta device cannot do raises anything
        _try_backbone(config, device, side)


def _check_memory(backbone: nn.Module, config: TrainConfig, device: torch.device) -> None:
    """Refuse a network whose training needs more than all memory that is free, its features left aside.

    Raises:
        OptionError: It does. The message says how much.
    """
    copies = 1 if config.freeze_backbone else _COPIES
    needed = 4 * copies * sum(parameter.numel() for parameter in backbone.parameters())
    free = free_memory(device)
    if free is not None and needed > free:
        raise OptionError(
            f"--arch {config.arch}: its weights{', gradients and momentum' if copies > 1 else ''} take {gib(needed)}, "
            f"and {gib(free)} are free; pass a smaller one"
        )


def _try_backbone(config: TrainConfig, device: torch.device, side: int | None) -> None:
    """Build the backbone on the current device, and try it on a picture.

    Args:
        config: The configuration.
        device: Where training will run.
        side: Side in pixels of the pictures, None where it is not known.

    Raises:
        OptionError: The memory holds no such network.
        ArchitectureError: It cannot be built, or cannot be trained on such pictures or in such batches.
    """
    backbone = build_backbone(config.arch, 2, None if side is None else (side, side))
    with_activation(backbone, config.activation)
    _check_memory(backbone, config, device)
    if side is None:
        return
    if device.type == "cpu" and config.precision == "bf16" and strides_over_one_pixel(backbone, side):
        # Measured with PyTorch 2.14: that layer's weight gradient is read from memory that nothing was written to.
        raise ArchitectureError(
            f"{config.arch} on pictures of {side}x{side} has a convolution that strides over a single pixel, which "
            "PyTorch differentiates wrongly in bf16 on a CPU; pass --precision float32, or a larger --image-size"
        )
    if config.batch_size != 1:
        return
    try:
        with torch.no_grad():
            backbone.train()(torch.zeros(1, 3, side, side))
    except ValueError as error:  # batch norm has nothing to normalise in one picture of one pixel
        raise ArchitectureError(
            f"{config.arch} cannot be trained on one picture of {side}x{side} at a time ({first_line(error)}); pass a "
            "larger --batch-size or --image-size"
        ) from None
