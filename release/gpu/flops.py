"""Count floating-point operations with PyTorch's own counter.

It counts two for each multiply-and-add of a convolution or a matrix product, and none for anything else.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from training.checkpoint import CheckpointInfo, build_model
from training.config import TrainConfig
from training.methods import build_method
from training.networks.self_gradient import SelfGradientNetwork

PICTURES = 2
"""Batch size of a count."""


def of_function(function: Callable[[Tensor], object], image_size: int) -> float:
    """Return the operations that a function takes for one picture.

    Args:
        function: Takes images (N, 3, H, W) float32 on the CPU.
        image_size: Height and width in pixels.
    """
    images = torch.rand(PICTURES, 3, image_size, image_size)
    with FlopCounterMode(display=False) as counter:
        function(images)
    return counter.get_total_flops() / PICTURES


def of_network(network: SelfGradientNetwork, image_size: int) -> dict[str, float]:
    """Return the operations of one pass and of both passes for one picture.

    Args:
        network: The network, in eval mode on the CPU.
        image_size: Height and width in pixels.

    Returns:
        The operations by "one pass" and "both passes".
    """
    with torch.no_grad():
        return {
            "one pass": of_function(network.plain_logits, image_size),
            "both passes": of_function(network, image_size),
        }


def of_training_step(config: TrainConfig, info: CheckpointInfo) -> float:
    """Return the operations of a training step for one picture, its attack included. They are counted on the CPU.

    Args:
        config: The training configuration.
        info: The network's description.
    """
    model, method = build_model(info).train(), build_method(config)

    def step(images: Tensor) -> None:
        labels = torch.arange(PICTURES)
        method.loss(model, method.attack(model, images, labels)).backward()

    return of_function(step, info.image_size[0])
