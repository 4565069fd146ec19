"""Each rule for the way back against PyTorch's own backward, in float64, at awkward sizes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from export.decompositions import decompositions

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
}
BACKWARDS = ("convolution_backward", "threshold_backward", "pool2d_backward", "indices_backward")


def input_gradient(layer: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    def gradient(features: Tensor, weights: Tensor) -> Tensor:
        return torch.func.grad(lambda x: (layer(x).tanh() * weights).sum())(features)

    return gradient


@pytest.mark.parametrize("size", [(12, 8), (9, 14)])
@pytest.mark.parametrize("name", LAYERS)
def test_equals_autograd(name: str, size: tuple[int, int]) -> None:
    if name == "adaptive average pool" and size == (9, 14):
        size = (15, 14)  # a multiple of the output size, which the rule needs
    layer = LAYERS[name].double().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, *size, dtype=torch.float64, generator=generator)
    weights = torch.randn(layer(features).shape, dtype=torch.float64, generator=generator)

    graph = make_fx(input_gradient(layer), decomposition_table=decompositions())(features, weights)

    assert not [node.name for node in graph.graph.nodes if any(name in str(node.target) for name in BACKWARDS)]
    other = torch.randn(features.shape, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(graph(other, weights), input_gradient(layer)(other, weights), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (nn.AvgPool2d(3, 2, ceil_mode=True), "ceil_mode"),
        (nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), "count_include_pad"),
        (nn.AdaptiveAvgPool2d(5), "AdaptiveAvgPool2d"),
    ],
)
def test_what_is_not_supported_is_refused(layer: nn.Module, named: str) -> None:
    features = torch.randn(2, 4, 12, 12)
    with pytest.raises(NotImplementedError, match=named):
        make_fx(input_gradient(layer), decomposition_table=decompositions())(features, torch.ones(()))


def test_gradients_for_weights_are_refused() -> None:
    features = torch.randn(2, 4, 8, 8)

    def loss(weight: Tensor) -> Tensor:
        return nn.functional.conv2d(features, weight).sum()

    with pytest.raises(ValueError, match="not to its weights"):
        make_fx(torch.func.grad(loss), decomposition_table=decompositions())(torch.randn(6, 4, 3, 3))
