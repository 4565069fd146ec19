import pytest
import torch

from export.rewrite import rewrite
from export.rewrite.precision import lower_precision
from tests.export.rewrite.graphs import aten, captured, relative_error
from training.wide_resnet import WideResNet


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.05), (torch.bfloat16, 0.2)])
def test_convolutions_are_lowered_and_the_block_is_not(dtype: torch.dtype, tolerance: float) -> None:
    graph = captured(WideResNet(10, 1, 10), (16, 16))
    rewrite(graph)
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = graph(images)
        lower_precision(graph, dtype)
        found = graph(images)

    convolutions = graph.graph.find_nodes(op="call_function", target=aten.convolution.default)
    dtypes = [node.meta["val"].dtype for node in convolutions]
    assert dtypes.count(torch.float32) == 5  # the block's
    assert dtypes.count(dtype) == len(dtypes) - 5 > 0
    for before, after in zip(expected, found, strict=True):
        assert after.dtype == torch.float32
        assert 0 < relative_error(after, before) < tolerance
    # One cast back in front of each pooling and one of the gradient.
    casts = graph.graph.find_nodes(op="call_function", target=aten.to.dtype)
    assert sum(node.args[1] == torch.float32 for node in casts) == 3
