"""Accuracy against epsilon: it must fall, and far out it must reach zero, or the attack is at fault."""

from collections.abc import Callable, Sequence

from torch import Tensor

from training.attacks.gradient_attack import Attack
from training.evaluate import measuring
from training.networks.self_gradient import SelfGradientNetwork

LARGE = 128
"""In 255ths: grey at half the intensity range. No picture can be recognised after a perturbation of this size."""
LEVELS = (1, 2, 4, 8, 12, 16, 32, 64, LARGE)
STEPS = 40


def accuracy_over_eps(
    model: SelfGradientNetwork,
    images: Tensor,
    labels: Tensor,
    levels: Sequence[int],
    *,
    seed: int,
    batch_size: int = 250,
    on_batch: Callable[[int], object] | None = None,
) -> dict[str, float]:
    """Lowest accuracy per picture over PGD-40 and CW-40 at each budget, the block on where there is one.

    levels:  budgets in 255ths of the intensity range
    returns: level as text (JSON's keys are) -> accuracy in [0, 1]

    The step is 2.5 eps / 40, so that an iterate can cross the ball from any start.
    """
    curve = {}
    for level in levels:
        eps = level / 255
        results = []
        for name, loss in (("PGD", "cross-entropy"), ("CW", "margin")):
            attack = Attack(
                f"{name}-{STEPS}",
                loss=loss,  # type: ignore[arg-type]  # mypy widens the literals of the tuple
                steps=STEPS,
                step_size=2.5 * eps / STEPS,
                block=model.block is not None,
            )
            right = measuring.withstood(
                model, images, labels, attack, eps=eps, seed=seed, batch_size=batch_size, on_batch=on_batch
            )
            results.append(right)
        curve[str(level)] = round(measuring.lowest(results).float().mean().item(), 4)
    return curve
