import pytest
import torch
from torch import fx, nn

from export.rewrite.editing import COMPARISONS, is_call
from export.rewrite.masks import scale_masks_by_convolutions, take_masks_from_results
from tests.export.rewrite.graphs import assert_kept, aten, captured, operators


def network(activation: nn.Module, channels: int = 8) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, channels, 3), activation, nn.Conv2d(channels, 4, 3), nn.Flatten(), nn.Linear(4 * 4 * 4, 5)
    )


def compared(graph: fx.GraphModule) -> set[object]:
    """Return what the inputs of the comparisons are computed by."""
    return {node.args[0].target for node in graph.graph.nodes if is_call(node, *COMPARISONS)}


def test_the_masks_of_a_bounded_relu_compare_its_result() -> None:
    graph = captured(network(nn.ReLU6()))
    assert compared(graph) == {aten.convolution.default}
    assert_kept(graph, take_masks_from_results)
    assert compared(graph) == {aten.hardtanh.default}
    activations = graph.graph.find_nodes(op="call_function", target=aten.hardtanh.default)
    assert len(activations) == 2
    assert all(len(node.args[0].users) == 1 for node in activations)


class OtherBounds(nn.Module):
    """Two bounded ReLUs of the same features, with different bounds."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return nn.functional.hardtanh(features, -1, 2) * nn.functional.hardtanh(features, -2, 1.5)


def test_each_mask_compares_the_result_with_the_same_bound() -> None:
    graph = captured(network(OtherBounds()))
    assert_kept(graph, take_masks_from_results)
    masks = [node for node in graph.graph.nodes if is_call(node, *COMPARISONS)]
    assert {node.args[1] for node in masks} == {-1, 2, -2, 1.5}
    for node in masks:
        assert is_call(node.args[0], aten.hardtanh.default)
        assert node.args[1] in node.args[0].args[1:]


class MaskBefore(nn.Module):
    """A mask that is made before the bounded ReLU."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        mask = (features > 0).to(features.dtype)
        return mask * features.clamp(0, 6)


def test_a_mask_before_the_result_stays() -> None:
    graph = captured(network(MaskBefore()))
    assert_kept(graph, take_masks_from_results)
    assert aten.convolution.default in compared(graph)


def depthwise(graph: fx.GraphModule) -> list[fx.Node]:
    convolutions = graph.graph.find_nodes(op="call_function", target=aten.convolution.default)
    return [node for node in convolutions if node.args[8] > 1]


@pytest.mark.parametrize(("channels", "replaced"), [(8, 1), (6, 0)])
def test_the_steps_of_hard_swish_are_scaled_in_blocks(channels: int, replaced: int) -> None:
    graph = captured(network(nn.Hardswish(), channels))
    assert_kept(graph, scale_masks_by_convolutions)
    assert len(depthwise(graph)) == replaced


def test_other_products_stay() -> None:
    graph = captured(network(nn.Sequential(nn.LeakyReLU(0.1), nn.SiLU())))
    before = operators(graph)
    scale_masks_by_convolutions(graph)
    assert operators(graph) == before
