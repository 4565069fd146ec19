"""Check what a run starts from: another network's backbone, and the place of the pictures."""

from pathlib import Path

import torch

from training.checkpoint import CheckpointInfo, load_checkpoint
from training.common.devices import free_memory
from training.data.picture_set import PictureSet
from training.loop.state import TrainerError
from training.networks.gradient_oracle import GradientOracle


def check_start(path: Path, arch: str, activation: str) -> CheckpointInfo:
    """Check a checkpoint whose backbone training is to start from, and return its description.

    It is cheap, so it comes before the pictures are read.

    Raises:
        CheckpointError: The file is no checkpoint.
        TrainerError: The checkpoint is of another architecture or activation.
    """
    other, info = load_checkpoint(path)
    if info.architecture != arch:
        raise TrainerError(
            f"{path} is a {info.architecture}, not a {arch}; pass a checkpoint of the same --arch to --init-from"
        )
    if info.activation != activation or isinstance(other, GradientOracle):
        raise TrainerError(
            f"{path} is a {info.method} network with activation {info.activation}; pass a checkpoint of the same "
            "--activation, and no gradient-oracle, to --init-from"
        )
    return info


def on_device(pictures: PictureSet, device: torch.device) -> PictureSet:
    """Return the pictures on a device, or where they are, if they would take more than half of its free memory.

    Those go to the device batch by batch; see training.data.batches.
    """
    needed, free = pictures.images.numel(), free_memory(device)
    if pictures.images.device != device and free is not None and needed > free / 2:
        return pictures
    return pictures.to(device)
