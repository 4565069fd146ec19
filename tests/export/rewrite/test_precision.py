import copy
from functools import cache

import pytest
import torch
from torch import fx

from export.rewrite import rewrite
from export.rewrite.precision import lower_precision
from tests.export.rewrite.graphs import aten, captured, relative_error
from tests.needs_timm import backbones
from training.networks.backbones import build_backbone
from training.networks.preact_resnet import PreActResNet18

# Bounds for the logits and the self-gradient, which an untrained network's block and its masks make coarse, and for the
# plain logits. A wrong gradient is off by 1 and more.
TOLERANCES = {torch.float16: (0.15, 0.005), torch.bfloat16: (0.3, 0.02)}


# One cast back in front of each mean and one of the gradient; ResNet's max-pooling takes one more each time.
CASTS_BACK = {"wrn-10-1": 3, "preact-resnet-18": 3, "timm:resnet18": 6}
PARTS = {"preact-resnet-18": "one block a group"}


@cache
def rewritten(architecture: str) -> fx.GraphModule:
    """Return the network's graph, captured once for both precisions."""
    torch.manual_seed(0)
    backbone = build_backbone(architecture, 10)
    if isinstance(backbone, PreActResNet18):
        backbone.blocks = backbone.blocks[::2]  # one block a group: the second one has no layer of another kind
    graph = captured(backbone, (32, 32))
    rewrite(graph)
    return graph


@pytest.mark.thorough
@pytest.mark.parametrize("architecture", backbones(*CASTS_BACK, parts=PARTS))
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_convolutions_are_lowered_and_the_block_is_not(dtype: torch.dtype, architecture: str) -> None:
    graph = copy.deepcopy(rewritten(architecture))
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = graph(images)
        lower_precision(graph, dtype)
        found = graph(images)

    convolutions = graph.graph.find_nodes(op="call_function", target=aten.convolution.default)
    dtypes = [node.meta["val"].dtype for node in convolutions]
    assert dtypes.count(torch.float32) == 5  # the block's
    assert dtypes.count(dtype) == len(dtypes) - 5 > 0
    coarse, fine = TOLERANCES[dtype]
    for before, after, tolerance in zip(expected, found, (coarse, fine, coarse), strict=True):
        assert after.dtype == torch.float32
        assert 0 < relative_error(after, before) < tolerance
    casts = graph.graph.find_nodes(op="call_function", target=aten.to.dtype)
    assert sum(node.args[1] == torch.float32 for node in casts) == CASTS_BACK[architecture]
