"""Labelled pictures as uint8 tensors."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from training.common.errors import TrainingError
from training.data.automatic_split import AutomaticSplit
from training.data.random_crops import WholePictures

_COUNTED_BYTES = 2**26
"""Pixels that are copied at a time to count them."""


class DatasetError(TrainingError):
    """Pictures are missing or unreadable. The message names the place, what was expected, and the fix."""


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one size with their labels.

    Attributes:
        images: (N, 3, H, W) uint8.
        labels: (N) int64, indices into class_names.
        class_names: The classes, in the order of the logits.
        files: The file of each picture, where they come from a folder; else empty.
        whole: The same pictures with room for random crops, where somebody asked for them.
        split: Division of the folder that they are a part of, where that had no train/ and test/.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    files: tuple[Path, ...] = ()
    whole: WholePictures | None = None
    split: AutomaticSplit | None = None

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.labels)

    def sha256(self) -> str:
        """Return the SHA-256 of pixels and labels in their order, in hexadecimal."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels):
            digest.update(tensor.contiguous().cpu().numpy().data)
        return digest.hexdigest()

    def subset(self, indices: Tensor) -> "PictureSet":
        """Return copies of the pictures at `indices` (M)."""
        return replace(
            self,
            images=self.images[indices],
            labels=self.labels[indices],
            files=tuple(self.files[index] for index in indices.tolist()) if self.files else (),
            whole=None if self.whole is None else self.whole.subset(indices),
        )

    def to(self, device: torch.device) -> "PictureSet":
        """Return the same pictures on a device."""
        return replace(
            self,
            images=self.images.to(device),
            labels=self.labels.to(device),
            whole=None if self.whole is None else self.whole.to(device),
        )

    def channel_statistics(self, indices: Tensor | None = None) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation of each channel, of intensities in [0, 1], rounded to four digits.

        Args:
            indices: (M), of the pictures that count; all by default.
        """
        if indices is None:
            indices = torch.arange(len(self), device=self.images.device)
        histogram = torch.zeros(3, 256, dtype=torch.int64)
        # A few pictures at a time, because counting copies them.
        for some in indices.split(max(1, min(4096, _COUNTED_BYTES // self.images[0].numel()))):
            channels = self.images[some].transpose(0, 1).flatten(1)
            histogram += torch.stack([torch.bincount(channel, minlength=256) for channel in channels]).cpu()
        weights = histogram.double() / histogram.sum(dim=1, keepdim=True)
        levels = torch.arange(256, dtype=torch.double) / 255
        mean = (weights * levels).sum(dim=1)
        std = ((weights * levels**2).sum(dim=1) - mean**2).sqrt()
        return tuple(round(value, 4) for value in mean.tolist()), tuple(round(value, 4) for value in std.tolist())
