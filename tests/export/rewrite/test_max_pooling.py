import pytest
from torch import nn

from export.rewrite.max_pooling import share_max_pooling
from tests.export.rewrite.graphs import assert_kept, aten, captured, operators

POOLING = aten.max_pool2d_with_indices.default


@pytest.mark.parametrize(
    "pooling",
    [nn.MaxPool2d(2), nn.MaxPool2d(3, stride=2, padding=1), nn.MaxPool2d(2, stride=2, ceil_mode=True)],
    ids=["defaults", "padded", "ceil"],
)
def test_the_gradient_uses_the_pooling_of_the_forward_pass(pooling: nn.Module) -> None:
    graph = captured(nn.Sequential(nn.Conv2d(3, 4, 3), pooling, nn.Flatten(), nn.LazyLinear(5)))
    assert operators(graph)[POOLING] == 3  # one a pass, and one for the gradient of the first
    assert_kept(graph, share_max_pooling)
    assert operators(graph)[POOLING] == 2
    assert not operators(graph)[aten.scatter_add.default]


def test_poolings_that_differ_stay() -> None:
    class Two(nn.Module):
        def forward(self, features):
            pairs = nn.functional.max_pool2d(features, 2, stride=2, padding=1)
            return pairs + nn.functional.max_pool2d(features, 2, stride=2, ceil_mode=True, padding=(1, 1)) * 2

    graph = captured(nn.Sequential(nn.Conv2d(3, 4, 3), Two(), nn.Flatten(), nn.LazyLinear(5)))
    assert operators(graph)[POOLING] == 6
    assert_kept(graph, share_max_pooling)
    assert operators(graph)[POOLING] == 4
