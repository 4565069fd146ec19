"""The kinds of file that a captured graph can be written as: how each is written, run and annotated."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from onnx import ModelProto
from torch import fx

from export import options
from export.check.extreme_gradients import SecondPassRunner
from export.check.verify import GraphRunner
from export.formats.aot import annotate_aot, aot_runner, require_compiler, require_gpu, save_aot
from export.formats.onnx import annotate_onnx, onnx_runner, onnx_second_pass, save_onnx, to_onnx
from export.formats.openvino import openvino_runner, openvino_second_pass, require_openvino
from export.formats.torchscript import (
    annotate_torchscript,
    save_torchscript,
    torchscript_runner,
    torchscript_second_pass,
)
from export.kernels.fuse import add_bodies, onnx_translations
from export.kernels.operators import load
from export.onnx_passes.blocked_layout import keep_masks_in_blocked_layout
from export.onnx_passes.selected_masks import apply_masks_by_selection
from export.onnx_passes.tiny_convolutions import write_tiny_convolutions_as_products
from export.onnx_passes.winograd import write_wide_convolutions_by_winograd
from export.rewrite.input_gradients import write_input_gradients_as_convolutions
from export.rewrite.masks import scale_masks_by_convolutions
from sgn_serve.common.graph_format import BF16, PRECISION_KEY
from sgn_serve.common.openvino_runtime import written_for_openvino

Save = Callable[[fx.GraphModule, Mapping[str, str], Path], None]
"""Function that writes a graph: takes the rewritten graph, the metadata and the file to write."""


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        kind: Its names.
        save: Writes a rewritten graph; it may change the graph.
        runner: Loads the file into its engine, on the CPU unless it was compiled for a GPU. Takes the file and its
            outputs' names; pictures and outputs are on the CPU.
        check: Raises an ExportError where this machine cannot write the file, before any work.
        reduced: Reduced precisions that the file can hold and that its engine runs on the CPU.
        annotate: Replaces the metadata of a written file.
        second_pass: Loads the second pass alone of a file with two passes, for pictures and self-gradients on the CPU.
            None where a file cannot be cut, as one that is compiled as a whole.
        engine_lowers: Whether the engine itself lowers the precision of a float32 graph, as the metadata tell it.
        metadata: Entries for the metadata of the file, beside those that describe the network.
    """

    kind: options.FileKind
    save: Save
    runner: Callable[[Path, tuple[str, ...]], GraphRunner]
    check: Callable[[], None] = lambda: None
    reduced: tuple[str, ...] = ()
    annotate: Callable[[Path, Mapping[str, str]], None] | None = None
    second_pass: Callable[[Path], SecondPassRunner] | None = None
    engine_lowers: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the option, without its dashes."""
        return self.kind.name

    @property
    def file_name(self) -> str:
        """The file's default name, beside the checkpoint."""
        return self.kind.file_name

    @property
    def content(self) -> str:
        """The kind of file in words, for messages."""
        return self.kind.content


def _save_onnx(graph: fx.GraphModule, metadata: Mapping[str, str], path: Path) -> None:
    scale_masks_by_convolutions(graph)
    _finish_onnx(to_onnx(graph, metadata), path)


def _save_openvino(graph: fx.GraphModule, metadata: Mapping[str, str], path: Path) -> None:
    save_onnx(to_openvino(graph, metadata), path)


def to_openvino(graph: fx.GraphModule, metadata: Mapping[str, str]) -> ModelProto:
    """Translate a rewritten graph into an ONNX model in the form that OpenVINO runs fastest.

    Masks select instead of multiplying, and the image's gradient is an ordinary convolution too. Wide convolutions are
    not replaced. The service writes any graph so when it loads it; see sgn_serve.common.openvino_runtime.
    """
    write_input_gradients_as_convolutions(graph, fewest_channels=1)
    model = to_onnx(graph, metadata)
    apply_masks_by_selection(model)
    return written_for_openvino(model, metadata.get(PRECISION_KEY) == BF16)


def _save_fused_onnx(graph: fx.GraphModule, metadata: Mapping[str, str], path: Path) -> None:
    scale_masks_by_convolutions(graph)
    model = to_onnx(graph, metadata, onnx_translations())
    add_bodies(model)
    _finish_onnx(model, path)


def _finish_onnx(model: ModelProto, path: Path) -> None:
    keep_masks_in_blocked_layout(model)
    write_tiny_convolutions_as_products(model)
    write_wide_convolutions_by_winograd(model)
    save_onnx(model, path)


ONNX = Format(
    options.ONNX,
    _save_onnx,
    onnx_runner,
    reduced=("fp16",),
    annotate=annotate_onnx,
    second_pass=onnx_second_pass,
)
OPENVINO = Format(
    options.OPENVINO,
    _save_openvino,
    openvino_runner,
    require_openvino,
    reduced=("bf16",),
    annotate=annotate_onnx,
    second_pass=openvino_second_pass,
    engine_lowers=True,
)
TORCHSCRIPT = Format(
    options.TORCHSCRIPT,
    save_torchscript,
    torchscript_runner,
    reduced=("fp16", "bf16"),
    annotate=annotate_torchscript,
    second_pass=torchscript_second_pass,
)
AOT = Format(
    options.AOT,
    save_aot,
    aot_runner,
    require_compiler,
    reduced=("bf16",),
    annotate=annotate_aot,
)
AOT_FOR_GPU = replace(
    AOT,
    kind=options.AOT_FOR_GPU,
    save=partial(save_aot, device=torch.device("cuda")),
    check=require_gpu,
)
FORMATS = (ONNX, OPENVINO, TORCHSCRIPT, AOT)


def format_of(kind: options.FileKind) -> Format:
    """Return how a kind of file is written."""
    return next(item for item in (*FORMATS, AOT_FOR_GPU) if item.kind == kind)


FUSED = {
    ONNX.name: replace(ONNX, save=_save_fused_onnx, reduced=()),
    TORCHSCRIPT.name: replace(TORCHSCRIPT, check=load, reduced=()),
}
"""Formats with the block as one node (export.kernels), by name, for graphs that fuse_block has changed.

An ONNX node has a body of standard operators. TorchScript's operator runs only where the kernels are built.
"""
