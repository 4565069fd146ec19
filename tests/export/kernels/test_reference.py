"""The truth against what it stands for: the block that is trained, batch norm, ReLU, and PyTorch's own way back."""

import pytest
import torch
from torch import nn

from export.kernels import reference
from tests.export.kernels.cases import normal
from training.networks.self_gradient import GradientScaling, SelfGradientBlock


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


def test_epilogue_and_way_back_are_batch_norm_and_relu() -> None:
    norm = nn.BatchNorm2d(11).eval()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(normal(11, seed=1))
    norm.running_var.copy_(normal(11, seed=2).square() + 0.1)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    features, gradient, residual = (normal(2, 11, 3, 5, seed=seed) for seed in (3, 4, 5))
    features.requires_grad_()

    expected = norm(features).relu()
    (way_back,) = torch.autograd.grad(expected, features, gradient)
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    shift = (norm.bias - norm.running_mean * scale).detach()
    found, mask = reference.scale_shift_relu(features.detach(), scale, shift)

    torch.testing.assert_close(found, expected.detach())
    assert mask.dtype == torch.uint8
    assert mask.shape == (2, 2, 3, 5)
    torch.testing.assert_close(reference.mask_scale_add(gradient, mask, scale, residual), way_back + residual)
    torch.testing.assert_close(reference.mask_scale_add(gradient, mask, scale, None), way_back)


def test_a_mask_is_a_bit_a_channel() -> None:
    mask = torch.zeros(1, 11, 1, 2, dtype=torch.bool)
    mask[0, [0, 7, 9], 0, 1] = True
    packed = reference.pack_mask(mask)
    assert packed.flatten().tolist() == [0, 0b10000001, 0, 0b10]
    assert torch.equal(reference.unpack_mask(packed, 11), mask)
