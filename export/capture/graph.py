"""Capture a network as one graph of ATen operators: both passes, from the one model definition."""

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.grad_mode import _force_original_view_tracking
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from export.capture.decompositions import decompositions
from export.capture.layers import LayerTracker, layer_of_operator
from export.capture.traceable import traceable_calls
from export.errors import CaptureError, operator_in
from export.network_passes import Passes
from sgn_serve.common.error_text import first_line
from sgn_serve.common.graph_format import INPUT
from training.networks.self_gradient import SelfGradientNetwork

TRACED_BATCH = 2
"""Batch size of the traced image: any size but 0 and 1, which PyTorch would take for constants."""
_OUTPUT_NAMES = "output_names"
_SAME_TENSOR = (torch.ops.aten.alias.default, torch.ops.aten.detach.default)
"""Operators by which autograd keeps what it needs. They stand between operators that a rewrite looks for in a row."""


def capture(passes: Passes, image_size: tuple[int, int]) -> fx.GraphModule:
    """Trace the passes into one graph of ATen operators, gradients included, for any batch size.

    Args:
        passes: Passes of a network in eval mode, with any backbone.
        image_size: (height, width) in pixels; they become constants of the graph.

    Returns:
        A graph from the image (N, C, H, W) to the outputs of `passes`. The weights are attributes under the names that
        they have in `passes`, each once. `example_image` and `output_names_of` tell the graph's shape and outputs.

    Raises:
        CaptureError: The network is in training mode, or PyTorch cannot trace it.
    """
    if any(module.training for module in passes.network.modules()):
        raise CaptureError("the network is in training mode, where batch norm is no fixed function: call .eval() first")
    state = {name: tensor.detach() for name, tensor in (*passes.named_parameters(), *passes.named_buffers())}
    names = list(state)
    fake_mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    fake_state = [fake_mode.from_tensor(tensor, static_shapes=True) for tensor in state.values()]

    image = _fake_image(passes.network, image_size, fake_mode)
    fixing: list[str] = []

    def note_fixed_batch(layer: str) -> None:
        symbol = getattr(image.shape[0], "node", None)
        if symbol is None or symbol.maybe_as_int() is not None:
            fixing.append(layer)

    tracker = LayerTracker(passes.network, note_fixed_batch)

    def function(image: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        with traceable_calls(), tracker.watching_calls():
            return functional_call(passes, dict(zip(names, tensors, strict=True)), (image,))

    try:
        # The first pass, without gradients outside, differentiates by autograd. torch.func knows neither every
        # autograd.Function nor activation checkpoints. Original views keep in-place writes on a view plain; ONNX has
        # nothing for the strides that PyTorch writes them with otherwise.
        with tracker.tracking(), torch.no_grad(), _force_original_view_tracking(True):
            traced = make_fx(function, decomposition_table=decompositions(), tracing_mode="symbolic")(
                image, *fake_state
            )
    except Exception as error:  # tracing runs the user's network, which may raise anything
        refused = error.operator if isinstance(error, CaptureError) else None
        operator = refused or tracker.operator or operator_in(error)
        at = tracker.innermost
        if at is None and refused is not None:
            # Gradients are taken outside of every layer, so the layer is that of the operator's way there.
            with suppress(Exception):  # running the user's network may raise anything; the present error says more
                at = layer_of_operator(passes.network, refused, _black_images(passes.network, image_size)[:1])
        layer, call = f" at its layer {at}" if at else "", f", calling {operator}" if operator else ""
        raise CaptureError(
            f"the network cannot be captured as one graph{layer}{call}: {_cause_and_cure(operator, error)}", refused
        ) from error
    if fixing:
        raise CaptureError(
            f"layer {fixing[0]} fixes the batch size, as len(x), int(x.shape[0]), a loop over pictures and a constant "
            "in its place do; write x.shape[0], or -1 in view and reshape"
        )
    return _with_weights(traced, passes, names)


_CURES = {
    "__bool__": "it asks a tensor for a yes or no, which a graph has not; choose with torch.where",
    "item": "it takes a number out of a tensor, which a graph has not; keep it a tensor",
    "tolist": "it takes numbers out of a tensor, which a graph has not; keep them a tensor",
    "__int__": "it takes a number out of a tensor, which a graph has not; keep it a tensor",
    "__float__": "it takes a number out of a tensor, which a graph has not; keep it a tensor",
    "numpy": "it leaves PyTorch for NumPy; use torch's function of the same name",
    "nonzero": "the size of its result depends on the picture; use torch.where with three arguments",
    "masked_select": "the size of its result depends on the picture; use torch.where with three arguments",
    "unique": "the size of its result depends on the picture; use torch.topk or torch.sort",
}
"""Cause and cure by the name of the function that cannot be captured."""


def _cause_and_cure(operator: str | None, error: Exception) -> str:
    """Return why a call cannot be captured, and what to do about it."""
    name = (operator or "").split(".")[-1].split("::")[-1]
    return _CURES.get(name) or f"{first_line(error)}; mend that layer, or use one that does without the call"


def example_image(graph: fx.GraphModule) -> Tensor:
    """Return a black image of the captured graph's size, (TRACED_BATCH, C, H, W), for tracing the graph again."""
    (placeholder,) = graph.graph.find_nodes(op="placeholder")
    return torch.zeros(TRACED_BATCH, *placeholder.meta["val"].shape[1:])


def output_names_of(graph: fx.GraphModule) -> tuple[str, ...]:
    """Return the names of the captured graph's outputs, in order."""
    names: tuple[str, ...] = graph.meta[_OUTPUT_NAMES]
    return names


def _black_images(network: SelfGradientNetwork, image_size: tuple[int, int]) -> Tensor:
    """Return (TRACED_BATCH, C, H, W) of zeros, in the network's type."""
    return torch.zeros(TRACED_BATCH, network.mean.shape[1], *image_size, dtype=network.mean.dtype)


def _fake_image(network: SelfGradientNetwork, image_size: tuple[int, int], fake_mode: FakeTensorMode) -> Tensor:
    """Return an image without values whose batch size is a symbol."""
    image = _black_images(network, image_size)
    dynamic = [DimDynamic.DYNAMIC, DimDynamic.STATIC, DimDynamic.STATIC, DimDynamic.STATIC]
    sizes: StatelessSymbolicContext = StatelessSymbolicContext(dynamic_sizes=dynamic)
    return fake_mode.from_tensor(image, static_shapes=False, symbolic_context=sizes)


def _with_weights(traced: fx.GraphModule, passes: Passes, names: Sequence[str]) -> fx.GraphModule:
    """Return the traced function with every weight argument replaced by the weight of that name.

    Weights that the function does not use are left out.
    """
    graph = traced.graph
    image, *weights = graph.find_nodes(op="placeholder")
    traced.add_module("network", passes.network)
    for node, name in zip(weights, names, strict=True):
        with graph.inserting_before(node):
            weight = graph.get_attr(name)
        weight.meta = node.meta
        node.replace_all_uses_with(weight)
        graph.erase_node(node)
    for target in _SAME_TENSOR:
        for node in graph.find_nodes(op="call_function", target=target):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    image.target = image.name = INPUT
    graph.eliminate_dead_code()
    captured = fx.GraphModule(traced, graph, "CapturedPasses")  # keeps of traced's attributes only those in use
    captured.meta[_OUTPUT_NAMES] = passes.output_names
    return captured
