"""Build both passes for a GPU: eager, compiled, as a CUDA graph, as an AOTInductor package, in ONNX Runtime."""

import copy
import tempfile
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, fx

from benchmarks.errors import BenchmarkError
from benchmarks.untrained import untrained_network
from export.capture.graph import capture, output_names_of
from export.formats.placement import move_graph
from export.kernels import operators
from export.network_passes import passes_of
from export.rewrite import rewrite, store_weights
from export.rewrite.precision import lower_precision
from sgn_serve.common.graph_format import INPUT, LOGITS, PLAIN_LOGITS, SELF_GRADIENT
from sgn_serve.common.onnx_runtime import start_session
from training.networks.self_gradient import SelfGradientNetwork

REFERENCE = "eager, one pass"
ONNX_RUNTIME = "graph, ONNX Runtime"
"""The contender that needs ONNX Runtime's build for GPUs. It has no bf16, because the ONNX export has none."""
TIERS = (
    (REFERENCE, "eager, both passes", "graph, CUDA graph"),
    ("graph, fused block, CUDA graph",),
    ("compiled, the network itself", "compiled, both passes", "compiled, both passes, CUDA graph"),
    (ONNX_RUNTIME,),
    (
        "compiled (max-autotune), the network itself",
        "compiled (max-autotune), both passes",
        "compiled (max-autotune), fused block",
    ),
    ("graph, AOTInductor",),
)
"""Contenders by the cost of building them. The cheap and important tiers are measured first, in all settings."""
CONTENDERS = tuple(name for tier in TIERS for name in tier if name != ONNX_RUNTIME)
MAX_AUTOTUNE = "max-autotune"
WARM_UP_CALLS = 3

Function = Callable[[Tensor], Any]
Build = Callable[[], Function]


@cache
def network_of(architecture: str, image_size: int) -> SelfGradientNetwork:
    """Return an untrained self-gradient network, in eval mode on the CPU.

    Calls with equal arguments return the same object, so callers must not change it.

    Args:
        architecture: The backbone's name.
        image_size: Height and width in pixels.
    """
    return untrained_network(architecture, image_size)[0].eval().requires_grad_(False)


def rewritten_graph(
    network: SelfGradientNetwork, image_size: int, dtype: torch.dtype, fused: bool = False
) -> fx.GraphModule:
    """Return both passes as the graph that the export writes, float32 in and out, on the CPU.

    Args:
        network: The network, in float32. It is not changed.
        image_size: Height and width in pixels.
        dtype: Type that the convolutions compute in.
        fused: Whether the block is one fused kernel.
    """
    network = copy.deepcopy(network)  # the graph shares its network's weights, and callers move the graph
    graph = capture(passes_of(network), (image_size, image_size))
    if fused:
        from export.kernels.fuse import fuse_block  # needs the ONNX packages, which some machines with a GPU lack

        fuse_block(graph, network.block)
    rewrite(graph)
    if dtype != torch.float32:
        lower_precision(graph, dtype)
    return graph


@cache
def _written(network: SelfGradientNetwork, image_size: int, dtype: torch.dtype, fused: bool) -> fx.GraphModule:
    return rewritten_graph(network, image_size, dtype, fused)


def graph_of(network: SelfGradientNetwork, image_size: int, dtype: torch.dtype, fused: bool = False) -> fx.GraphModule:
    """Return a copy of what rewritten_graph returns, which takes seconds to build and fits every batch size."""
    return copy.deepcopy(_written(network, image_size, dtype, fused))


def on_device(graph: fx.GraphModule, device: torch.device) -> fx.GraphModule:
    """Compute the graph's weights in advance, move the graph to the device, and return it."""
    store_weights(graph)  # flipped and scaled weights would be computed again at every call
    move_graph(graph, device)
    return graph


def contenders(
    network: SelfGradientNetwork, image_size: int, device: torch.device, dtype: torch.dtype, images: Tensor
) -> dict[str, Build]:
    """Return the builders of all contenders but ONNX Runtime, by name.

    Graphs are captured and networks moved when the first contender that needs them is built.

    Args:
        network: The network, in float32, on the CPU. It is not changed.
        image_size: Height and width in pixels.
        device: Where the contenders run.
        dtype: Type that the convolutions compute in.
        images: (N, 3, image_size, image_size) float32 on the device. Contenders are built for this shape.
    """

    @cache
    def moved() -> SelfGradientNetwork:
        return copy.deepcopy(network).to(device, dtype).to(memory_format=torch.channels_last)

    @cache
    def plain() -> fx.GraphModule:
        return on_device(graph_of(network, image_size, dtype), device)

    @cache
    def fused() -> fx.GraphModule:
        require_kernels(device)
        return on_device(graph_of(network, image_size, dtype, fused=True), device)

    @cache
    def compiled_plain() -> Function:
        return compiled(plain())

    def one_pass(model: SelfGradientNetwork, images: Tensor) -> Tensor:
        return model.plain_logits(images.to(dtype))

    def both_passes(model: SelfGradientNetwork, images: Tensor) -> Tensor:
        logits: Tensor = model(images.to(dtype))
        return logits

    builds: dict[str, Build] = {
        REFERENCE: lambda: partial(one_pass, moved()),
        "eager, both passes": lambda: partial(both_passes, moved()),
        "graph, CUDA graph": lambda: in_cuda_graph(plain(), images),
        "graph, fused block, CUDA graph": lambda: in_cuda_graph(fused(), images),
        "compiled, the network itself": lambda: compiled(partial(both_passes, moved())),
        "compiled, both passes": compiled_plain,
        "compiled, both passes, CUDA graph": lambda: in_cuda_graph(compiled_plain(), images),
        "compiled (max-autotune), the network itself": lambda: compiled(partial(both_passes, moved()), MAX_AUTOTUNE),
        "compiled (max-autotune), both passes": lambda: compiled(plain(), MAX_AUTOTUNE),
        "compiled (max-autotune), fused block": lambda: compiled(fused(), MAX_AUTOTUNE),
        "graph, AOTInductor": lambda: in_aot_package(graph_of(network, image_size, dtype), device),
    }
    return {name: builds[name] for name in CONTENDERS}


def require_kernels(device: torch.device) -> None:
    """Load the fused kernels, and check that they can run on the device.

    Raises:
        KernelsError: They are not built.
        BenchmarkError: They are built without CUDA and the device is a GPU.
    """
    operators.load()
    with_cuda = torch._C._dispatch_has_kernel_for_dispatch_key("sgn::self_gradient_block", "CUDA")
    if device.type == "cuda" and not with_cuda:
        raise BenchmarkError("the fused kernels are built without CUDA: install nvcc and run `make kernels CUDA=1`")


def compiled(function: Function, mode: str = "default") -> Function:
    """Return the function compiled by torch.compile for fixed shapes.

    Args:
        function: The function.
        mode: torch.compile's mode. MAX_AUTOTUNE tries kernels out and uses CUDA graphs, but takes minutes.
    """
    result: Function = torch.compile(function, mode=mode, dynamic=False)
    return result


def in_cuda_graph(function: Function, images: Tensor) -> Function:
    """Return a replay of the function's kernels as one CUDA graph, which costs one launch instead of many.

    Args:
        function: The function.
        images: Images of the one shape that the replay takes.
    """
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
    """Return the AOTInductor package that the export writes of a graph. The graph cannot be used afterwards."""
    from export.formats.aot import save_aot  # its checks need ONNX Runtime, which some machines with a GPU lack

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt2"
        save_aot(graph, {}, path, device)
        package: Function = torch._inductor.aoti_load_package(str(path))
    return package


def in_onnx_runtime(graph: fx.GraphModule, images: Tensor, provider: str, settings: Mapping[str, str]) -> Function:
    """Return the ONNX Runtime session of a graph that the export writes. The graph cannot be used afterwards.

    Args:
        graph: The graph.
        images: Images of the one shape, and on the device, that the function takes.
        provider: Name of the execution provider.
        settings: The provider's options.

    Returns:
        A function that returns logits, plain logits and self-gradient on the device. Each call overwrites them.

    Raises:
        BenchmarkError: The provider is not active.
    """
    from export.formats.table import ONNX

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        names = output_names_of(graph)
        classes = graph.graph.output_node().args[0][0].meta["val"].shape[1]  # type: ignore[index, union-attr]
        ONNX.save(graph, {}, path)
        session = start_session(path, providers=[(provider, dict(settings))])
    if session.get_providers()[0] != provider:
        raise BenchmarkError(f"ONNX Runtime did not start its {provider}: see the lines above, or uninstall it")
    shapes = {LOGITS: (len(images), classes), PLAIN_LOGITS: (len(images), classes), SELF_GRADIENT: images.shape}
    outputs = [torch.empty(shapes[name], device=images.device) for name in names]
    given = images.clone()
    binding = session.io_binding()
    kind, number = images.device.type, images.device.index or 0
    binding.bind_input(INPUT, kind, number, numpy.float32, tuple(given.shape), given.data_ptr())
    for name, output in zip(names, outputs, strict=True):
        binding.bind_output(name, kind, number, numpy.float32, tuple(output.shape), output.data_ptr())

    def run(images: Tensor) -> list[Tensor]:
        given.copy_(images)
        if kind == "cuda":
            torch.cuda.current_stream().synchronize()  # ONNX Runtime computes on a stream of its own
        session.run_with_iobinding(binding)
        return outputs

    return run
