"""Measure accuracy against epsilon. It must fall, and far out it must reach zero, or the attack is at fault."""

from collections.abc import Sequence
from dataclasses import replace

from training.attacks.gradient_attack import Attack, GradientFamily
from training.evaluate import measuring
from training.networks.self_gradient import SelfGradientNetwork

LARGE = 128
"""Budget in 255ths of the intensity range: half of it, so an attack can turn every picture into the same grey."""
LEVELS = (1, 2, 4, 8, 12, 16, 32, 64, LARGE)
STEPS = 40
FAMILIES: tuple[GradientFamily, ...] = ("pgd", "cw")


def accuracy_over_eps(trial: measuring.Trial[SelfGradientNetwork], levels: Sequence[int]) -> dict[str, float]:
    """Return the lowest accuracy per picture over PGD-40 and CW-40 at each budget, the block on where there is one.

    The step is 2.5 eps / 40, so that an iterate can cross the ball from any start.

    Args:
        trial: The network and the pictures; its own budget is not used.
        levels: Budgets in 255ths of the intensity range.

    Returns:
        A mapping from the level as text, as JSON's keys are, to accuracy in [0, 1].
    """
    curve = {}
    for level in levels:
        at_level = replace(trial, eps=level / 255)
        attacks = [
            Attack(family, steps=STEPS, step_size=2.5 * at_level.eps / STEPS, block=trial.model.block is not None)
            for family in FAMILIES
        ]
        results = [measuring.withstood(at_level, attack) for attack in attacks]
        curve[str(level)] = round(measuring.lowest(results).float().mean().item(), 4)
    return curve
