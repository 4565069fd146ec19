"""Two-stage attacks on a margin: first on one of its two terms alone, then on the whole.

Where the gradient of one term of a margin is much larger than the other's, it leads the attack alone, and perhaps
astray. The first stage follows each term by itself, in a run of its own, and the second one starts from there.

Source: Ma, Jiang, Huang, Weng, Bailey and Jiang, Imbalanced Gradients: A Subtle Cause of Overestimated Adversarial
Robustness (2020), the margin decomposition attack (MD). Its authors' program begins a run with one step that raises the
right logit; that step is left out here.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from training.attacks.base import block_state
from training.attacks.gradient_attack import logits_function
from training.attacks.probability_margin import probability_terms
from training.attacks.projected_gradient import ball, margin, wrong_and_right
from training.attacks.rows import CLEAN, RowFilter, RowId
from training.common.precision import at_least_float32
from training.networks.names import SelfGradient
from training.networks.self_gradient import LogitsFunction, SelfGradientNetwork

Terms = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps logits (N, classes) and labels (N) to a margin's terms, (N) each: of the best wrong class, and the right one."""

Term = Literal["right", "wrong"]
"""The term that a run's first stage follows: it lowers that of the right class, or raises that of the wrong one."""


def logit_terms(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest wrong logit and the right one of each image.

    Args:
        logits: (N, classes).
        labels: (N).

    Returns:
        (N) and (N)
    """
    return wrong_and_right(at_least_float32(logits), labels)


@dataclass(frozen=True)
class TwoStageAscent:
    """A run of the attack: signed steps, which fall from 2 eps towards zero by a cosine in each stage.

    Attributes:
        eps: Radius of the ball, units of pixel intensity.
        steps: Steps of both stages; the first one has half of them.
        terms: The margin's terms.
        first: The term that the first stage follows.
    """

    eps: float
    steps: int
    terms: Terms
    first: Term

    def perturb(self, logits_function: LogitsFunction, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Attack images from random points of their balls, each until the network is wrong.

        Args:
            logits_function: The network as the attack sees it.
            images: (N, 3, H, W) in [0, 1].
            labels: (N).

        Returns:
            The last iterates, (N, 3, H, W), detached, and which of them fooled the network, (N) bool.
        """
        images = images.detach()
        low, high = ball(images, self.eps)
        current = torch.clamp(images + torch.empty_like(images).uniform_(-self.eps, self.eps), low, high)
        active = torch.arange(len(labels), device=images.device)
        for step in range(self.steps + 1):
            inputs = current[active].requires_grad_()
            with torch.set_grad_enabled(step < self.steps):
                logits = logits_function(inputs)
            left = margin(logits.detach(), labels[active]) <= 0
            if step < self.steps and left.any():
                with torch.enable_grad():
                    loss = self._loss(step, *self.terms(logits, labels[active]))
                    (gradient,) = torch.autograd.grad(loss.sum(), inputs)
                active = active[left]
                moved = current[active] + self._step_size(step) * gradient[left].sign()
                current[active] = torch.clamp(moved, low[active], high[active])
            else:
                active = active[left]
            if len(active) == 0:
                break
        fooled = torch.ones(len(labels), dtype=torch.bool, device=images.device)
        fooled[active] = False
        return current, fooled

    def _loss(self, step: int, wrong: Tensor, right: Tensor) -> Tensor:
        if step >= self.steps // 2:
            return wrong - right
        return wrong if self.first == "wrong" else -right

    def _step_size(self, step: int) -> float:
        half = self.steps // 2
        done, length = (step, half) if step < half else (step - half, self.steps - half)
        return self.eps * (1 + math.cos(math.pi * done / length))


@dataclass(frozen=True)
class TwoStageMargin:
    """MD or PMA: a run that begins with the right class's term, and on what that leaves one with the wrong class's.

    Attributes:
        family: "md" takes the margin of logits, "pma" that of probabilities.
        steps: Steps of each run.
        block: Whether the network under attack has its block on, or "auto".
        survivors_of: Rows whose survivors alone are attacked.
    """

    family: Literal["md", "pma"]
    steps: int = 50
    block: SelfGradient = True
    survivors_of: tuple[RowFilter, ...] = (CLEAN,)

    @property
    def id(self) -> RowId:
        """The row of the report that this attack fills."""
        return RowId(block_state(self.block), self.family)

    def network_calls(self, classes: int) -> int:
        """Return how often the network is called on a picture that withstands the attack."""
        return 2 * self.steps

    def parameters(self) -> dict[str, Any]:
        """Return every field, as JSON can hold it."""
        return {**asdict(self), "survivors_of": [rows.as_dict() for rows in self.survivors_of]}

    def perturb(self, model: SelfGradientNetwork, images: Tensor, labels: Tensor, eps: float) -> Tensor:
        """Return attacked images, (N, 3, H, W), detached, within the epsilon ball and [0, 1]."""
        view = logits_function(model, "held", None, self.block, images)
        terms = logit_terms if self.family == "md" else probability_terms
        firsts: tuple[Term, ...] = ("right", "wrong")
        best = images.detach().clone()
        active = torch.arange(len(labels), device=images.device)
        for first in firsts:
            ascent = TwoStageAscent(eps, self.steps, terms, first)
            attacked, fooled = ascent.perturb(view, images[active], labels[active])
            best[active] = attacked
            active = active[~fooled]
            if len(active) == 0:
                break
        return best
