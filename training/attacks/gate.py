"""Attacks on self_gradient="auto" that know its gate: the threshold on the plain answer's margin, and both sides."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from training.attacks import views
from training.attacks.base import block_state
from training.attacks.projected_gradient import margin
from training.attacks.rows import CLEAN, RowFilter, RowId
from training.networks.names import SelfGradient
from training.networks.self_gradient import SelfGradientNetwork, probability_margin

Goal = Literal["gate-both", "gate-off", "gate-on"]

_WEIGHT = 10.0
"""Logits that a margin of 1 above the threshold counts for, in the goal that keeps pictures under it."""


@dataclass(frozen=True)
class GateAttack:
    """PGD whose loss is made of both passes and of the margin. The first iterate that fools "auto" is the result.

    Attributes:
        goal: "gate-both" raises the lower of the two passes' margin losses, so that the gate's choice does not matter.
            "gate-off" pushes a wrong class to the first place of the plain answer, and its lead over the threshold.
            "gate-on" raises the margin loss of both passes and keeps the plain answer under the threshold.
        steps: Number of steps.
        step_size: Units of pixel intensity.
        beta: Softplus sharpness of the surrogate of the first pass, through which the block is seen. None holds the
            self-gradient fixed.
        survivors_of: Rows whose survivors alone are attacked.
    """

    goal: Goal
    steps: int = 50
    step_size: float = 2 / 255
    beta: float | None = None
    survivors_of: tuple[RowFilter, ...] = (CLEAN,)

    @property
    def id(self) -> RowId:
        """The row of the report that this attack fills."""
        view: Literal["held", "smooth"] = "held" if self.beta is None else "smooth"
        return RowId(block_state(self.block), self.goal, steps=self.steps, view=view, beta=self.beta)

    @property
    def block(self) -> SelfGradient:
        """The mode of the network under attack."""
        return "auto"

    def network_calls(self, classes: int) -> int:
        """Return how often the network is called on a picture that withstands the attack."""
        return self.steps

    def parameters(self) -> dict[str, Any]:
        """Return every field, as JSON can hold it."""
        return {**asdict(self), "survivors_of": [rows.as_dict() for rows in self.survivors_of]}

    def perturb(self, model: SelfGradientNetwork, images: Tensor, labels: Tensor, eps: float) -> Tensor:
        """Return attacked images, (N, 3, H, W), detached, within the epsilon ball and [0, 1]."""
        images = images.detach()
        low, high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
        current = torch.clamp(images + torch.empty_like(images).uniform_(-eps, eps), low, high)
        active = torch.arange(len(labels), device=images.device)
        see = views.held_view(model) if self.beta is None else views.smooth_view(model, self.beta)
        for step in range(self.steps + 1):
            inputs = current[active].requires_grad_()
            with torch.enable_grad():
                plain, corrected = model.plain_logits(inputs), see(inputs)
                loss = self._loss(model, plain, corrected, labels[active])
                (gradient,) = torch.autograd.grad(loss.sum(), inputs)
            chosen = model.needs_second_pass(plain.detach())[:, None]
            left = margin(torch.where(chosen, corrected, plain).detach(), labels[active]) <= 0
            active, gradient = active[left], gradient[left]
            if step == self.steps or len(active) == 0:
                break
            moved = current[active] + self.step_size * gradient.sign()
            current[active] = torch.clamp(moved, low[active], high[active])
        return current

    def _loss(self, model: SelfGradientNetwork, plain: Tensor, corrected: Tensor, labels: Tensor) -> Tensor:
        """Return what is raised for each picture, (N)."""
        if self.goal == "gate-both":
            return torch.minimum(margin(plain, labels), margin(corrected, labels))
        if self.goal == "gate-off":
            wrong = plain.scatter(1, labels[:, None], float("-inf")).argmax(dim=1)
            return -margin(plain, wrong)  # the wrong class's lead over all others, the right one among them
        if model.auto_margin is None:
            raise ValueError("a network without auto_margin has no gate")
        beyond = (probability_margin(plain) - model.auto_margin).clamp(min=0)
        return margin(corrected, labels) - _WEIGHT * beyond
