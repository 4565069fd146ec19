"""Write the files that the engines of benchmarks.engines run: one untrained network in every form."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import onnx
import torch
from torch import fx

from benchmarks.errors import BenchmarkError
from benchmarks.untrained import untrained_network
from export.capture.graph import capture
from export.formats.aot import save_aot
from export.formats.onnx import save_onnx, to_onnx
from export.formats.table import FUSED, ONNX, to_openvino
from export.formats.torchscript import save_torchscript
from export.kernels.fuse import fuse_block
from export.kernels.onnx_functions import library_path
from export.network_passes import passes_of
from export.onnx_passes.blocked_layout import keep_masks_in_blocked_layout
from export.onnx_passes.winograd import write_wide_convolutions_by_winograd
from export.rewrite import rewrite
from export.rewrite.linear_layers import keep_linear_layers
from export.rewrite.precision import lower_precision
from sgn_serve.common.graph_format import INPUT, PLAIN_LOGITS
from training.checkpoint import load_checkpoint, save_checkpoint

IMAGE_SIZE = (32, 32)
SHAPE = (3, *IMAGE_SIZE)


def write_checkpoint(architecture: str, path: Path) -> None:
    """Write the checkpoint of an untrained network."""
    network, info = untrained_network(architecture, IMAGE_SIZE[0])
    save_checkpoint(path, network.state_dict(), info)


def _captured(checkpoint: Path) -> fx.GraphModule:
    return capture(passes_of(load_checkpoint(checkpoint)[0]), IMAGE_SIZE)


@lru_cache(maxsize=2)
def _onnx(checkpoint: Path, rewriting: Callable[[fx.GraphModule], None]) -> bytes:
    graph = _captured(checkpoint)
    rewriting(graph)
    return to_onnx(graph, {}).SerializeToString()


def write_plain(checkpoint: Path, path: Path) -> None:
    """Write the captured graph without any rewrite but that of linear layers."""
    path.write_bytes(_onnx(checkpoint, keep_linear_layers))


def write_ours(checkpoint: Path, path: Path) -> None:
    """Write the graph as the export does."""
    write_ours_direct(checkpoint, path)
    model = onnx.load(path)
    write_wide_convolutions_by_winograd(model)
    save_onnx(model, path)


def write_ours_direct(checkpoint: Path, path: Path) -> None:
    """Write the graph as the export does, but without Winograd's filtering, to show what that is worth."""
    model = onnx.ModelProto.FromString(_onnx(checkpoint, rewrite))
    keep_masks_in_blocked_layout(model)
    save_onnx(model, path)


def write_fused(checkpoint: Path, path: Path) -> None:
    """Write the graph as the export does, with the block as one node.

    Raises:
        BenchmarkError: The library with the node's kernel is not built.
    """
    if not library_path().is_file():
        raise BenchmarkError(f"{library_path().name} is not built: make kernels ORT_INCLUDE_DIR=...")
    network, _ = load_checkpoint(checkpoint)
    graph = capture(passes_of(network), IMAGE_SIZE)
    fuse_block(graph, network.block)
    rewrite(graph)
    FUSED[ONNX.name].save(graph, {}, path)


def write_ours_for_openvino(checkpoint: Path, path: Path) -> None:
    """Write the graph as the export does for OpenVINO."""
    save_onnx(to_openvino(_ours(checkpoint, torch.float32), {}), path)


def write_block_off(write_both: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
    """Return a function that writes only the part of a two-pass graph that leads to the plain logits.

    Args:
        write_both: Writes the two-pass graph.
    """

    def write(checkpoint: Path, path: Path) -> None:
        write_both(checkpoint, path)
        part = onnx.utils.Extractor(onnx.load(path)).extract_model([INPUT], [PLAIN_LOGITS])
        save_onnx(part, path)

    return write


def _ours(checkpoint: Path, dtype: torch.dtype) -> fx.GraphModule:
    graph = _captured(checkpoint)
    rewrite(graph)
    if dtype != torch.float32:
        lower_precision(graph, dtype)
    return graph


def write_torchscript(dtype: torch.dtype) -> Callable[[Path, Path], None]:
    """Return a function that writes TorchScript whose convolutions are in this dtype."""

    def write(checkpoint: Path, path: Path) -> None:
        save_torchscript(_ours(checkpoint, dtype), {}, path)

    return write


def write_aot(dtype: torch.dtype) -> Callable[[Path, Path], None]:
    """Return a function that writes an AOTInductor package whose convolutions are in this dtype."""

    def write(checkpoint: Path, path: Path) -> None:
        save_aot(_ours(checkpoint, dtype), {}, path)

    return write


def write_nothing(checkpoint: Path, path: Path) -> None:
    """Link to the checkpoint, for engines that read it themselves."""
    path.symlink_to(checkpoint)
