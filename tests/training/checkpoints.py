"""Descriptions of tiny networks, and checkpoints of untrained ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from training.checkpoint import BlockConfig, CheckpointInfo, build_model, save_checkpoint

TINY = CheckpointInfo(
    architecture="wrn-10-1",
    class_names=("blue", "green", "red"),
    image_size=(8, 8),
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.25, 0.3),
    dataset="colours",
    method="self-gradient",
    epsilon=8 / 255,
    block=BlockConfig(scale=8 / 255, gradient_scaling="rms"),
    seed=0,
    recipe={"dataset": "image-folder", "image_size": None},
)
"""A self-gradient network of three classes."""


def tiny_info(**changes: Any) -> CheckpointInfo:
    """TINY with other values of some fields."""
    return replace(TINY, **changes)


def save_untrained(folder: Path, info: CheckpointInfo) -> Path:
    """Saves a network with random weights of seed 0 as model.safetensors in a folder."""
    torch.manual_seed(0)
    path = folder / "model.safetensors"
    save_checkpoint(path, build_model(info).state_dict(), info)
    return path
