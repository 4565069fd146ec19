"""The kinds of file that a captured graph can be written as, each with how it is written and how it is run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from onnx import ModelProto
from torch import fx

from export.check.verify import Run, onnx_run
from export.formats.aot import annotate_aot, aot_run, require_compiler, require_gpu, save_aot
from export.formats.onnx import annotate_onnx, save_onnx, to_onnx
from export.formats.openvino import openvino_run, require_openvino
from export.formats.torchscript import annotate_torchscript, save_torchscript, torchscript_run
from export.kernels.fuse import add_bodies, onnx_translations
from export.kernels.operators import load
from export.onnx_passes.blocked_layout import keep_masks_in_blocked_layout
from export.onnx_passes.selected_masks import apply_masks_by_selection
from export.onnx_passes.winograd import write_wide_convolutions_by_winograd
from export.rewrite.input_gradients import write_input_gradients_as_convolutions

Save = Callable[[fx.GraphModule, Mapping[str, str], Path], None]
"""Captured graph, metadata and the file to write."""


@dataclass(frozen=True)
class Format:
    """One kind of file.

    name:      as in the option --name
    file_name: what it is called by default, beside the checkpoint
    content:   for messages
    save:      writes a rewritten graph; it may change the graph
    run:       the file in its engine, on the CPU unless it was compiled for a GPU; pictures and outputs on the CPU
    check:     raises where this machine cannot write it, before any work
    reduced:   reduced precisions that it can hold and that its engine runs on the CPU
    annotate:  replaces a written file's metadata
    engine_lowers: whether the engine lowers the precision itself, as the metadata tell it, of a graph in float32
    """

    name: str
    file_name: str
    content: str
    save: Save
    run: Callable[[Path, tuple[str, ...]], Run]
    check: Callable[[], None] = lambda: None
    reduced: tuple[str, ...] = ()
    annotate: Callable[[Path, Mapping[str, str]], None] | None = None
    engine_lowers: bool = False


def _save_onnx(graph: fx.GraphModule, metadata: Mapping[str, str], path: Path) -> None:
    _finish_onnx(to_onnx(graph, metadata), path)


def _save_onnx_to_quantize(graph: fx.GraphModule, metadata: Mapping[str, str], path: Path) -> None:
    model = to_onnx(graph, metadata)
    keep_masks_in_blocked_layout(model)
    save_onnx(model, path)


def _save_openvino(graph: fx.GraphModule, metadata: Mapping[str, str], path: Path) -> None:
    save_onnx(to_openvino(graph, metadata), path)


def to_openvino(graph: fx.GraphModule, metadata: Mapping[str, str]) -> ModelProto:
    """A rewritten graph as an ONNX model in the form that OpenVINO is fastest at.

    Masks select, the image's gradient is an ordinary convolution too, and wide convolutions stay what they are.
    """
    write_input_gradients_as_convolutions(graph, fewest_channels=1)
    model = to_onnx(graph, metadata)
    apply_masks_by_selection(model)
    return model


def _save_fused_onnx(graph: fx.GraphModule, metadata: Mapping[str, str], path: Path) -> None:
    model = to_onnx(graph, metadata, onnx_translations())
    add_bodies(model)
    _finish_onnx(model, path)


def _finish_onnx(model: ModelProto, path: Path) -> None:
    keep_masks_in_blocked_layout(model)
    write_wide_convolutions_by_winograd(model)
    save_onnx(model, path)


ONNX = Format(
    "onnx",
    "model.onnx",
    "an ONNX graph",
    _save_onnx,
    onnx_run,
    reduced=("fp16", "int8-first-pass"),
    annotate=annotate_onnx,
)
ONNX_TO_QUANTIZE = replace(ONNX, save=_save_onnx_to_quantize, reduced=())
"""With every convolution as one, for quantize_first_pass to find."""
OPENVINO = Format(
    "openvino",
    "model.openvino.onnx",
    "an ONNX graph in the form that OpenVINO is fastest at",
    _save_openvino,
    openvino_run,
    require_openvino,
    reduced=("bf16",),
    annotate=annotate_onnx,
    engine_lowers=True,
)
TORCHSCRIPT = Format(
    "torchscript",
    "model.torchscript.pt",
    "a TorchScript module",
    save_torchscript,
    torchscript_run,
    reduced=("fp16", "bf16"),
    annotate=annotate_torchscript,
)
AOT = Format(
    "aot",
    "model.pt2",
    "an AOTInductor package for this machine's processor",
    save_aot,
    aot_run,
    require_compiler,
    reduced=("bf16",),
    annotate=annotate_aot,
)
AOT_FOR_GPU = replace(
    AOT,
    file_name="model.cuda.pt2",
    content="an AOTInductor package for this machine's GPU",
    save=partial(save_aot, device=torch.device("cuda")),
    check=require_gpu,
)
FORMATS = (ONNX, OPENVINO, TORCHSCRIPT, AOT)
FUSED = {
    ONNX.name: replace(ONNX, save=_save_fused_onnx, reduced=()),
    TORCHSCRIPT.name: replace(TORCHSCRIPT, check=load, reduced=()),
}
"""By name, the formats with the block as one node (export.kernels); the graph must have been through fuse_block.

An ONNX node holds a body of standard operators; TorchScript's operator runs only where the kernels are built."""
