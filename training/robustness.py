"""Named attacks, and which pictures withstand them: the measuring that validation and evaluation share."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from training import attacks, views
from training.model import LogitsFunction, SelfGradientNetwork

View = Literal["full", "held", "block off", "smooth"]


@dataclass(frozen=True)
class Attack:
    """One row of a robustness table.

    name:        as printed
    loss:        what it raises: cross-entropy or Carlini-Wagner's margin
    steps:       0 measures clean accuracy
    step_size:   units of pixel intensity
    start:       of the iteration: the image or a uniform draw from the ball
    view:        how its gradients see the network (training.views)
    beta:        softplus sharpness of the smooth view
    block:       whether the network under attack has its block on
    """

    name: str
    loss: Literal["cross-entropy", "margin"] = "cross-entropy"
    steps: int = 0
    step_size: float = 2 / 255
    start: attacks.Start = "uniform"
    view: View = "held"
    beta: float | None = None
    block: bool = True

    def logits_function(self, model: SelfGradientNetwork) -> LogitsFunction:
        """The network as this attack sees it."""
        if not self.block or self.view == "block off":
            return views.block_off_view(model)
        if self.view == "smooth":
            if self.beta is None:
                raise ValueError(f"attack {self.name!r}: the smooth view needs a beta")
            return views.smooth_view(model, self.beta)
        return views.full_view(model) if self.view == "full" else views.held_view(model)

    def perturb(self, model: SelfGradientNetwork, images: Tensor, labels: Tensor, eps: float) -> Tensor:
        """Attacked images, shapes as for attacks.pgd.

        FGSM keeps its one result even where the start was worse, so that label leaking (attacked accuracy above
        clean accuracy) shows; the others keep their best iterate.
        """
        if self.steps == 0:
            return images
        return attacks.pgd(
            self.logits_function(model),
            images,
            labels,
            eps=eps,
            steps=self.steps,
            step_size=self.step_size,
            loss=attacks.margin if self.loss == "margin" else attacks.cross_entropy,
            start=self.start,
            keep_best=self.steps > 1,
        )


def clean(block: bool = True) -> Attack:
    return Attack("clean", block=block)


def fgsm(eps: float, block: bool = True) -> Attack:
    return Attack("FGSM", steps=1, step_size=eps, start="image", block=block)


def pgd(steps: int, block: bool = True) -> Attack:
    return Attack(f"PGD-{steps}", steps=steps, block=block)


def cw(steps: int, block: bool = True) -> Attack:
    return Attack(f"CW-{steps}", loss="margin", steps=steps, block=block)


def smooth_cw(steps: int, beta: float) -> Attack:
    return Attack(f"CW-{steps}, smooth surrogate, beta {beta:g}", loss="margin", steps=steps, view="smooth", beta=beta)


def block_off_transfer(steps: int) -> Attack:
    return Attack(f"CW-{steps}, transfer from block off", loss="margin", steps=steps, view="block off")


def withstood(
    model: SelfGradientNetwork,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    *,
    eps: float,
    seed: int,
    batch_size: int = 250,
    on_batch: Callable[[int], object] | None = None,
) -> Tensor:
    """Which pictures the network still classifies rightly under one attack, judged on its exact logits.

    images:   (N, 3, H, W) float32 in [0, 1]; labels (N)
    seed:     of the attack's random start: torch's global generator is set to it
    on_batch: called with the number of pictures done, for a progress bar
    returns:  (N) bool on the CPU
    """
    torch.manual_seed(seed)
    right: list[Tensor] = []
    for some_images, some_labels in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        attacked = attack.perturb(model, some_images, some_labels, eps)
        with torch.no_grad():
            answers = model(attacked, self_gradient=attack.block).argmax(dim=1)
        right.append((answers == some_labels).cpu())
        if on_batch is not None:
            on_batch(len(some_labels))
    return torch.cat(right)


def lowest(results: Iterable[Tensor]) -> Tensor:
    """Pictures that withstood everything, (N) bool: robust only if every attack failed on it."""
    return torch.stack(list(results)).all(dim=0)
