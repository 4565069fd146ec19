"""Checks beside the attacks that any process may measure: each is a function of a trial and the attacks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from training.attacks import gradient_attack, views
from training.attacks.base import AttackOn
from training.attacks.gradient_attack import Attack
from training.attacks.projected_gradient import cross_entropy, margin
from training.common.in_batches import in_batches
from training.evaluate.checklist import BOTH_PASSES, PLAIN_GRADIENT, smooth_gradient
from training.evaluate.diagnostics import accuracy_curve, gradient_check
from training.evaluate.diagnostics.block_effect import measure_block_effect
from training.evaluate.measuring import Trial
from training.evaluate.report import BLOCK_EFFECT, CURVE, GRADIENT_CORRELATION, ZERO_GRADIENTS
from training.evaluate.row_progress import CheckProgress
from training.networks.self_gradient import LogitsFunction, SelfGradientNetwork

# Enough pictures for a stable figure, few enough for seconds.
GRADIENT_PICTURES = 100
CURVE_PICTURES = 250
BLOCK_PICTURES = 500


@dataclass(frozen=True)
class Check:
    """A check that is measured apart from the attacks.

    Attributes:
        name: Its name for people.
        measure: Returns what it finds, by name, from a trial and all attacks. Other processes can load it.
    """

    name: str
    measure: Callable[[Trial[SelfGradientNetwork], Sequence[AttackOn[Any]]], dict[str, Any]]


def check_of_gradients(betas: tuple[float, ...]) -> Check:
    """Return the check of gradients.

    Args:
        betas: Sharpness of the smooth surrogates.
    """
    return Check("check of gradients", partial(check_gradients, betas=betas))


def check_of_curve(level: int) -> Check:
    """Return the check of the accuracy at a budget, in 255ths of the intensity range."""
    return Check(f"accuracy at eps {level}/255", partial(accuracy_at, level=level))


def check_of_block() -> Check:
    """Return the check of what the block does."""
    return Check("the block's effect", effect_of_block)


def gradient_views(
    trial: Trial[SelfGradientNetwork], attacks: Sequence[AttackOn[Any]], betas: tuple[float, ...]
) -> dict[str, LogitsFunction]:
    """Return the functions that the attacks differentiate, by name; that of the paper's attacks comes first.

    Args:
        trial: The network and the pictures.
        attacks: All attacks.
        betas: Sharpness of the smooth surrogates.
    """
    model, images = trial.model, trial.images
    if model.block is None:
        return {PLAIN_GRADIENT: model}
    averaged = {
        smooth_gradient(attack.beta, averaged=True): attack.logits_function(model, images)
        for attack in attacks
        if isinstance(attack, Attack) and attack.view == "smooth" and attack.beta and attack.noise_samples > 1
    }
    smooth = {smooth_gradient(beta): views.smooth_view(model, beta) for beta in betas}
    return {
        PLAIN_GRADIENT: views.plain_view(model, images),
        BOTH_PASSES: views.full_view(model),
        **smooth,
        **averaged,
    }


def check_gradients(
    trial: Trial[SelfGradientNetwork],
    attacks: Sequence[AttackOn[Any]],
    betas: tuple[float, ...],
    progress: CheckProgress | None = None,
) -> dict[str, Any]:
    """Return how gradients agree with slopes, and how many of them lead nowhere.

    Args:
        trial: The network and the pictures; its on_batch is called after each direction.
        attacks: All attacks.
        betas: Sharpness of the smooth surrogates.
        progress: See finite_difference_correlations.
    """
    found, some = gradient_views(trial, attacks, betas), trial.first(GRADIENT_PICTURES)
    correlations = gradient_check.finite_difference_correlations(some, found, gradient_check.DIRECTIONS, progress)
    return {
        GRADIENT_CORRELATION: {name: round(value, 4) for name, value in correlations.items()},
        ZERO_GRADIENTS: {
            name: round(
                gradient_check.zero_gradient_share(
                    found[PLAIN_GRADIENT], some.images, some.labels, loss, some.batch_size
                ),
                4,
            )
            for name, loss in (("cross-entropy", cross_entropy), ("margin", margin))
        },
    }


def accuracy_at(trial: Trial[SelfGradientNetwork], attacks: Sequence[AttackOn[Any]], level: int) -> dict[str, Any]:
    """Return the accuracy at a budget.

    Args:
        trial: The network and the pictures.
        attacks: All attacks, which do not count here.
        level: The budget, in 255ths of the intensity range.
    """
    return {CURVE: accuracy_curve.accuracy_over_eps(trial.first(CURVE_PICTURES), [level])}


def effect_of_block(trial: Trial[SelfGradientNetwork], attacks: Sequence[AttackOn[Any]]) -> dict[str, Any]:
    """Return what the block does.

    Args:
        trial: The network, which must have a block, and the pictures.
        attacks: All attacks, which do not count here.
    """
    some = trial.first(BLOCK_PICTURES)
    effect = measure_block_effect(
        some.model, some.images, pgd_10(some), eps=some.eps, seed=some.seed, batch_size=some.batch_size
    )
    return {BLOCK_EFFECT: {name: round(value, 6) for name, value in effect.as_dict().items()}}


def pgd_10(trial: Trial[SelfGradientNetwork]) -> Tensor:
    """Return the trial's pictures after PGD-10, (N, 3, H, W)."""
    torch.manual_seed(trial.seed)
    attack = gradient_attack.pgd_attack(10, block=trial.model.block is not None)
    return in_batches(
        lambda images, labels: attack.perturb(trial.model, images, labels, trial.eps),
        trial.images,
        trial.labels,
        batch_size=trial.batch_size,
    )
