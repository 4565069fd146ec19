"""Rows of a report that are PGD in one of its forms: clean pictures, FGSM, PGD and CW."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from training.attacks import views
from training.attacks.base import block_state
from training.attacks.projected_gradient import (
    AttackLoss,
    ProjectedGradientAscent,
    Start,
    best_of_restarts,
    cross_entropy,
    margin,
)
from training.attacks.rows import RowFilter, RowId, View
from training.networks.names import SelfGradient
from training.networks.self_gradient import LogitsFunction, SelfGradientNetwork

GradientFamily = Literal["clean", "fgsm", "pgd", "cw"]

LOSSES: dict[GradientFamily, AttackLoss] = {
    "clean": cross_entropy,
    "fgsm": cross_entropy,
    "pgd": cross_entropy,
    "cw": margin,
}


def logits_function(
    model: SelfGradientNetwork, view: View, beta: float | None, block: SelfGradient, images: Tensor
) -> LogitsFunction:
    """Return the network as an attack with this view sees it.

    Args:
        model: The network under attack.
        view: How gradients see it; "held" is views.plain_view.
        beta: Softplus sharpness of the smooth and the straight-through view.
        block: Whether the network under attack has its block on. With "auto" the views show the gate too, and the
            smooth ones show it smoothly.
        images: Those under attack, (N, 3, H, W); views.plain_view tries the network at their size.

    Raises:
        ValueError: The view needs a beta and has none.
    """
    if not block or view == "first-pass":
        return views.first_pass_view(model)
    if view == "block-on":
        return views.plain_view(model, images)
    if block == "auto":
        corrected = logits_function(model, view, beta, True, images)
        smooth_gate = view in ("smooth", "straight-through")
        return views.smooth_gate_view(model, corrected) if smooth_gate else views.gate_view(model, corrected)
    if view in ("smooth", "straight-through"):
        if beta is None:
            raise ValueError(f"the {view} view needs a beta")
        smooth = views.smooth_view if view == "smooth" else views.straight_through_view
        return smooth(model, beta)
    return views.full_view(model) if view == "full" else views.plain_view(model, images)


@dataclass(frozen=True)
class Attack:
    """PGD in one of its forms: one row of a report.

    Attributes:
        family: "cw" raises Carlini and Wagner's margin, the others cross-entropy; "clean" takes no step.
        steps: Number of steps; 0 measures clean accuracy.
        step_size: Units of pixel intensity.
        start: Where the iteration starts.
        view: How its gradients see the network. "held" is views.plain_view: through both passes where holding the
            first one fixed would not be the honest derivative.
        beta: Softplus sharpness of the smooth and the straight-through view.
        block: Whether the network under attack has its block on, or "auto".
        restarts: Runs from new starts, each on what is not fooled yet.
        first_restart: Number of the first one. The starts of restarts 1 to 10 differ from those of 11 to 20.
        noise_samples: Above 1, gradients are means over that many noisy copies of the image.
        noise: Half-width of that noise, units of pixel intensity.
        keep_best: Stop at the first iterate that fools the network, else take the best; False takes the last iterate.
            None is True but for a single step, whose one result is kept even where the start was worse: so label
            leaking (attacked accuracy above clean accuracy) shows.
        after_steps: Steps of the same attack whose survivors this one attacks; `survivors_of` must say so too.
        survivors_of: Rows whose survivors alone are attacked.
    """

    family: GradientFamily
    steps: int = 0
    step_size: float = 2 / 255
    start: Start = "uniform"
    view: View = "held"
    beta: float | None = None
    block: SelfGradient = True
    restarts: int = 1
    first_restart: int = 0
    noise_samples: int = 1
    noise: float = 0.0
    keep_best: bool | None = None
    after_steps: int | None = None
    survivors_of: tuple[RowFilter, ...] = ()

    @property
    def id(self) -> RowId:
        """The row of the report that this attack fills."""
        return RowId(
            state=block_state(self.block),
            family=self.family,
            steps=self.steps if self.family in ("pgd", "cw") else None,
            view=self.view,
            beta=self.beta,
            averaged=self.noise_samples > 1,
            restarts=(self.first_restart, self.first_restart + self.restarts - 1) if self.first_restart else None,
            to_the_end=self.keep_best is False,
            after_steps=self.after_steps,
        )

    def network_calls(self, classes: int) -> int:
        """Return how often the network is called on a picture that withstands the attack."""
        return max(1, self.steps * self.restarts * self.noise_samples)

    def parameters(self) -> dict[str, Any]:
        """Return every field, as JSON can hold it."""
        return {**asdict(self), "survivors_of": [rows.as_dict() for rows in self.survivors_of]}

    def logits_function(self, model: SelfGradientNetwork, images: Tensor) -> LogitsFunction:
        """Return the network as this attack sees it.

        Raises:
            ValueError: The view needs a beta and has none.
        """
        view = logits_function(model, self.view, self.beta, self.block, images)
        return views.averaged_view(view, self.noise_samples, self.noise) if self.noise_samples > 1 else view

    def perturb(self, model: SelfGradientNetwork, images: Tensor, labels: Tensor, eps: float) -> Tensor:
        """Return attacked images, (N, 3, H, W), detached, within the epsilon ball and [0, 1]."""
        if self.steps == 0:
            return images
        view = self.logits_function(model, images)
        ascent = ProjectedGradientAscent(
            eps=eps,
            steps=self.steps,
            step_size=self.step_size,
            loss=LOSSES[self.family],
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
            return torch.cat([ascent.perturb(view, *part) for part in parts])

        return best_of_restarts(in_parts, view, images, labels, self.restarts)


def clean_attack(block: SelfGradient = True) -> Attack:
    """Return the row of clean accuracy."""
    return Attack("clean", block=block)


def fgsm_attack(eps: float, block: SelfGradient = True) -> Attack:
    """Return the row of FGSM: one step of size eps from the image."""
    return Attack("fgsm", steps=1, step_size=eps, start="image", block=block)


def pgd_attack(steps: int, block: SelfGradient = True) -> Attack:
    """Return the row of PGD on cross-entropy."""
    return Attack("pgd", steps=steps, block=block)


def cw_attack(steps: int, block: SelfGradient = True) -> Attack:
    """Return the row of PGD on Carlini and Wagner's margin."""
    return Attack("cw", steps=steps, block=block)


def smooth_cw_attack(steps: int, beta: float, block: SelfGradient = True) -> Attack:
    """Return the row of CW through the smooth surrogate."""
    return Attack("cw", steps=steps, view="smooth", beta=beta, block=block)


def block_off_transfer_attack(steps: int, block: SelfGradient = True) -> Attack:
    """Return the row of CW made on the network with its block off and shown to it with its block on."""
    return Attack("cw", steps=steps, view="first-pass", block=block)
