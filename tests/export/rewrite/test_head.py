import torch
from torch import Tensor, nn

from export.rewrite.head import make_constant_gradients_constants
from export.rewrite.linear_layers import keep_linear_layers
from tests.export.rewrite.graphs import assert_kept, aten, captured, operators
from training.wide_resnet import WideResNet


def test_the_classifiers_way_back_is_a_constant() -> None:
    network = WideResNet(10, 1, 10)
    graph = captured(network, (16, 16))
    keep_linear_layers(graph)
    assert operators(graph)[aten.expand.default] == 2
    assert_kept(graph, make_constant_gradients_constants)

    assert operators(graph)[aten.expand.default] == 0
    assert operators(graph)[aten.mm.default] == 0
    assert not any(isinstance(node.meta.get("val"), torch.SymInt) for node in graph.graph.nodes)  # no batch size
    expected = network.classifier.weight.detach().sum(0) / 16  # over the 4 x 4 pixels of the last feature map
    torch.testing.assert_close(graph.get_buffer("head_gradient").flatten(), expected)


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
