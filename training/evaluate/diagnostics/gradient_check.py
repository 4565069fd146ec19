"""Check that an attack's gradients point where the loss rises: the first thing to know about a robustness figure."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from training.attacks.projected_gradient import AttackLoss, cross_entropy, loss_gradient, margin
from training.common.in_batches import in_batches
from training.evaluate.measuring import Trial
from training.evaluate.row_progress import CheckProgress
from training.networks.self_gradient import LogitsFunction

DIRECTIONS = 20


def finite_difference_correlations(
    trial: Trial[Any],
    gradients: Mapping[str, LogitsFunction],
    directions: int = DIRECTIONS,
    progress: CheckProgress | None = None,
) -> dict[str, float]:
    """Return how the slopes that a gradient predicts correlate with central finite differences of step eps / 8.

    Slopes are of the margin loss, which does not flatten out on images that are classified with confidence. Torch's
    global generator is set to the trial's seed.

    Args:
        trial: The network, whose exact logits are taken, and the pictures.
        gradients: The network as attacks see it, by the name of the view.
        directions: Random sign directions for each image.
        progress: The results of an interrupted process. They are continued, and kept up to date after every direction.

    Returns:
        The mean over images of Pearson's correlation over the directions, in [-1, 1], by name. It is 0 where one of the
        two is constant, so a flat gradient counts as an unrelated one.
    """
    images, labels, batch_size = trial.images, trial.labels, trial.batch_size
    generator = torch.Generator().manual_seed(trial.seed)
    step = trial.eps / 8
    slopes: dict[str, list[Tensor]] = {name: [] for name in gradients}
    differences = [] if progress is None else [part.to(images.device) for part in progress.restore()]
    predicted = {}
    for name, view in gradients.items():
        # Averaged views draw noise. So they always draw the same, whichever other views there are.
        torch.manual_seed(trial.seed)
        predicted[name] = _gradients(view, images, labels, margin, batch_size)

    def margins(moved: Tensor) -> Tensor:
        return in_batches(lambda some, right: margin(trial.model(some), right), moved, labels, batch_size=batch_size)

    for direction in range(directions):
        signs = (torch.randint(0, 2, images.shape, generator=generator) * 2 - 1).to(images)
        if direction >= len(differences):
            with torch.no_grad():
                rise = margins(images + step * signs) - margins(images - step * signs)
            differences.append(rise / (2 * step))
            if progress is not None:
                progress.save(differences)
        if trial.on_batch is not None:
            trial.on_batch(len(labels))
        for name, gradient in predicted.items():
            slopes[name].append((gradient * signs).flatten(1).sum(dim=1))
    measured = torch.stack(differences, dim=1)
    return {name: _correlation(torch.stack(values, dim=1), measured).mean().item() for name, values in slopes.items()}


def zero_gradient_share(
    view: LogitsFunction,
    images: Tensor,
    labels: Tensor,
    loss: AttackLoss = cross_entropy,
    batch_size: int = 250,
) -> float:
    """Return the share of the rightly classified images whose loss gradient leads nowhere.

    It is exactly zero in every pixel, or not finite in one.

    The share is 0 where no image is classified rightly.
    """
    with torch.no_grad():
        right = in_batches(view, images, batch_size=batch_size).argmax(dim=1) == labels
    if not right.any():
        return 0.0
    gradient = _gradients(view, images[right], labels[right], loss, batch_size)
    nowhere = (gradient == 0).flatten(1).all(dim=1) | ~gradient.isfinite().flatten(1).all(dim=1)
    return nowhere.float().mean().item()


def _gradients(view: LogitsFunction, images: Tensor, labels: Tensor, loss: AttackLoss, batch_size: int) -> Tensor:
    """Return the gradient of each image's loss by the image, (N, 3, H, W)."""
    return in_batches(
        lambda some, right: loss_gradient(view, some, right, loss)[1], images, labels, batch_size=batch_size
    )


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Pearson's correlation along dim 1, (N, M) and (N, M) to (N); 0 where undefined."""
    first, second = first.double(), second.double()
    first, second = first - first.mean(dim=1, keepdim=True), second - second.mean(dim=1, keepdim=True)
    spread = first.norm(dim=1) * second.norm(dim=1)
    return torch.where(spread > 0, (first * second).sum(dim=1) / spread.clamp(min=1e-300), torch.zeros_like(spread))
