"""Each rule for the way back against PyTorch's own backward, in float64, at awkward sizes."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from export.capture.decompositions import decompositions


class Resize(nn.Module):
    """F.interpolate with any of its options."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, features: Tensor) -> Tensor:
        return F.interpolate(features, **self.options)


class GridSample(nn.Module):
    """Sample at places that depend on the features themselves, also outside of the feature map."""

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners

    def forward(self, features: Tensor) -> Tensor:
        grid = 1.3 * features[:, :2].tanh().permute(0, 2, 3, 1)
        return F.grid_sample(features, grid, align_corners=self.align_corners)


class BilinearOfPixels(nn.Module):
    """A bilinear layer of neighbouring channels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Bilinear(4, 4, 3)

    def forward(self, features: Tensor) -> Tensor:
        pixels = features.flatten(2).transpose(1, 2)
        return self.layer(pixels, pixels.flip(1))


LAYERS = {
    "3x3": nn.Conv2d(4, 6, 3, padding=1),
    "3x3 stride 2": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "1x1 stride 2": nn.Conv2d(4, 6, 1, stride=2, bias=False),
    "5x3 stride 3x2, dilated": nn.Conv2d(4, 6, (5, 3), stride=(3, 2), padding=(1, 0), dilation=(1, 2)),
    "grouped": nn.Conv2d(4, 6, 3, groups=2),
    "transposed": nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
    "ReLU": nn.ReLU(),
    "max pool": nn.MaxPool2d(3, stride=2, padding=1),
    "average pool": nn.AvgPool2d(2),
    "average pool, overlapping and padded": nn.AvgPool2d(3, stride=2, padding=1),
    "global average pool": nn.AdaptiveAvgPool2d(1),
    "adaptive average pool": nn.AdaptiveAvgPool2d((3, 2)),
    "adaptive average pool, overlapping": nn.AdaptiveAvgPool2d((5, 3)),
    "adaptive average pool to more": nn.AdaptiveAvgPool2d((16, 3)),
    "average pool, ceil": nn.AvgPool2d(3, 2, ceil_mode=True),
    "average pool, ceil and padded": nn.AvgPool2d((3, 4), (2, 3), padding=1, ceil_mode=True),
    "average pool, padding not counted": nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
    "average pool, neither": nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False),
    "average pool, own divisor": nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, divisor_override=5),
    "max pool, ceil": nn.MaxPool2d(3, stride=2, ceil_mode=True),
    "max pool, dilated": nn.MaxPool2d(3, stride=2, padding=1, dilation=2),
    "max pool of pairs": nn.MaxPool2d(2),
    "max pool of stride 1": nn.MaxPool2d(3, stride=1, padding=1),
    "max pool of two strides": nn.MaxPool2d((2, 3), stride=(3, 1), padding=(1, 1)),
    "max pool with gaps": nn.MaxPool2d(2, stride=3, ceil_mode=True),
    "max pool of large windows": nn.MaxPool2d(5, stride=2, padding=2),
    "depthwise": nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=4),
    "ReLU6": nn.ReLU6(),
    "hard-swish": nn.Hardswish(),
    "hard-sigmoid": nn.Hardsigmoid(),
    "leaky ReLU": nn.LeakyReLU(0.1),
    "PReLU": nn.PReLU(4),
    "ELU": nn.ELU(),
    "SiLU": nn.SiLU(),
    "GELU": nn.GELU(),
    "GELU, tanh": nn.GELU(approximate="tanh"),
    "Mish": nn.Mish(),
    "batch norm": nn.BatchNorm2d(4).eval(),
    "group norm": nn.GroupNorm(2, 4),
    "nearest upsampling": nn.Upsample(scale_factor=2),
    "bilinear upsampling": nn.Upsample(scale_factor=2, mode="bilinear"),
    "bilinear, to a size": nn.Upsample(size=(7, 11), mode="bilinear", align_corners=True),
    "dropout": nn.Dropout(0.5).eval(),
    "adaptive max pool": nn.AdaptiveMaxPool2d((5, 3)),
    "adaptive max pool to more": nn.AdaptiveMaxPool2d((13, 17)),
    "global max pool": nn.AdaptiveMaxPool2d(1),
    "local response normalisation": nn.LocalResponseNorm(3),
    "randomised leaky ReLU": nn.RReLU().eval(),
    "padding that repeats the edge": nn.ReplicationPad2d((3, 0, 1, 2)),
    "cropping that repeats the edge": nn.ReplicationPad2d((3, -2, -1, 2)),
    "circular padding": nn.CircularPad2d((3, 0, 1, 2)),
    "reflecting padding": nn.ReflectionPad2d((3, 0, 1, 2)),
    "antialiased, smaller": Resize(size=(5, 6), mode="bilinear", antialias=True),
    "antialiased, larger": Resize(size=(15, 17), mode="bicubic", antialias=True),
    "antialiased, by a factor": Resize(scale_factor=(0.7, 0.6), mode="bicubic", antialias=True),
    "antialiased, corners aligned": Resize(size=(5, 6), mode="bicubic", antialias=True, align_corners=True),
    "grid sampling": GridSample(align_corners=False),
    "grid sampling, corners aligned": GridSample(align_corners=True),
    "bilinear layer": BilinearOfPixels(),
}


def input_gradient(layer: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    def gradient(features: Tensor, weights: Tensor) -> Tensor:
        return torch.func.grad(lambda x: (layer(x).tanh() * weights).sum())(features)

    return gradient


@pytest.mark.parametrize("size", [(12, 8), (9, 14)])
@pytest.mark.parametrize("name", LAYERS)
def test_equals_autograd(name: str, size: tuple[int, int]) -> None:
    layer = LAYERS[name].double().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, *size, dtype=torch.float64, generator=generator)
    weights = torch.randn(layer(features).shape, dtype=torch.float64, generator=generator)

    graph = make_fx(input_gradient(layer), decomposition_table=decompositions())(features, weights)

    assert not [node.name for node in graph.graph.nodes if "backward" in str(node.target)]
    other = torch.randn(features.shape, dtype=torch.float64, generator=generator)
    # PyTorch's own hard sigmoid has its 1/6 in float32, even for float64; all others agree to 1e-12.
    tolerance = 1e-7 if name == "hard-sigmoid" else 1e-12
    expected = input_gradient(layer)(other, weights)
    torch.testing.assert_close(graph(other, weights), expected, rtol=tolerance, atol=tolerance)


POOLS = [name for name, layer in LAYERS.items() if isinstance(layer, nn.MaxPool2d)]


@pytest.mark.parametrize("name", POOLS)
def test_equal_features_give_the_gradient_to_the_same_one_and_a_nan_stays(name: str) -> None:
    """Compare windows of equal features, as in a flat part of a picture."""
    layer = LAYERS[name].double()
    features = torch.randint(0, 3, (2, 4, 9, 14), generator=torch.Generator().manual_seed(0)).double()
    weights = torch.randn(layer(features).shape, dtype=torch.float64)
    graph = make_fx(input_gradient(layer), decomposition_table=decompositions())(features, weights)
    torch.testing.assert_close(graph(features, weights), input_gradient(layer)(features, weights))
    nothing = torch.full_like(features, math.nan)
    assert graph(nothing, weights).isnan().any()


BOUNDED = {"ReLU6": (0, 6), "hard-swish": (-3, 3), "hard-sigmoid": (-3, 3)}
"""Activations whose gradients PyTorch writes with torch.where, and where they change."""


@pytest.mark.parametrize("name", BOUNDED)
def test_masks_are_products_and_agree_at_the_bounds_and_at_infinity(name: str) -> None:
    layer, bounds = LAYERS[name].float(), torch.tensor(BOUNDED[name], dtype=torch.float32)
    infinity = torch.tensor([math.inf, -math.inf])
    beside = [torch.nextafter(bounds, direction) for direction in infinity]
    features = torch.cat([bounds, *beside, torch.tensor([1.5, -2.9, 1e38, -1e38, *infinity])])
    weights = torch.arange(1.0, len(features) + 1)

    def gradient(features: Tensor, weights: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(layer(features), features, weights)
        return found

    features.requires_grad_()
    graph = make_fx(gradient, decomposition_table=decompositions())(features, weights)
    assert not [node.name for node in graph.graph.nodes if "where" in str(node.target)]
    torch.testing.assert_close(graph(features, weights), gradient(features, weights))
    assert graph(features, weights * math.nan).isnan().all()


def test_gradients_for_weights_are_refused() -> None:
    features = torch.randn(2, 4, 8, 8)

    def loss(weight: Tensor) -> Tensor:
        return nn.functional.conv2d(features, weight).sum()

    with pytest.raises(ValueError, match="not to its weights"):
        make_fx(torch.func.grad(loss), decomposition_table=decompositions())(torch.randn(6, 4, 3, 3))
