"""Untrained networks to time: what a network has learnt does not change how long it takes."""

import torch

from training.checkpoint import BlockConfig, CheckpointInfo, build_model
from training.networks.self_gradient import SelfGradientNetwork

CLASSES = tuple("0123456789")
BLOCK = BlockConfig(5, 8 / 255, "rms")


def untrained_network(
    architecture: str, image_size: int, block: BlockConfig | None = BLOCK
) -> tuple[SelfGradientNetwork, CheckpointInfo]:
    """A network of ten classes for square pictures, on the CPU, the same at every call, and what a checkpoint says.

    image_size: height and width
    block:      None for a plain network
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
        epsilon=8 / 255,
        block=block,
        seed=0,
    )
    return build_model(info), info
