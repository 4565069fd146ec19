import pytest
from torch import nn

from export.rewrite.input_gradients import write_input_gradients_as_convolutions
from tests.export.rewrite.graphs import assert_kept, aten, captured

LAYERS = {
    "3x3": (nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, 3, padding=1)),
    "1x1": (nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, 1)),
    "5x3, dilated": (nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, (5, 3), padding=(4, 1), dilation=(2, 1))),
    "grouped": (nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3, groups=2)),
    "depthwise": (nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8)),
    "depthwise, two kernels a channel": (nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3, groups=8)),
}
LEFT = {
    "stride 2": (nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, 3, stride=2, padding=1)),
    "padded by more than the kernel": (nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, 1, padding=1)),
}


def transposed(layers: tuple[nn.Module, ...]) -> tuple[int, int]:
    """How many transposed convolutions there are before and after; the image's own is one of them."""
    graph = captured(nn.Sequential(*layers, nn.Tanh(), nn.Flatten(), nn.LazyLinear(4)), (12, 12))

    def count() -> int:
        nodes = graph.graph.find_nodes(op="call_function", target=aten.convolution.default)
        return sum(node.args[6] for node in nodes)

    before = count()
    assert_kept(graph, write_input_gradients_as_convolutions)
    return before, count()


@pytest.mark.parametrize("name", LAYERS)
def test_input_gradients_become_convolutions(name: str) -> None:
    assert transposed(LAYERS[name]) == (2, 1)


@pytest.mark.parametrize("name", LEFT)
def test_others_are_left_alone(name: str) -> None:
    assert transposed(LEFT[name]) == (2, 2)


def test_a_weight_of_both_passes_is_flipped_once() -> None:
    graph = captured(nn.Sequential(*LAYERS["3x3"], nn.Tanh(), nn.Flatten(), nn.LazyLinear(4)), (12, 12))
    assert_kept(graph, write_input_gradients_as_convolutions)
    assert len(graph.graph.find_nodes(op="call_function", target=aten.flip.default)) == 1
