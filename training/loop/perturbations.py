"""Keep each training picture's last perturbation, for attacks that start from it."""

import torch
from torch import Tensor

from training.common.devices import free_memory, gib
from training.data.batches import Placement
from training.loop.state import TrainerError
from training.parallel.distributed import ALONE, Shard

LEVELS = 127
"""Steps of eps that a stored value counts in, from -127 to 127."""


def check_room(pictures: int, size: tuple[int, int], device: torch.device, shard: Shard) -> None:
    """Refuse perturbations that the free memory does not hold. The process that saves them needs a copy more.

    Args:
        pictures: How many pictures there are.
        size: Height and width of the padded pictures.
        device: Where the perturbations are.
        shard: This process's part of the work.

    Raises:
        TrainerError: There is too little memory; the message names the fix.
    """
    stored, main = 3 * pictures * size[0] * size[1], torch.device("cpu")
    for place in {main, device}:
        needed = 2 * stored if place == main and shard.first else stored
        free = free_memory(place)
        if free is not None and needed > free:
            copies = " with the copy that goes to state.pt" if needed > stored else ""
            raise TrainerError(
                f"--attack-start prior stores a perturbation of {size[1]}x{size[0]} for each of {pictures:,} pictures: "
                f"{gib(needed)}{copies}, and {gib(free)} of memory is free on {place}; leave it away, or pass a "
                "smaller --image-size"
            )


class PerturbationStore:
    """The last perturbation of every picture, one byte a value.

    A perturbation belongs to its picture's pixels, zero padding included: it moves with the crop and is mirrored with
    the picture. What a crop does not show stays as it was. A picture that was never attacked starts at a random corner
    of its ball.

    Args:
        pictures: How many pictures there are.
        size: Height and width of the padded pictures.
        eps: L-inf budget, units of pixel intensity.
        seed: Seed of the random corners.
        device: Where the perturbations are.
        shard: This process's part of the work. Every process stores all perturbations.

    Raises:
        TrainerError: There is too little memory for them.

    Attributes:
        levels: (pictures, 3, H + 2 padding, W + 2 padding) int8, in units of eps / LEVELS.

    Sources: the start is Jia et al.'s, Prior-Guided Adversarial Initialization for Fast Adversarial Training (2022),
    whose code leaves perturbations where they are while pictures are cropped and mirrored, and draws all of them anew
    every 40 epochs. That they follow is from Zheng et al., Efficient Adversarial Training with Transferable Adversarial
    Examples (2020). Here they are never drawn anew.
    """

    def __init__(
        self,
        pictures: int,
        size: tuple[int, int],
        eps: float,
        seed: int,
        device: torch.device,
        shard: Shard = ALONE,
    ):
        check_room(pictures, size, device, shard)
        corners = torch.randint(
            2, (pictures, 3, *size), dtype=torch.int8, generator=torch.Generator().manual_seed(seed)
        )
        self.levels = corners.mul_(2).sub_(1).mul_(LEVELS).to(device)
        self._unit, self._shard = eps / LEVELS, shard

    def take(self, chosen: Tensor, placement: Placement) -> Tensor:
        """Return the perturbations of some pictures as a batch shows them.

        Args:
            chosen: (N), the pictures' indices.
            placement: Where the batch shows them.

        Returns:
            (N, 3, H, W) float32 on the placement's device, units of pixel intensity.
        """
        here = self.levels.device
        shown = placement.to(here).of(self.levels[chosen.to(here)])
        return shown.to(placement.rows.device).float() * self._unit

    def put(self, chosen: Tensor, placement: Placement, perturbations: Tensor) -> None:
        """Store the new perturbations of some pictures.

        Args:
            chosen: (N), the pictures' indices.
            placement: Where the batch shows them.
            perturbations: (n, 3, H, W), of this process's part of the batch. Values beyond eps are cut.
        """
        levels = (perturbations / self._unit).round().clamp(-LEVELS, LEVELS).to(torch.int8)
        if self._shard.processes > 1:
            whole = levels.new_zeros((len(chosen), *levels.shape[1:]))
            self._shard.rows(whole).copy_(levels)
            levels = self._shard.sum_(whole)
        here = self.levels.device
        stored = self.levels[chosen.to(here)]
        placement.to(here).put(stored, levels.to(here))
        self.levels[chosen.to(here)] = stored
