"""Count floating-point operations, as PyTorch's own counter does: two for each multiply-and-add of a convolution or a
matrix product, none for the rest.
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


def of_function(function: Callable[[Tensor], object], image_size: int) -> float:
    """Return the operations for one picture of a function of images (N, 3, H, W).

    image_size: height and width
    """
    images = torch.rand(PICTURES, 3, image_size, image_size)
    with FlopCounterMode(display=False) as counter:
        function(images)
    return counter.get_total_flops() / PICTURES


def of_network(network: SelfGradientNetwork, image_size: int) -> dict[str, float]:
    """Return the operations for one picture of one pass and of both passes, in inference, on the CPU."""
    with torch.no_grad():
        return {
            "one pass": of_function(network.plain_logits, image_size),
            "both passes": of_function(network, image_size),
        }


def of_training_step(config: TrainConfig, info: CheckpointInfo) -> float:
    """Return the operations for one picture of a training step, its attack included, on the CPU."""
    model, method = build_model(info).train(), build_method(config)

    def step(images: Tensor) -> None:
        labels = torch.arange(PICTURES)
        method.loss(model, method.attack(model, images, labels)).backward()

    return of_function(step, info.image_size[0])
