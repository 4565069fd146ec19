"""Build the contenders of benchmarks.gpu: a self-gradient network's two passes, run on a GPU in every known way."""

import copy
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
import onnxruntime
import torch
from torch import Tensor, fx

from benchmarks.errors import BenchmarkError
from benchmarks.untrained import untrained_network
from export.capture.graph import capture, output_names_of
from export.formats.aot import save_aot
from export.formats.placement import move_graph
from export.formats.table import ONNX
from export.kernels.fuse import fuse_block
from export.passes import passes_of
from export.rewrite import rewrite, store_weights
from export.rewrite.precision import lower_precision
from training.networks.self_gradient import SelfGradientNetwork

REFERENCE = "eager, one pass"
CONTENDERS = (
    REFERENCE,
    "eager, both passes",
    "compiled (max-autotune), the network itself",
    "compiled (max-autotune), both passes",
    "compiled (max-autotune), fused block",
    "graph, CUDA graph",
    "graph, fused block, CUDA graph",
    "graph, AOTInductor",
)
WARM_UP_CALLS = 3

Function = Callable[[Tensor], Any]
Build = Callable[[], Function]


def network_of(architecture: str, image_size: int) -> SelfGradientNetwork:
    """Return an untrained self-gradient network, in eval mode on the CPU."""
    return untrained_network(architecture, image_size)[0].eval().requires_grad_(False)


def rewritten_graph(
    network: SelfGradientNetwork, image_size: int, dtype: torch.dtype, fused: bool = False
) -> fx.GraphModule:
    """Return both passes as the one graph that is exported, float32 in and out, on the CPU.

    Args:
        network: The network, in float32. It is not changed.
        image_size: Height and width in pixels.
        dtype: The dtype of the convolutions.
        fused: Whether the block is its fused kernel.
    """
    network = copy.deepcopy(network)  # a graph shares the network's weights, which are about to be moved
    graph = capture(passes_of(network), (image_size, image_size))
    if fused:
        fuse_block(graph, network.block)
    rewrite(graph)
    if dtype != torch.float32:
        lower_precision(graph, dtype)
    return graph


def on_device(graph: fx.GraphModule, device: torch.device) -> fx.GraphModule:
    """Move a graph to the device, and return it. Weights are computed once and stored.

    Otherwise the flipped and scaled ones would be computed at every call.
    """
    store_weights(graph)
    move_graph(graph, device)
    return graph


def contenders(
    network: SelfGradientNetwork, image_size: int, device: torch.device, dtype: torch.dtype, images: Tensor
) -> dict[str, Build]:
    """Return, for each contender but ONNX Runtime, a function that makes it, compiled and captured for these images.

    Args:
        network: The network, in float32. It is moved to the device.
        image_size: Height and width in pixels.
        device: The GPU.
        dtype: The dtype of the convolutions.
        images: (N, 3, image_size, image_size) float32.
    """
    plain = on_device(rewritten_graph(network, image_size, dtype), device)
    fused = on_device(rewritten_graph(network, image_size, dtype, fused=True), device)
    packaged = rewritten_graph(network, image_size, dtype)
    network = network.to(device, dtype).to(memory_format=torch.channels_last)

    def one_pass(images: Tensor) -> Tensor:
        return network.plain_logits(images.to(dtype))

    def both_passes(images: Tensor) -> Tensor:
        logits: Tensor = network(images.to(dtype))
        return logits

    builds: tuple[Build, ...] = (
        lambda: one_pass,
        lambda: both_passes,
        lambda: compiled(both_passes),
        lambda: compiled(plain),
        lambda: compiled(fused),
        lambda: in_cuda_graph(plain, images),
        lambda: in_cuda_graph(fused, images),
        lambda: in_aot_package(packaged, device),
    )
    return dict(zip(CONTENDERS, builds, strict=True))


def compiled(function: Function) -> Function:
    """Return the function compiled by torch.compile with max-autotune, for images of one shape."""
    result: Function = torch.compile(function, mode="max-autotune", dynamic=False)
    return result


def in_cuda_graph(function: Function, images: Tensor) -> Function:
    """Return the function's kernels as one CUDA graph for images of this shape, which needs one launch for all."""
    given = images.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_CALLS):
            function(given)
    torch.cuda.current_stream().wait_stream(stream)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        outputs = function(given)

    def replay(images: Tensor) -> Any:
        given.copy_(images)
        recorded.replay()
        return outputs

    return replay


def in_aot_package(graph: fx.GraphModule, device: torch.device) -> Function:
    """Return the graph as the export packages it with AOTInductor. The graph is changed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt2"
        save_aot(graph, {}, path, device)
        package: Function = torch._inductor.aoti_load_package(str(path))
    return package


def in_onnx_runtime(graph: fx.GraphModule, images: Tensor, provider: str, settings: Mapping[str, str]) -> Function:
    """Return the graph as the export writes it for ONNX Runtime. The graph is changed.

    Args:
        graph: Both passes.
        images: Images of the shape and on the device that it will be called with.
        provider: The execution provider.
        settings: The provider's options.

    Returns:
        A function that returns logits, plain logits and self-gradient on the device, and overwrites them at every call.

    Raises:
        BenchmarkError: The provider is not active.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        names = output_names_of(graph)
        classes = graph.graph.output_node().args[0][0].meta["val"].shape[1]  # type: ignore[index, union-attr]
        ONNX.save(graph, {}, path)
        session = onnxruntime.InferenceSession(str(path), providers=[(provider, dict(settings))])
    if session.get_providers()[0] != provider:
        raise BenchmarkError(f"ONNX Runtime did not start its {provider}: see the lines above, or uninstall it")
    shapes = {"logits": (len(images), classes), "plain_logits": (len(images), classes), "self_gradient": images.shape}
    outputs = [torch.empty(shapes[name], device=images.device) for name in names]
    given = images.clone()
    binding = session.io_binding()
    kind, number = images.device.type, images.device.index or 0
    binding.bind_input("image", kind, number, numpy.float32, tuple(given.shape), given.data_ptr())
    for name, output in zip(names, outputs, strict=True):
        binding.bind_output(name, kind, number, numpy.float32, tuple(output.shape), output.data_ptr())

    def run(images: Tensor) -> list[Tensor]:
        given.copy_(images)
        if kind == "cuda":
            torch.cuda.current_stream().synchronize()  # ONNX Runtime computes on a stream of its own
        session.run_with_iobinding(binding)
        return outputs

    return run
