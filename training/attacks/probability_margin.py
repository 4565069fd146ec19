"""The probability margin: the highest wrong probability minus the right one.

Its gradient is that of cross-entropy and that of cross-entropy towards the highest wrong class, each weighted by a
probability. So it looks at every class, as cross-entropy does, and at the nearest one most, as the margin of logits
does. It vanishes where a network is so sure that a probability is 1 to the last bit.

Source: Xie, Zheng, Huang, Ye and Ma, Towards Million-Scale Adversarial Robustness Evaluation With Stronger Individual
Attacks (2024), the probability margin attack (PMA). It takes MD's two stages (training.attacks.margin_decomposition).
"""

import torch
from torch import Tensor

from training.attacks.projected_gradient import wrong_and_right
from training.common.precision import at_least_float32


def probability_terms(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest wrong probability and the right one of each image.

    Args:
        logits: (N, classes).
        labels: (N).

    Returns:
        (N) and (N)
    """
    return wrong_and_right(torch.softmax(at_least_float32(logits), dim=1), labels)
