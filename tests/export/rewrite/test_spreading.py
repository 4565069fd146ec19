import torch
from torch import Tensor, nn

from export.rewrite.spreading import spread_values_late
from tests.export.rewrite.graphs import assert_kept, aten, captured, operators


class SqueezeAndExcite(nn.Module):
    """Features scaled by what their own means give, as in MobileNetV3."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.classifier = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images).tanh()
        gate = self.gate(features.mean((2, 3), keepdim=True)).sigmoid()
        return self.classifier((features * gate).square().mean((2, 3)))


def test_the_gradient_of_a_mean_is_spread_by_the_sum_that_takes_it() -> None:
    graph = captured(SqueezeAndExcite())
    before = operators(graph)[aten.expand.default]
    assert_kept(graph, spread_values_late)
    assert operators(graph)[aten.expand.default] < before
    sums = graph.graph.find_nodes(op="call_function", target=aten.add.Tensor)
    shapes = [[tuple(source.meta["val"].shape[2:]) for source in node.all_input_nodes] for node in sums]
    assert [(6, 6), (1, 1)] in [sorted(pair, reverse=True) for pair in shapes]


class Repeated(nn.Module):
    """A spread value that an operator other than an elementwise one needs, and a product of two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.next, self.classifier = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        spread = features.mean((2, 3), keepdim=True).expand_as(features)
        return self.classifier((self.next(spread) + self.next(spread * spread)).mean((2, 3)))


class TimesBatch(nn.Module):
    """A spread value times the batch size, which is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.classifier = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        spread = features.mean((2, 3), keepdim=True).expand_as(features)
        return self.classifier((features + spread * len(images.shape) * images.shape[0] / images.shape[0]).mean((2, 3)))


def test_a_product_with_a_size_is_left_alone() -> None:
    torch.manual_seed(0)
    assert_kept(captured(TimesBatch()), spread_values_late)


def test_a_spread_value_stays_where_it_is_needed() -> None:
    torch.manual_seed(0)
    assert_kept(captured(Repeated()), spread_values_late)
