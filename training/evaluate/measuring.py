"""Measure which pictures withstand an attack; validation and evaluation share it."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from training.attacks.base import AttackOn, TargetModel

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


@dataclass(frozen=True)
class BatchResult:
    """Result of an attack on a batch of pictures.

    Attributes:
        withstood: A character for each picture: 1 still classified rightly, 0 not.
        core_seconds: Processor time that it took.
        not_finite: Number of attacked pictures with a logit that is NaN or infinite. They count as wrong.
    """

    withstood: str
    core_seconds: float
    not_finite: int = 0


def withstood(trial: Trial[Target], attack: AttackOn[Target]) -> Tensor:
    """Return which pictures the network still classifies rightly under an attack, judged on its exact logits.

    Torch's global generator is set to the trial's seed.

    Args:
        trial: The network and the pictures.
        attack: The attack.

    Returns:
        (N) bool on the CPU.
    """
    torch.manual_seed(trial.seed)
    right: list[bool] = []
    for start in range(0, len(trial), trial.batch_size):
        images, labels = (part[start : start + trial.batch_size] for part in (trial.images, trial.labels))
        right += _still_right(trial, attack, images, labels)[0]
        if trial.on_batch is not None:
            trial.on_batch(len(labels))
    return torch.tensor(right)


def measure_batch(trial: Trial[Target], attack: AttackOn[Target], pictures: Sequence[int]) -> BatchResult:
    """Attack some of the pictures at once, and return which of them withstand it.

    Torch's global generator is set to the trial's seed, as AutoAttack does for each batch. So the result depends on
    these pictures alone, and not on the batches before them, or on the process.

    Args:
        trial: The network and all pictures.
        attack: The attack.
        pictures: The indices of those that are attacked.
    """
    started = time.process_time()
    torch.manual_seed(trial.seed)
    index = torch.tensor(pictures, device=trial.labels.device)
    right, not_finite = _still_right(trial, attack, trial.images[index], trial.labels[index])
    return BatchResult("".join("1" if value else "0" for value in right), time.process_time() - started, not_finite)


def _still_right(
    trial: Trial[Target], attack: AttackOn[Target], images: Tensor, labels: Tensor
) -> tuple[list[bool], int]:
    """Return which pictures are still classified rightly, and how many have a logit that is not finite."""
    attacked = attack.perturb(trial.model, images, labels, trial.eps)
    with torch.no_grad():
        logits = trial.model(attacked, self_gradient=attack.block)
    # The largest of NaN is no answer, although argmax names one.
    finite = logits.isfinite().all(dim=1)
    right: list[bool] = ((logits.argmax(dim=1) == labels) & finite).tolist()
    return right, len(right) - int(finite.sum())


def lowest(results: Iterable[Tensor]) -> Tensor:
    """Return the pictures that withstood everything, (N) bool: robust only if every attack failed on them."""
    return torch.stack(list(results)).all(dim=0)
