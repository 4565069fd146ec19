"""The network as one ATen graph: both passes, captured from the one model definition, never retyped."""

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from export.capture.decompositions import decompositions
from export.capture.layers import LayerTracker
from export.capture.traceable import traceable_calls
from export.errors import operator_in
from training.common.errors import first_line
from training.networks.gradient_oracle import GradientOracle
from training.networks.self_gradient import SelfGradientNetwork

INPUT_NAME = "image"
TRACED_BATCH = 2
"""Any size but 0 and 1, which PyTorch would take for constants."""
_OUTPUT_NAMES = "output_names"


class CaptureError(ValueError):
    """A network that cannot be written as one graph; the message names the layer, the operator and what can be done.

    operator: the one that a format lacks, such as aten::adaptive_max_pool2d, where there is one
    """

    def __init__(self, message: str, operator: str | None = None):
        super().__init__(message)
        self.operator = operator


class Passes(nn.Module):
    """What is exported of a network, as one function of the image; named outputs, in order, in `output_names`."""

    output_names: tuple[str, ...]

    def __init__(self, network: SelfGradientNetwork):
        super().__init__()
        self.network = network


class TwoPasses(Passes):
    """Both passes.

    forward: (N, 3, H, W) -> logits (N, classes), plain logits (N, classes), self-gradient (N, 3, H, W)
    """

    output_names = ("logits", "plain_logits", "self_gradient")

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        plain_logits, self_gradient = self.network.first_pass(image)
        return self.network.second_pass(image, self_gradient), plain_logits, self_gradient


class OnePass(Passes):
    """A network without a block: (N, 3, H, W) -> plain logits (N, classes)."""

    output_names = ("plain_logits",)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return (self.network.plain_logits(image),)


def passes_of(network: SelfGradientNetwork) -> Passes:
    """Two passes for a network with a block, one for a network without.

    raises CaptureError for a gradient oracle
    """
    if isinstance(network, GradientOracle):
        raise CaptureError(
            "a gradient oracle needs the true label of every picture, which nobody has when it is served: "
            "export a network trained by another --method"
        )
    return OnePass(network) if network.block is None else TwoPasses(network)


def capture(passes: Passes, image_size: tuple[int, int]) -> fx.GraphModule:
    """One graph of ATen operators, gradients included, for any batch size.

    passes:     in eval mode; any backbone
    image_size: (height, width) in pixels, constants of the graph
    returns:    image (N, C, H, W) -> passes' outputs, with the weights as attributes under the names they have in
                `passes`, each once; example_image and output_names_of tell its shape and its outputs
    raises CaptureError for a network that is in training mode or that PyTorch cannot trace
    """
    if any(module.training for module in passes.network.modules()):
        raise CaptureError("the network is in training mode, where batch norm is no fixed function: call .eval() first")
    state = {name: tensor.detach() for name, tensor in (*passes.named_parameters(), *passes.named_buffers())}
    names = list(state)
    fake_mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    fake_state = [fake_mode.from_tensor(tensor, static_shapes=True) for tensor in state.values()]

    tracker = LayerTracker(passes.network)

    def function(image: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        with traceable_calls(), tracker.watching_calls():
            return functional_call(passes, dict(zip(names, tensors, strict=True)), (image,))

    try:
        with tracker.tracking():
            traced = make_fx(function, decomposition_table=decompositions(), tracing_mode="symbolic")(
                _fake_image(passes.network, image_size, fake_mode), *fake_state
            )
    except Exception as error:  # tracing runs the user's network, which may raise anything
        layer = f" at its layer {tracker.innermost}" if tracker.innermost else ""
        operator = tracker.operator or operator_in(error)
        call = f", calling {operator}" if operator else ""
        raise CaptureError(
            f"the network cannot be captured as one graph{layer}{call}: {first_line(error)}; "
            "mend that layer, or use one that does without the call"
        ) from error
    return _with_weights(traced, passes, names)


def example_image(graph: fx.GraphModule) -> Tensor:
    """A black image of the captured graph's size, (TRACED_BATCH, C, H, W): what it is traced with again."""
    (placeholder,) = graph.graph.find_nodes(op="placeholder")
    return torch.zeros(TRACED_BATCH, *placeholder.meta["val"].shape[1:])


def output_names_of(graph: fx.GraphModule) -> tuple[str, ...]:
    """The captured graph's outputs, in order."""
    names: tuple[str, ...] = graph.meta[_OUTPUT_NAMES]
    return names


def _fake_image(network: SelfGradientNetwork, image_size: tuple[int, int], fake_mode: FakeTensorMode) -> Tensor:
    image = torch.zeros(TRACED_BATCH, network.mean.shape[1], *image_size, dtype=network.mean.dtype)
    dynamic = [DimDynamic.DYNAMIC, DimDynamic.STATIC, DimDynamic.STATIC, DimDynamic.STATIC]
    sizes: StatelessSymbolicContext = StatelessSymbolicContext(dynamic_sizes=dynamic)
    return fake_mode.from_tensor(image, static_shapes=False, symbolic_context=sizes)


def _with_weights(traced: fx.GraphModule, passes: Passes, names: Sequence[str]) -> fx.GraphModule:
    """The traced function with every weight argument replaced by passes' weight of that name; unused ones go."""
    graph = traced.graph
    image, *weights = graph.find_nodes(op="placeholder")
    traced.add_module("network", passes.network)
    for node, name in zip(weights, names, strict=True):
        with graph.inserting_before(node):
            weight = graph.get_attr(name)
        weight.meta = node.meta
        node.replace_all_uses_with(weight)
        graph.erase_node(node)
    image.target = image.name = INPUT_NAME
    graph.eliminate_dead_code()
    captured = fx.GraphModule(traced, graph, "CapturedPasses")  # keeps of traced's attributes only those in use
    captured.meta[_OUTPUT_NAMES] = passes.output_names
    return captured
