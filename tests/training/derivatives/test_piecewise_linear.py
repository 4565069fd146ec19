import pytest
import torch
import torch.nn.functional as F
from torch import nn

from training.attacks.views import full_view, held_view, plain_view
from training.derivatives.piecewise_linear import is_piecewise_linear
from training.networks.activations import with_activation
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork


class FunctionalReLU(nn.Module):
    """Has a nonlinearity, but no module for it."""

    def forward(self, features):
        return F.relu(features)


class Noise(nn.Module):
    def forward(self, features):
        return features + 0.01 * torch.randn_like(features)


def tiny(*middle: nn.Module) -> SelfGradientNetwork:
    torch.manual_seed(0)
    ends = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)]
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *middle, *ends)
    return SelfGradientNetwork(backbone, SelfGradientBlock(gradient_scaling="rms")).eval()


@pytest.mark.parametrize(
    ("middle", "expected"),
    [
        ([], True),
        ([nn.ReLU()], True),
        ([FunctionalReLU()], True),
        ([nn.BatchNorm2d(8), nn.LeakyReLU(0.1), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU6()], True),
        ([nn.SiLU()], False),
        ([nn.ReLU(), nn.Softplus(beta=10)], False),
        ([nn.GroupNorm(2, 8), nn.ReLU()], False),
    ],
    ids=["linear", "relu", "functional", "kinks", "silu", "softplus", "group norm"],
)
def test_any_module_is_judged_by_what_it_computes(middle, expected):
    model = tiny(*middle)
    assert is_piecewise_linear(model, torch.empty(1, 3, 12, 12)) is expected
    model.double().requires_grad_(False)
    with torch.no_grad():
        assert is_piecewise_linear(model, torch.empty(5, 3, 8, 16, dtype=torch.float64)) is expected


def test_whole_backbones(network):
    model = network()
    assert is_piecewise_linear(model, torch.empty(1, 3, 16, 16))
    with_activation(model.backbone, "silu")
    assert not is_piecewise_linear(model, torch.empty(1, 3, 16, 16))


def test_nothing_is_drawn_and_no_gradient_left():
    model = tiny(Noise(), nn.SiLU())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    is_piecewise_linear(model, torch.empty(1, 3, 8, 8))
    assert torch.equal(torch.rand(3), expected)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("layer", "view"), [(nn.ReLU(), held_view), (nn.SiLU(), full_view)], ids=["relu", "silu"])
def test_the_plain_view_is_the_honest_derivative_at_the_lowest_price(layer, view):
    model = tiny(layer)
    images = torch.rand(3, 3, 8, 8)

    def gradient(logits_function):
        inputs = images.clone().requires_grad_()
        return torch.autograd.grad(logits_function(inputs).square().sum(), inputs)[0]

    # The full view is the network itself.
    assert (plain_view(model, images) is model) is (view is full_view)
    plain = gradient(plain_view(model, images))
    assert torch.equal(plain, gradient(view(model)))
    torch.testing.assert_close(plain, gradient(full_view(model)))
