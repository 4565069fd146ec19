"""Floating-point operations, against a count by hand."""

import torch
from torch import nn

from release.gpu import flops
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork


def test_a_linear_network_takes_two_operations_for_each_weight_and_picture():
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 5))
    forward = 2 * (3 * 4 * 4) * 5
    assert flops.of_function(backbone, image_size=4) == forward
    plain = SelfGradientNetwork(backbone, None).eval()
    assert flops.of_network(plain, 4) == {"one pass": forward, "both passes": forward}
    both = SelfGradientNetwork(backbone, SelfGradientBlock(gradient_scaling="rms")).eval()
    counted = flops.of_network(both, 4)
    # Forward, back to the image, and forward again.
    assert counted["one pass"] == forward
    assert counted["both passes"] >= 3 * forward


def test_a_convolution_is_counted():
    convolution = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    with torch.no_grad():
        assert flops.of_function(convolution, image_size=6) == 2 * (3 * 3 * 3) * 8 * 6 * 6
