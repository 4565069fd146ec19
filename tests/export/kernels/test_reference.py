"""Compare the reference with the block that is trained."""

import pytest
import torch

from export.kernels import reference
from tests.export.kernels.cases import normal
from training.networks.names import GradientScaling
from training.networks.self_gradient import SelfGradientBlock


@pytest.mark.parametrize("gradient_scaling", ["none", "rms"])
def test_the_block_is_the_trained_one(gradient_scaling: GradientScaling) -> None:
    block = SelfGradientBlock(scale=0.3, gradient_scaling=gradient_scaling)
    image, gradient = torch.rand(2, 3, 5, 7), normal(2, 3, 5, 7, scale=1e-2)
    with torch.no_grad():
        expected = image + block(gradient)
    found = reference.self_gradient_block(
        image, gradient, reference.block_weights(block), block.scale, gradient_scaling == "rms"
    )
    torch.testing.assert_close(found, expected)
