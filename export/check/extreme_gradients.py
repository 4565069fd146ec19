"""Check a graph's second pass on self-gradients that no picture at hand has: zero, tiny and huge ones.

A graph's optimiser may drop what keeps 0 / 0 and overflow away, since it changes nothing on ordinary gradients.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from export.check.verify import Tolerance, VerificationError
from training.networks.self_gradient import SelfGradientNetwork

SIZES = (0.0, 1e-38, 1e-30, 1e-20, 1e-12, 1e-6, 1e-3, 1.0, 1e10, 1e20, 1e30)
"""Root mean squares of the gradients. In float32 squares of the second to the fourth underflow, those of the last two
overflow."""

SecondPassRunner = Callable[[Tensor, Tensor], Tensor]
"""A graph's second pass in some engine: maps images and self-gradients, both (N, C, H, W), to logits."""


def verify_extreme_gradients(
    runner: SecondPassRunner, network: SelfGradientNetwork, picture: Tensor, tolerance: Tolerance
) -> None:
    """Compare a graph's logits with PyTorch's for one picture and a self-gradient of each size, in one batch.

    Args:
        runner: The graph's second pass.
        network: The network, with a block, in eval mode on the CPU.
        picture: (1, C, H, W) in [0, 1].
        tolerance: Bound on the relative error of a row of logits; its `worst` is used.

    Raises:
        VerificationError: The logits differ, or are not finite.
    """
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    gradients = torch.cat([size * noise for size in SIZES])
    images = picture.expand(len(SIZES), -1, -1, -1).contiguous()
    found = runner(images, gradients)
    with torch.no_grad():
        expected = torch.cat([network.second_pass(picture, gradient[None]) for gradient in gradients])
    for size, got, want in zip(SIZES, found.double(), expected.double(), strict=True):
        error = float((got - want).norm() / want.norm().clamp(min=torch.finfo(torch.float32).tiny))
        if not error <= tolerance.worst:
            raise VerificationError(
                f"the graph's logits for a self-gradient of size {size:g} are off by {error:.1e} (at most "
                f"{tolerance.worst:.0e}), those of ordinary ones are right; export in another format"
            )
