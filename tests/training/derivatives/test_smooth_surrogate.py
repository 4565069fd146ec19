import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.derivatives.smooth_surrogate import SmoothSurrogate, SurrogateWarning

LAYERS: dict[str, Callable[[Tensor], Tensor]] = {
    "ReLU6": nn.ReLU6(),
    "ReLU6, in place": nn.ReLU6(inplace=True),
    "relu6": F.relu6,
    "hard tanh": nn.Hardtanh(-0.5, 2.0),
    "leaky ReLU": nn.LeakyReLU(0.1),
    "leaky ReLU, in place": nn.LeakyReLU(0.1, inplace=True),
    "PReLU": nn.PReLU(3, init=0.2),
    "hard sigmoid": nn.Hardsigmoid(),
    "hard swish": nn.Hardswish(),
    "hard swish, in place": lambda x: F.hardswish(x, inplace=True),
    "max pool": nn.MaxPool2d(2),
    "max pool, overlapping and padded": nn.MaxPool2d(3, 2, padding=1),
    "max pool, sides": nn.MaxPool2d((2, 3), (3, 1), padding=(0, 1), dilation=(2, 1)),
    "max pool, ceil": nn.MaxPool2d(3, 2, padding=1, ceil_mode=True),
    "max_pool2d": lambda x: F.max_pool2d(x, 3, stride=1, padding=1),
}


@pytest.mark.parametrize(
    "relu", [torch.relu, F.relu, nn.ReLU(), nn.ReLU(inplace=True), lambda x: x.clone().relu_(), torch.Tensor.relu]
)
def test_relu_is_softplus_however_it_is_called(relu):
    values = torch.linspace(-1, 1, 5)
    with SmoothSurrogate(3.0):
        smooth = relu(values.clone())
    torch.testing.assert_close(smooth, F.softplus(values, beta=3.0))
    assert torch.equal(relu(values.clone()), values.clamp(min=0))


@pytest.mark.parametrize("sign", [torch.sign, torch.Tensor.sign, lambda x: x.sign()])
def test_a_sign_is_a_hyperbolic_tangent_however_it_is_called(sign):
    values = torch.linspace(-1, 1, 5)
    with SmoothSurrogate(3.0):
        smooth = sign(values)
    torch.testing.assert_close(smooth, torch.tanh(3 * values))


@pytest.mark.parametrize("name", LAYERS)
def test_tends_to_the_layer_and_bends_where_the_layer_has_corners(name):
    layer = LAYERS[name]
    if isinstance(layer, nn.Module):
        layer = layer.double()
    generator = torch.Generator().manual_seed(0)
    features = 3 * torch.randn(2, 3, 8, 11, dtype=torch.float64, generator=generator)
    exact = layer(features.clone())
    with SmoothSurrogate(2000.0):
        torch.testing.assert_close(layer(features.clone()), exact, rtol=0, atol=0.005)
    features.requires_grad_()
    with SmoothSurrogate(5.0):
        smooth = layer(features * 1.0)
        (slope,) = torch.autograd.grad(smooth.sum(), features, create_graph=True)
        (bend,) = torch.autograd.grad((slope * torch.arange(slope.numel()).view_as(slope)).sum(), features)
    assert bend.abs().max() > 0.01
    assert torch.isfinite(bend).all()


@pytest.mark.parametrize("layer", [nn.GELU(), nn.SiLU(), nn.ELU(), nn.Sigmoid(), nn.AvgPool2d(2), nn.LayerNorm(8)])
def test_smooth_layers_are_left_alone_without_a_word(layer):
    features = torch.randn(2, 3, 8, 8)
    with warnings.catch_warnings(), SmoothSurrogate(5.0):
        warnings.simplefilter("error")
        smooth = layer(features)
    assert torch.equal(smooth, layer(features))


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.Softshrink(), "softshrink"),
        (nn.Threshold(0.1, 0.0), "threshold"),
        (nn.AdaptiveMaxPool2d(1), "adaptive_max_pool2d"),
        (torch.abs, "abs"),
        (lambda x: x.clamp(min=0), "clamp"),
        (lambda x: torch.maximum(x, -x), "maximum"),
        (lambda x: x.amax(dim=1), "amax"),
    ],
)
def test_what_stays_piecewise_linear_is_named(layer, name):
    features = torch.randn(2, 3, 8, 8)
    with SmoothSurrogate(5.0), pytest.warns(SurrogateWarning, match=f"torch's {name} piecewise linear"):
        same = layer(features)
    assert torch.equal(same, layer(features))
