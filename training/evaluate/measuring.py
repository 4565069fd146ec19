"""Measure which pictures withstand an attack; validation and evaluation share it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from training.attacks.base import AttackOn, TargetModel
from training.evaluate.row_progress import RowProgress

Target = TypeVar("Target", bound=TargetModel)
Other = TypeVar("Other", bound=TargetModel)


@dataclass(frozen=True)
class Trial(Generic[Target]):
    """A network and labelled pictures to attack it on, with everything that one attack has in common with the next.

    Attributes:
        model: The network under attack.
        images: (N, 3, H, W) float32 in [0, 1], N at least 1.
        labels: (N).
        eps: L-inf budget, units of pixel intensity.
        seed: Seed of every attack's random start.
        batch_size: Pictures that are attacked at once.
        on_batch: Called with the number of pictures done, for a progress bar.
    """

    model: Target
    images: Tensor
    labels: Tensor
    eps: float
    seed: int
    batch_size: int = 250
    on_batch: Callable[[int], object] | None = None

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.labels)

    def of(self, model: Other) -> "Trial[Other]":
        """Return the trial of another network on the same pictures."""
        return Trial(model, self.images, self.labels, self.eps, self.seed, self.batch_size, self.on_batch)

    def first(self, count: int) -> "Trial[Target]":
        """Return the trial with the first `count` pictures alone, or with all where there are no more."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def chosen(self, mask: Tensor) -> "Trial[Target]":
        """Return the trial with the pictures that a mask, (N) bool, names."""
        mask = mask.to(self.labels.device)
        return replace(self, images=self.images[mask], labels=self.labels[mask])


def withstood(trial: Trial[Target], attack: AttackOn[Target], progress: RowProgress | None = None) -> Tensor:
    """Return which pictures the network still classifies rightly under an attack, judged on its exact logits.

    Torch's global generator is set to the trial's seed.

    Args:
        trial: The network and the pictures.
        attack: The attack.
        progress: The results of an interrupted process. They are continued, and kept up to date after every batch.

    Returns:
        (N) bool on the CPU.
    """
    torch.manual_seed(trial.seed)
    right = [] if progress is None else progress.restore()
    if trial.on_batch is not None and right:
        trial.on_batch(len(right))
    for start in range(len(right), len(trial), trial.batch_size):
        images, labels = (part[start : start + trial.batch_size] for part in (trial.images, trial.labels))
        attacked = attack.perturb(trial.model, images, labels, trial.eps)
        with torch.no_grad():
            logits = trial.model(attacked, self_gradient=attack.block)
        # The largest of NaN is no answer, although argmax names one.
        right += ((logits.argmax(dim=1) == labels) & logits.isfinite().all(dim=1)).tolist()
        if progress is not None:
            progress.save(right)
        if trial.on_batch is not None:
            trial.on_batch(len(labels))
    return torch.tensor(right)


def lowest(results: Iterable[Tensor]) -> Tensor:
    """Return the pictures that withstood everything, (N) bool: robust only if every attack failed on them."""
    return torch.stack(list(results)).all(dim=0)
