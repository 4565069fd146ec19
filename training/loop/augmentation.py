"""Augment the pictures of a training batch as the configuration asks."""

import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import TrainConfig
from training.data.batches import Placement, draw_placement
from training.data.mixing import cutmix, cutout
from training.data.random_crops import crop, draw_boxes


class Augmentation:
    """Random crops, mirror images, cutout and CutMix.

    Args:
        config: The configuration.
        mean: Mean of each channel, in [0, 1], which cutout fills its holes with.
        classes: How many classes there are.
        aspects: Width over height of every picture (N), for random-resized crops. None where there are none of those.

    Attributes:
        placement: Where the last batch's pixels came from, in the padded pictures; None before the first batch.
    """

    def __init__(self, config: TrainConfig, mean: tuple[float, ...], classes: int, aspects: Tensor | None):
        self._config, self._mean, self._classes, self._aspects = config, mean, classes, aspects
        self._boxes: Tensor | None = None
        self.placement: Placement | None = None

    def start_epoch(self, seed: int) -> None:
        """Draw what each picture gets in this epoch.

        Crops depend on the seed and the picture's index alone: not on the batches, their order or the processes.
        """
        if self._aspects is not None:
            # Away from the seeds of the global generator, so that the two do not draw the same numbers.
            self._boxes = draw_boxes(self._aspects, self._config.random_resized_crop, seed + (1 << 60))

    def __call__(self, images: Tensor, labels: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Augment a batch. All but the crops' boxes is drawn from torch's global generator.

        Args:
            images: (N, 3, H, W) uint8; larger than the network with random-resized crops.
            labels: (N).
            chosen: (N), the pictures' indices.

        Returns:
            Images (N, 3, H, W) uint8 of the network's size, and targets: see training.methods.Batch.
        """
        config, padding = self._config, self._config.crop_padding
        if self._boxes is not None:
            side = config.image_size
            if side is None:
                raise ValueError("random-resized crops need an image size")
            images, padding = crop(images, self._boxes[chosen.to(self._boxes.device)], side), 0
        self.placement = draw_placement(images, padding=padding, flip=config.flip)
        images = self.placement.of(F.pad(images, (padding,) * 4))
        targets = labels
        if config.cutout:
            mean = torch.tensor(self._mean, device=images.device).view(1, -1, 1, 1)
            images = cutout(images, config.cutout, (255 * mean).round().to(images.dtype))
        if config.cutmix:
            images, targets = cutmix(images, labels, self._classes, config.cutmix)
        return images, targets
