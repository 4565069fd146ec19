"""Do an attack's gradients point where the loss really rises? The first thing to know about a robustness figure."""

from collections.abc import Mapping

import torch
from torch import Tensor

from training.attacks import AttackLoss, cross_entropy, margin
from training.model import LogitsFunction

DIRECTIONS = 20


def finite_difference_correlations(
    exact: LogitsFunction,
    gradients: Mapping[str, LogitsFunction],
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    seed: int,
    directions: int = DIRECTIONS,
) -> dict[str, float]:
    """Correlation of slopes told by a gradient with central finite differences of step eps / 8.

    exact:     the network's logits
    gradients: name -> the network as an attack sees it
    images:    (N, 3, H, W); labels (N)
    returns:   per name the mean over images of Pearson's correlation over random sign directions, in [-1, 1]; 0 where
               one of the two is constant, so a flat gradient counts as an unrelated one

    Slopes are of the margin loss, which does not flatten out on images that are classified with confidence.
    """
    generator = torch.Generator().manual_seed(seed)
    step = eps / 8
    slopes: dict[str, list[Tensor]] = {name: [] for name in gradients}
    differences: list[Tensor] = []
    told = {name: loss_gradient(view, images, labels, margin) for name, view in gradients.items()}
    for _ in range(directions):
        signs = (torch.randint(0, 2, images.shape, generator=generator) * 2 - 1).to(images)
        with torch.no_grad():
            rise = margin(exact(images + step * signs), labels) - margin(exact(images - step * signs), labels)
        differences.append(rise / (2 * step))
        for name, gradient in told.items():
            slopes[name].append((gradient * signs).flatten(1).sum(dim=1))
    measured = torch.stack(differences, dim=1)
    return {name: _correlation(torch.stack(values, dim=1), measured).mean().item() for name, values in slopes.items()}


def zero_gradient_share(
    view: LogitsFunction, images: Tensor, labels: Tensor, loss: AttackLoss = cross_entropy
) -> float:
    """Share of the rightly classified images at which the loss gradient is exactly zero in every pixel.

    0 where no image is classified rightly.
    """
    with torch.no_grad():
        right = view(images).argmax(dim=1) == labels
    if not right.any():
        return 0.0
    gradient = loss_gradient(view, images[right], labels[right], loss)
    return (gradient == 0).flatten(1).all(dim=1).float().mean().item()


def loss_gradient(view: LogitsFunction, images: Tensor, labels: Tensor, loss: AttackLoss) -> Tensor:
    """Gradient of each image's loss with respect to the image, (N, 3, H, W)."""
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(view(images), labels).sum(), images)
    return gradient


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation along dim 1, (N, M) and (N, M) -> (N); 0 where undefined."""
    first, second = first.double(), second.double()
    first, second = first - first.mean(dim=1, keepdim=True), second - second.mean(dim=1, keepdim=True)
    spread = first.norm(dim=1) * second.norm(dim=1)
    return torch.where(spread > 0, (first * second).sum(dim=1) / spread.clamp(min=1e-300), torch.zeros_like(spread))
