"""Build untrained networks to time: what a network has learnt does not change how long it takes."""

import torch

from training.checkpoint import BlockConfig, CheckpointInfo, build_model
from training.config import EPS
from training.convert.convert import BLOCK
from training.networks.self_gradient import SelfGradientNetwork

CLASSES = tuple("0123456789")


def untrained_network(
    architecture: str, image_size: int, block: BlockConfig | None = BLOCK
) -> tuple[SelfGradientNetwork, CheckpointInfo]:
    """Return a network of ten classes for square pictures, on the CPU, and the description for its checkpoint.

    The weights are the same at every call.

    Args:
        architecture: The backbone's name, as for --arch.
        image_size: Height and width in pixels.
        block: The block's settings, or None for a plain network.
    """
    torch.manual_seed(0)
    info = CheckpointInfo(
        architecture=architecture,
        class_names=CLASSES,
        image_size=(image_size, image_size),
        mean=(0.49, 0.48, 0.45),
        std=(0.25, 0.24, 0.26),
        dataset="random pictures",
        method="standard" if block is None else "self-gradient",
        epsilon=EPS,
        block=block,
        seed=0,
    )
    return build_model(info), info
