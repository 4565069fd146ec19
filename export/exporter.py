"""Export a checkpoint file as a checked graph file."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import fx, nn

from export.capture.graph import capture, example_image
from export.capture.layers import layer_of_operator
from export.check.extreme_gradients import verify_extreme_gradients
from export.check.pictures import pictures_in, structured_pictures
from export.check.suitability import SUITABILITY_PICTURES, require_suitable
from export.check.verify import TOLERANCES, GraphRunner, Verification, VerificationError, verify
from export.errors import CaptureError
from export.formats.onnx import onnx_runner
from export.formats.table import FUSED, ONNX, Format
from export.kernels.fuse import fuse_block
from export.kernels.onnx_functions import library_path
from export.network_passes import passes_of
from export.options import PICTURES
from export.output import OutputError, replacing, writing
from export.rewrite import rewrite
from export.stages import begin
from sgn_serve.common.graph_format import LOGITS, METADATA_KEY, SELF_GRADIENT, SHA256_KEY, file_sha256
from training.foreign.loading import Source, load_network
from training.networks.self_gradient import SelfGradientNetwork


def export_onnx(
    checkpoint: Path | Source,
    target: Path,
    pictures_folder: Path | None = None,
    backbone: nn.Module | None = None,
    fused: bool = False,
) -> Verification:
    """Export to an ONNX file; see `export_graph`."""
    return export_graph(ONNX, checkpoint, target, pictures_folder, backbone, fused)


def export_graph(
    file_format: Format,
    checkpoint: Path | Source,
    target: Path,
    pictures_folder: Path | None = None,
    backbone: nn.Module | None = None,
    fused: bool = False,
) -> Verification:
    """Write a checkpoint's network as one file, once that file has been checked against PyTorch.

    Args:
        file_format: The kind of file.
        checkpoint: A model.safetensors, or weights of another program; see training.foreign.loading.
        target: The file to write. A good file replaces it in one step; after a failure it is as it was.
        pictures_folder: Folder of real pictures to check on; None for generated ones.
        backbone: A module of your own whose weights the checkpoint holds; see load_network.
        fused: Whether to write the block as one node. In ONNX it is ai.sgn.SelfGradientBlock; the graph is checked
            without the kernels' library for ONNX Runtime and, where that is built, with it. In TorchScript it is
            sgn::self_gradient_block, for which PyTorch's library must be built.

    Returns:
        The checks, all passed.

    Raises:
        CheckpointError, WeightsError: The checkpoint cannot be read.
        PicturesError: The pictures cannot be read.
        OutputError: The target cannot be written.
        CaptureError: The network cannot be written as one graph.
        CompilerError: There is no compiler or GPU for an AOTInductor package.
        KernelsError: The fused kernels cannot be loaded.
        OpenVinoError: OpenVINO is missing.
        VerificationError: The graph is wrong.
    """
    if fused:
        if file_format.name not in FUSED:
            raise OutputError(f"--fused is for --onnx and --torchscript, not --{file_format.name}; leave it out")
        file_format = replace(FUSED[file_format.name], metadata=file_format.metadata)
    file_format.check()
    source = checkpoint if isinstance(checkpoint, Source) else Source(checkpoint)
    network, info = load_network(source, backbone)
    channels = len(info.mean)
    if pictures_folder is None:
        pictures = structured_pictures(PICTURES, channels, info.image_size)
    else:
        pictures = pictures_in(pictures_folder, PICTURES, info.image_size, info.resize)
    metadata = {METADATA_KEY: info.to_json(), SHA256_KEY: file_sha256(source.path), **file_format.metadata}
    passes = passes_of(network)
    with replacing(target, source.path) as partial:
        begin("try the network in PyTorch")
        require_suitable(network, pictures[:SUITABILITY_PICTURES], len(info.class_names))
        begin("capture the passes")
        graph = capture(passes, info.image_size)
        begin("rewrite the graph")
        if fused:
            fuse_block(graph, network.block)
        rewrite(graph)
        begin(f"write {file_format.content}")
        with naming_layers(network, graph), writing(target):
            file_format.save(graph, metadata, partial)
        begin("compare it with PyTorch")
        for runner in _runners(file_format, partial, passes.output_names):
            verification = verify(runner, passes, pictures)
            if not verification.passed:
                wrong = {check.output for check in verification.checks if not check.passed}
                cause = _cause_of_difference(network, graph) if wrong == {SELF_GRADIENT} else ""
                raise VerificationError(f"the graph's outputs differ from PyTorch's{cause}", verification)
        if SELF_GRADIENT in passes.output_names and file_format.second_pass is not None:
            begin("check the second pass on extreme self-gradients")
            verify_extreme_gradients(file_format.second_pass(partial), network, pictures[:1], TOLERANCES[LOGITS])
    return verification


_IN_ANY_ORDER = {
    torch.ops.aten.sort.default: "pass stable=True to it",
    torch.ops.aten.topk.default: "take the first of x.sort(dim, descending=True, stable=True) instead",
}
"""Operators that may put equal values in any order, and what to do about it."""


def _cause_of_difference(network: SelfGradientNetwork, graph: fx.GraphModule) -> str:
    """Return why a graph's outputs may differ from PyTorch's, with the cure; "" where nothing in it tells."""
    for operator, cure in _IN_ANY_ORDER.items():
        if graph.graph.find_nodes(op="call_function", target=operator):
            name = operator._schema.name
            layer = None
            with suppress(Exception):  # running the user's network may raise anything; the present error says more
                layer = layer_of_operator(network, name, example_image(graph)[:1])
            return (
                f": {name.removeprefix('aten::')}{f' at its layer {layer}' if layer else ''} may put equal values in "
                f"another order there, which moves their gradients; {cure}"
            )
    return ""


def _runners(file_format: Format, path: Path, output_names: tuple[str, ...]) -> Iterator[GraphRunner]:
    """Load the written file; load a fused ONNX file without the kernels' library and, where it is built, with it."""
    yield file_format.runner(path, output_names)
    if file_format.save is FUSED[ONNX.name].save and library_path().is_file():
        yield onnx_runner(path, output_names, library_path())


@contextmanager
def naming_layers(network: SelfGradientNetwork, graph: fx.GraphModule) -> Iterator[None]:
    """Add the layer that calls an operator to a CaptureError about that operator."""
    try:
        yield
    except CaptureError as error:
        layer = None
        if error.operator is not None:
            with suppress(Exception):  # running the user's network may raise anything; the present error says more
                layer = layer_of_operator(network, error.operator, example_image(graph)[:1])
        if layer is None:
            raise
        raise CaptureError(f"layer {layer}: {error}", error.operator) from error
