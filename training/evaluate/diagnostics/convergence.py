"""Iterate the self-gradient, eq. (1), for figure 2, and check theorem 1 against it.

The theorem says that f^n(x) - f^(n-1)(x) tends to zero, and its proof that step n shrinks it like epsilon^(n-1). The
proof expands f in a Taylor series, which a ReLU network does not have: its gradient jumps. So this is measured.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from training.common.in_batches import first_pass_in_batches
from training.networks.self_gradient import SelfGradientNetwork, soft_loss

ITERATIONS = 10
ROUNDING = 1e-5
"""Changes below this share of the first step are float32 rounding, and count as zero."""


@dataclass(frozen=True)
class Iteration:
    """The distance that each iteration moves, step 1 first; means over pictures.

    Attributes:
        epsilon: The theorem's factor.
        gradient_change: |g_n - g_(n-1)|, L2 norm over a picture, g_0 = 0 (figure 2's "Norm Diff").
        value_change: |f^n(x) - f^(n-1)(x)|, of the soft loss (eq. 2).
    """

    epsilon: float
    gradient_change: list[float]
    value_change: list[float]

    def bound(self) -> list[float]:
        """Return what theorem 1's proof lets the gradient change by: epsilon^(n-1) times the first step."""
        return [self.gradient_change[0] * self.epsilon**n for n in range(len(self.gradient_change))]

    def within_bound(self) -> bool:
        """Tell whether every step keeps to the bound, up to rounding."""
        floor = ROUNDING * self.gradient_change[0]
        return all(change <= limit + floor for change, limit in zip(self.gradient_change, self.bound(), strict=True))

    def left_over(self) -> float:
        """Return the last step's share of the first: 0 where the iteration converges."""
        first = self.gradient_change[0]
        return self.gradient_change[-1] / first if first != 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return every field and what follows from them, for JSON."""
        return {**asdict(self), "within_bound": self.within_bound(), "left_over": self.left_over()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Iteration":
        """Return the iteration that as_dict described."""
        return cls(values["epsilon"], list(values["gradient_change"]), list(values["value_change"]))


def iterate(
    model: SelfGradientNetwork,
    images: Tensor,
    correction: Callable[[Tensor], Tensor],
    epsilon: float,
    iterations: int = ITERATIONS,
    batch_size: int = 250,
) -> Iteration:
    """Iterate g_0 = 0, g_(n+1) = gradient of the soft loss at x + correction(g_n).

    Args:
        model: The network.
        images: (N, 3, H, W) in [0, 1].
        correction: Maps gradients (N, 3, H, W) to corrections (N, 3, H, W), and 0 to 0.
        epsilon: The theorem's factor.
        iterations: Number of steps.
        batch_size: Pictures that the network sees at once.
    """
    gradient = torch.zeros_like(images)
    previous_value: Tensor | None = None
    gradient_change, value_change = [], []
    with torch.no_grad():
        for _ in range(iterations):
            logits, following = first_pass_in_batches(model.first_pass, images + correction(gradient), batch_size)
            value = torch.stack([soft_loss(row) for row in logits])
            gradient_change.append((following - gradient).flatten(1).norm(dim=1).mean().item())
            if previous_value is not None:
                value_change.append((value - previous_value).abs().mean().item())
            gradient, previous_value = following, value
    return Iteration(epsilon, gradient_change, value_change)


def measure_convergence(
    model: SelfGradientNetwork, images: Tensor, eps: float, iterations: int = ITERATIONS, batch_size: int = 250
) -> dict[str, Iteration]:
    """Iterate with the block, whose scale is the theorem's epsilon, and with the theorem's own form, eps * g.

    Returns:
        One iteration for each of the two, by name.

    Raises:
        ValueError: The network has no block.
    """
    if model.block is None:
        raise ValueError("this network has no self-gradient block, so there is nothing to iterate")
    return {
        "block": iterate(model, images, model.block, model.block.scale, iterations, batch_size),
        "eps * gradient": iterate(model, images, lambda gradient: eps * gradient, eps, iterations, batch_size),
    }
