"""Write a captured graph as TorchScript, for torch.jit.load in Python and libtorch in C++, and run such a file."""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, fx

from export.capture.graph import example_image, output_names_of
from export.check.extreme_gradients import SecondPassRunner
from export.check.verify import GraphRunner, UnusableGraphError
from export.errors import CaptureError, operator_in
from export.formats.output_names import OUTPUT_NAMES_KEY, joined, require_outputs
from export.rewrite import store_weights
from export.rewrite.sizes import ask_sizes_as_methods
from sgn_serve.common.error_text import first_line
from sgn_serve.common.graph_format import LOGITS, SELF_GRADIENT


def save_torchscript(graph: fx.GraphModule, metadata: Mapping[str, str], path: Path) -> None:
    """Write the captured graph as TorchScript: image (N, C, H, W) to a tuple of the outputs, in order.

    The module is frozen, but not optimised: what torch.jit.optimize_for_inference makes cannot be loaded again.

    Args:
        graph: A rewritten graph; it is changed.
        metadata: Becomes extra files of the archive, which torch.jit.load(path, _extra_files={key: ""}) reads. Another
            one, OUTPUT_NAMES_KEY, holds the outputs' names.
        path: The file to write.

    Raises:
        CaptureError: TorchScript cannot hold the graph.
        OSError: The path cannot be written.
    """
    store_weights(graph)
    ask_sizes_as_methods(graph)
    try:
        # Tracing warns that it is superseded, and that sizes become constants; verification finds such sizes.
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            module = torch.jit.freeze(torch.jit.trace(graph.eval(), example_image(graph), check_trace=False))
            extra = {**metadata, OUTPUT_NAMES_KEY: joined(output_names_of(graph))}
            content = _archive(module, {key: value.encode() for key, value in extra.items()})
    except Exception as error:  # tracing raises what the operators raise
        reason = f"the network cannot be written as TorchScript: {first_line(error)}; export it with --onnx"
        raise CaptureError(reason, operator_in(error)) from error
    path.write_bytes(content)


def annotate_torchscript(path: Path, metadata: Mapping[str, str]) -> None:
    """Replace the extra files of a written module, except the outputs' names."""
    names = {OUTPUT_NAMES_KEY: ""}
    with warnings.catch_warnings(action="ignore"):
        module = torch.jit.load(str(path), map_location="cpu", _extra_files=names)
        extra = {key: value.encode() for key, value in metadata.items()}
        content = _archive(module, {**extra, **names})
    path.write_bytes(content)


def _archive(module: torch.jit.ScriptModule, extra: Mapping[str, str | bytes]) -> bytes:
    """Return the file's content; PyTorch's own writing to a path ends the process where the disk is full."""
    buffer = io.BytesIO()
    torch.jit.save(module, buffer, _extra_files=dict(extra))
    return buffer.getvalue()


def torchscript_runner(path: Path, output_names: tuple[str, ...]) -> GraphRunner:
    """Load a TorchScript file into PyTorch on the CPU.

    Raises:
        UnusableGraphError: The file cannot be loaded, or was written for other outputs than `output_names`.
    """
    extra: dict[str, str | bytes] = {OUTPUT_NAMES_KEY: ""}
    try:
        with warnings.catch_warnings(action="ignore"):  # TorchScript is superseded
            module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
    except Exception as error:
        raise UnusableGraphError(f"PyTorch cannot load the graph: {first_line(error)}") from error
    require_outputs(_output_names(extra), output_names)

    def run(images: Tensor) -> dict[str, Tensor]:
        try:
            with torch.no_grad():
                return dict(zip(output_names, module(images), strict=True))
        except Exception as error:
            hint = "; one of the network's layers fixes the batch size in TorchScript: export it with --onnx"
            raise UnusableGraphError(f"PyTorch cannot run the graph at batch {len(images)}{hint}") from error

    return run


def torchscript_second_pass(path: Path) -> SecondPassRunner:
    """Load the second pass of a written file into PyTorch on the CPU.

    Raises:
        UnusableGraphError: The logits do not follow from the picture and its self-gradient.
    """
    extra: dict[str, str | bytes] = {OUTPUT_NAMES_KEY: ""}
    try:
        with warnings.catch_warnings(action="ignore"):  # TorchScript is superseded
            module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
        graph = module.graph.copy()
        (outputs,) = graph.outputs()
        values = dict(zip(_output_names(extra), outputs.node().inputs(), strict=True))
        logits, gradient = values[LOGITS], values[SELF_GRADIENT]
        given = graph.addInput(SELF_GRADIENT).setType(gradient.type())
        gradient.replaceAllUsesWith(given)
        graph.eraseOutput(0)
        graph.registerOutput(logits)
        torch._C._jit_pass_dce(graph)
        dependent = bool(given.uses())
        graph.eraseInput(0)  # the module, of which freezing left no use
        second_pass = torch._C._create_function_from_graph("second_pass", graph)
    except Exception as error:  # PyTorch raises several kinds
        raise UnusableGraphError(f"the graph's second pass cannot be taken by itself: {first_line(error)}") from error
    if not dependent:
        raise UnusableGraphError(f"the graph's {LOGITS} do not depend on its {SELF_GRADIENT}")

    def run(images: Tensor, gradients: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = second_pass(images, gradients)
        return found

    return run


def _output_names(extra: Mapping[str, str | bytes]) -> list[str]:
    """Return the outputs' names from the extra files of a module."""
    names = extra[OUTPUT_NAMES_KEY]
    return (names.decode() if isinstance(names, bytes) else names).split(",")
