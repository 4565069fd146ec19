"""A captured graph as TorchScript, for torch.jit.load in Python and libtorch in C++."""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, fx

from export.capture.graph import CaptureError, example_image, output_names_of
from export.check.verify import GraphError, Run
from export.errors import operator_in
from export.rewrite import store_weights
from export.rewrite.sizes import ask_sizes_as_methods
from training.common.errors import first_line

OUTPUT_NAMES_KEY = "output_names"
"""Extra file of the archive with the outputs' names, in order, separated by commas; beside it lie the metadata's."""


def save_torchscript(graph: fx.GraphModule, metadata: Mapping[str, str], path: Path) -> None:
    """Writes the captured graph as TorchScript: image (N, C, H, W) to a tuple of the outputs, in order.

    metadata: becomes extra files of the archive; torch.jit.load(path, _extra_files={key: ""}) reads them
    raises CaptureError for a graph that TorchScript cannot hold; OSError where path cannot be written

    Frozen, but not optimised: what torch.jit.optimize_for_inference makes cannot be loaded again.
    """
    store_weights(graph)
    ask_sizes_as_methods(graph)
    try:
        # Tracing warns of itself being superseded, and of sizes that become constants: verification finds these out.
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            module = torch.jit.freeze(torch.jit.trace(graph.eval(), example_image(graph), check_trace=False))
            extra = {**metadata, OUTPUT_NAMES_KEY: ",".join(output_names_of(graph))}
            content = _archive(module, {key: value.encode() for key, value in extra.items()})
    except Exception as error:  # tracing raises what the operators raise
        reason = f"the network cannot be written as TorchScript: {first_line(error)}; export it with --onnx"
        raise CaptureError(reason, operator_in(error)) from error
    path.write_bytes(content)


def annotate_torchscript(path: Path, metadata: Mapping[str, str]) -> None:
    """Replaces the extra files of a written module, but for the outputs' names."""
    names = {OUTPUT_NAMES_KEY: ""}
    with warnings.catch_warnings(action="ignore"):
        module = torch.jit.load(str(path), map_location="cpu", _extra_files=names)
        extra = {key: value.encode() for key, value in metadata.items()}
        content = _archive(module, {**extra, **names})
    path.write_bytes(content)


def _archive(module: torch.jit.ScriptModule, extra: Mapping[str, str | bytes]) -> bytes:
    """The file's content: where the disk is full, PyTorch's own writing to a path ends the process."""
    buffer = io.BytesIO()
    torch.jit.save(module, buffer, _extra_files=dict(extra))
    return buffer.getvalue()


def torchscript_run(path: Path, output_names: tuple[str, ...]) -> Run:
    """A TorchScript file in PyTorch on the CPU.

    raises GraphError where it cannot be loaded or was written for other outputs
    """
    extra: dict[str, str | bytes] = {OUTPUT_NAMES_KEY: ""}
    try:
        with warnings.catch_warnings(action="ignore"):  # of TorchScript being superseded
            module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
    except Exception as error:
        raise GraphError(f"PyTorch cannot load the graph: {first_line(error)}") from error
    found = extra[OUTPUT_NAMES_KEY]
    found = found.decode() if isinstance(found, bytes) else found
    if found != ",".join(output_names):
        raise GraphError(f"the graph's outputs are {found}, expected {', '.join(output_names)}")

    def run(images: Tensor) -> dict[str, Tensor]:
        try:
            with torch.no_grad():
                return dict(zip(output_names, module(images), strict=True))
        except Exception as error:
            hint = "; one of the network's layers fixes the batch size in TorchScript: export it with --onnx"
            raise GraphError(f"PyTorch cannot run the graph at batch {len(images)}{hint}") from error

    return run
