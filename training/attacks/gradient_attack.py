"""PGD in its forms, one frozen record a row of a report."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from training.attacks import views
from training.attacks.base import View, block_state
from training.attacks.pgd import Start, best_of_restarts, cross_entropy, margin
from training.attacks.pgd import pgd as projected_gradient_ascent
from training.networks.self_gradient import LogitsFunction, SelfGradientNetwork


def logits_function(
    model: SelfGradientNetwork, view: View, beta: float | None, block: bool, images: Tensor
) -> LogitsFunction:
    """The network as an attack with this view sees it.

    images: those under attack, (N, 3, H, W); "held" is views.plain_view, which tries the network at their size
    raises ValueError for a view that needs a beta and has none
    """
    if not block or view == "block off":
        return views.block_off_view(model)
    if view in ("smooth", "straight-through"):
        if beta is None:
            raise ValueError(f"the {view} view needs a beta")
        smooth = views.smooth_view if view == "smooth" else views.straight_through_view
        return smooth(model, beta)
    return views.full_view(model) if view == "full" else views.plain_view(model, images)


@dataclass(frozen=True)
class Attack:
    """One row of a robustness table: PGD in one of its forms.

    name:          as printed
    loss:          what it raises: cross-entropy or Carlini-Wagner's margin
    steps:         0 measures clean accuracy
    step_size:     units of pixel intensity
    start:         of the iteration: the image or a uniform draw from the ball
    view:          how its gradients see the network (training.attacks.views); held is plain_view, so through both
                   passes where holding the first one fixed would not be the honest derivative
    beta:          softplus sharpness of the smooth and the straight-through view
    block:         whether the network under attack has its block on
    restarts:      runs from new starts on what is not fooled yet
    first_restart: number of the first one; the starts of restarts 0 to 9 differ from those of 10 to 19
    noise_samples: above 1, gradients are means over that many noisy copies of the image
    noise:         half-width of that noise, units of pixel intensity
    keep_best:     stop at the first iterate that fools the network, else take the best; False takes the last iterate.
                   None is True but for FGSM, which keeps its one result even where the start was worse, so that label
                   leaking (attacked accuracy above clean accuracy) shows
    survivors_of:  AttackOn.survivors_of
    """

    name: str
    loss: Literal["cross-entropy", "margin"] = "cross-entropy"
    steps: int = 0
    step_size: float = 2 / 255
    start: Start = "uniform"
    view: View = "held"
    beta: float | None = None
    block: bool = True
    restarts: int = 1
    first_restart: int = 0
    noise_samples: int = 1
    noise: float = 0.0
    keep_best: bool | None = None
    survivors_of: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        return block_state(self.block)

    def parameters(self) -> dict[str, Any]:
        # The last six are left out at their defaults, so that reports from before they existed are gone on with.
        optional = {item.name: item.default for item in fields(self)[8:]}
        return {key: value for key, value in asdict(self).items() if key not in optional or value != optional[key]}

    def logits_function(self, model: SelfGradientNetwork, images: Tensor) -> LogitsFunction:
        """The network as this attack sees it, arguments as for robustness.logits_function.

        raises ValueError for a view that needs a beta and has none
        """
        try:
            view = logits_function(model, self.view, self.beta, self.block, images)
        except ValueError as error:
            raise ValueError(f"attack {self.name!r}: {error}") from None
        return views.averaged_view(view, self.noise_samples, self.noise) if self.noise_samples > 1 else view

    def perturb(self, model: SelfGradientNetwork, images: Tensor, labels: Tensor, eps: float) -> Tensor:
        """Attacked images, shapes as for pgd.pgd."""
        if self.steps == 0:
            return images
        view = self.logits_function(model, images)

        def once(some_images: Tensor, some_labels: Tensor) -> Tensor:
            return projected_gradient_ascent(
                view,
                some_images,
                some_labels,
                eps=eps,
                steps=self.steps,
                step_size=self.step_size,
                loss=margin if self.loss == "margin" else cross_entropy,
                start=self.start,
                keep_best=self.steps > 1 if self.keep_best is None else self.keep_best,
            )

        if self.first_restart:
            # Far from the seeds that people choose, and the same whatever was drawn before.
            torch.manual_seed(torch.initial_seed() + 1_000_003 * self.first_restart)

        def in_parts(some_images: Tensor, some_labels: Tensor) -> Tensor:
            # An average holds all of its samples for the way back; fewer pictures at once make up for that.
            size = max(1, math.ceil(len(some_images) / self.noise_samples))
            parts = zip(some_images.split(size), some_labels.split(size), strict=True)
            return torch.cat([once(*part) for part in parts])

        return best_of_restarts(in_parts, view, images, labels, self.restarts)


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
