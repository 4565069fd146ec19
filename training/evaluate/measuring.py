"""Measure which pictures withstand an attack; validation and evaluation share it."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from training.attacks.base import AnyClassifier, AttackOn
from training.evaluate.row_progress import RowProgress


def withstood(
    model: AnyClassifier,
    images: Tensor,
    labels: Tensor,
    attack: AttackOn[AnyClassifier],
    *,
    eps: float,
    seed: int,
    batch_size: int = 250,
    on_batch: Callable[[int], object] | None = None,
    progress: RowProgress | None = None,
) -> Tensor:
    """Which pictures the network still classifies rightly under one attack, judged on its exact logits.

    images:   (N, 3, H, W) float32 in [0, 1]; labels (N); N at least 1
    seed:     of the attack's random start: torch's global generator is set to it
    on_batch: called with the number of pictures done, for a progress bar
    progress: is gone on with, and kept up to date after every batch
    returns:  (N) bool on the CPU
    """
    torch.manual_seed(seed)
    right = [] if progress is None else progress.restore()
    if on_batch is not None and right:
        on_batch(len(right))
    for start in range(len(right), len(images), batch_size):
        some_images, some_labels = images[start : start + batch_size], labels[start : start + batch_size]
        attacked = attack.perturb(model, some_images, some_labels, eps)
        with torch.no_grad():
            answers = model(attacked, self_gradient=attack.block).argmax(dim=1)
        right += (answers == some_labels).tolist()
        if progress is not None:
            progress.save(right)
        if on_batch is not None:
            on_batch(len(some_labels))
    return torch.tensor(right)


def lowest(results: Iterable[Tensor]) -> Tensor:
    """Pictures that withstood everything, (N) bool: robust only if every attack failed on it."""
    return torch.stack(list(results)).all(dim=0)
