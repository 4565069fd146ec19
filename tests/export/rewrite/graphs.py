"""Captured graphs for the tests of the passes, and how to look at them."""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from export.capture.graph import capture
from export.network_passes import passes_of
from tests.export.networks import network_around

aten = torch.ops.aten


def captured(backbone: nn.Module, image_size: tuple[int, int] = (8, 8)) -> fx.GraphModule:
    torch.manual_seed(0)
    backbone.eval()(torch.zeros(2, 3, *image_size))  # gives lazy layers their sizes
    return capture(passes_of(network_around(backbone)), image_size)


def operators(graph: fx.GraphModule) -> Counter[object]:
    return Counter(node.target for node in graph.graph.nodes if node.op == "call_function")


def assert_kept(graph: fx.GraphModule, rewriting: Callable[[fx.GraphModule], None]) -> None:
    """Rewrites the graph and checks that it computes what it did, at another batch size than it was captured with."""
    size = next(iter(graph.graph.find_nodes(op="placeholder"))).meta["val"].shape[1:]
    images = torch.rand(5, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = graph(images)
        rewriting(graph)
        after = graph(images)
    for expected, found in zip(before, after, strict=True):
        assert relative_error(found, expected) < 1e-5


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
