from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from export.rewrite.head import make_constant_gradients_constants
from export.rewrite.linear_layers import keep_linear_layers
from tests.export.rewrite.graphs import assert_kept, aten, captured, operators
from training.networks.wide_resnet import WideResNet


def test_the_classifiers_way_back_is_a_constant() -> None:
    network = WideResNet(10, 1, 10)
    graph = captured(network, (16, 16))
    keep_linear_layers(graph)
    assert operators(graph)[aten.expand.default] == 2
    assert_kept(graph, make_constant_gradients_constants)

    assert operators(graph)[aten.expand.default] == 0
    assert operators(graph)[aten.mm.default] == 0
    assert not any(isinstance(node.meta.get("val"), torch.SymInt) for node in graph.graph.nodes)  # no batch size
    expected = network.classifier.weight.detach().sum(0) / 16  # the mean over the 4 x 4 pixels of the last feature map
    torch.testing.assert_close(graph.get_buffer("head_gradient").flatten(), expected)


def pooled_and_flattened() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(5))


def resnet_of_one_block_a_group() -> nn.Module:
    """The second block of each group has no layer of another kind."""
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10)


@pytest.mark.parametrize("backbone", [pooled_and_flattened, resnet_of_one_block_a_group])
def test_the_way_back_through_flatten_is_a_constant_too(backbone: Callable[[], nn.Module]) -> None:
    graph = captured(backbone(), (32, 32))
    keep_linear_layers(graph)
    assert operators(graph)[aten.mm.default] == 1  # the classifier's way back
    assert_kept(graph, make_constant_gradients_constants)
    assert operators(graph)[aten.mm.default] == 0
    # The logits alone need one classifier.
    (output,) = graph.graph.find_nodes(op="output")
    output.args = ((output.args[0][0],),)
    graph.graph.eliminate_dead_code()
    assert operators(graph)[aten.linear.default] == 1


class Squared(nn.Module):
    """A head whose gradient depends on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.classifier = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.stem(images).mean((2, 3))).square()


def test_a_gradient_that_depends_on_the_image_is_left_alone() -> None:
    graph = captured(Squared())
    keep_linear_layers(graph)
    assert_kept(graph, make_constant_gradients_constants)
    assert operators(graph)[aten.mm.default] == 1  # the classifier's way back
