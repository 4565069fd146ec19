import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from export.capture.decompositions import decompositions
from export.rewrite.linear_layers import keep_linear_layers

aten = torch.ops.aten


def targets(graph: torch.fx.GraphModule) -> list[object]:
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def test_linear_layers_are_kept_whole() -> None:
    with_bias, without = nn.Linear(5, 4).requires_grad_(False), nn.Linear(4, 3, bias=False).requires_grad_(False)
    features = torch.randn(2, 5)

    def function(x: torch.Tensor) -> torch.Tensor:
        return without(with_bias(x))

    graph = make_fx(function, decomposition_table=decompositions())(features)
    assert aten.addmm.default in targets(graph)
    keep_linear_layers(graph)

    assert targets(graph) == [aten.linear.default, aten.linear.default]
    torch.testing.assert_close(graph(features), function(features))


def test_the_way_back_uses_the_weight_as_it_is() -> None:
    linear = nn.Linear(5, 4).requires_grad_(False)
    features = torch.randn(2, 5)
    function = torch.func.grad(lambda x: linear(x).square().sum())

    graph = make_fx(function, decomposition_table=decompositions())(features)
    keep_linear_layers(graph)

    assert aten.permute.default not in targets(graph)
    torch.testing.assert_close(graph(features), function(features))


def test_other_products_are_left_alone() -> None:
    graph = make_fx(lambda a, b: a @ b)(torch.randn(2, 5), torch.randn(5, 3))
    keep_linear_layers(graph)
    assert targets(graph) == [aten.mm.default]
