import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from export.rewrite.batch_norm import fold_batch_norms
from export.rewrite.constants import fold_constants
from export.rewrite.head import make_constant_gradients_constants
from export.rewrite.linear_layers import keep_linear_layers
from export.rewrite.scales import fold_channel_scales
from tests.export.rewrite.graphs import assert_kept, aten, captured
from training.networks.wide_resnet import WideResNet


def multiplications_by_constants(graph: object) -> int:
    """Return how many feature maps are multiplied by a constant.

    Multiplications of weights are expressions that are computed once.
    """
    return sum(
        node.target in (aten.mul.Tensor, aten.div.Tensor)
        and any(getattr(source, "op", "") == "get_attr" for source in node.args)
        and len(node.meta["val"].shape) == 4
        and not isinstance(node.meta["val"].shape[0], int)
        for node in graph.graph.nodes  # type: ignore[attr-defined]
    )


def test_a_wide_residual_networks_way_back_has_no_factors_left() -> None:
    graph = captured(WideResNet(10, 1, 10), (16, 16))
    for earlier in (keep_linear_layers, make_constant_gradients_constants, fold_constants, fold_batch_norms):
        earlier(graph)
    # Seven norms, the division of both passes' images by std, and the gradient's by it.
    assert multiplications_by_constants(graph) == 7 + 2 + 1 + 1
    assert_kept(graph, fold_channel_scales)
    assert multiplications_by_constants(graph) == 1  # the classifier's gradient on the mask


class Shared(nn.Module):
    """A norm's gradient that two branches use, neither of them a convolution alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.classifier = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images).tanh()
        return self.classifier((features.sin() + self.norm(features)).mean((2, 3)))


def test_where_no_convolution_can_take_it_the_factor_stays() -> None:
    graph = captured(Shared())
    fold_constants(graph)
    before = multiplications_by_constants(graph)
    assert_kept(graph, fold_channel_scales)
    # Division by std goes into the stem, on the way there and back; the norm's factor has nowhere to go.
    assert multiplications_by_constants(graph) == before - 3 > 0


class OneNodeTwice(nn.Module):
    """features * features, or features + features, scaled channel by channel."""

    scale: Tensor

    def __init__(self, combine: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.combine = combine
        self.stem, self.classifier = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 5)
        self.register_buffer("scale", torch.tensor([0.5, 2.0, 3.0, 0.1]).reshape(4, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        return self.classifier((self.combine(features, features) * self.scale).tanh().mean((2, 3)))


@pytest.mark.parametrize("combine", [operator.mul, operator.add])
def test_both_sides_of_a_product_or_sum_being_one_node_the_factor_stays(
    combine: Callable[[Tensor, Tensor], Tensor],
) -> None:
    assert_kept(captured(OneNodeTwice(combine)), fold_channel_scales)


def test_grouped_convolutions() -> None:
    layers = [nn.Conv2d(3, 6, 3, groups=3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=2)]
    graph = captured(nn.Sequential(*layers, nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3)))
    fold_constants(graph)
    assert_kept(graph, fold_channel_scales)


def products_with_numbers(graph: object) -> int:
    """Return how many feature maps are multiplied by a number, the scaled masks of hard-swish left out."""
    return sum(
        node.target == aten.mul.Tensor and isinstance(node.args[1], int | float) and node.args[1] > 0
        for node in graph.graph.nodes  # type: ignore[attr-defined]
    )


def test_a_number_goes_into_the_convolution_beyond_a_norms_factors() -> None:
    layers = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Hardswish(), nn.Conv2d(8, 4, 3)]
    graph = captured(nn.Sequential(*layers, nn.Hardsigmoid(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(64, 5)))
    for earlier in (keep_linear_layers, make_constant_gradients_constants, fold_constants, fold_batch_norms):
        earlier(graph)
    before = products_with_numbers(graph)
    assert_kept(graph, fold_channel_scales)
    # The 2 of hard-swish and the 1/6 of hard-sigmoid are gone; the block's scale has no convolution beside it.
    assert products_with_numbers(graph) == before - 2 == 1
