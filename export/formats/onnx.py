"""A captured graph as one self-contained ONNX file."""

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxscript.optimizer import optimize_ir
from torch import fx

from export.capture.graph import INPUT_NAME, CaptureError, example_image, output_names_of
from export.errors import operator_in
from training.common.errors import first_line

OPSET = 18
"""The newest that torch.onnx writes without converting from another; every runtime of the last three years reads it."""

LARGEST_FOLDED = 256
"""Elements of a constant up to which expressions of it are worked out at export, and stored beside it."""

BATCH_NAME = "batch"


def to_onnx(
    graph: fx.GraphModule,
    metadata: Mapping[str, str],
    translations: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
) -> onnx.ModelProto:
    """The captured graph as an ONNX model with dynamic batch, input `image` and its outputs' names.

    metadata:     becomes the model's metadata_props
    translations: how operators that PyTorch does not know are written (torch.onnx.export's custom_translation_table)
    raises CaptureError for a graph with an operator that ONNX does not have, or one that fixes the batch size
    """
    sizes = {INPUT_NAME: {0: torch.export.Dim(BATCH_NAME)}}
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(graph, (example_image(graph),), dynamic_shapes=sizes, strict=False)
            exported = torch.onnx.export(
                program,
                dynamo=True,
                dynamic_shapes=sizes,  # for the name alone; without it the batch is called s40 or the like
                input_names=[INPUT_NAME],
                output_names=list(output_names_of(graph)),
                opset_version=OPSET,
                custom_translation_table=dict(translations or {}),
                verbose=False,
                optimize=False,
            )
            assert exported is not None  # None is what the old exporter returns
            # Constants are folded up to this size alone: flipped weights are left to whoever loads the file.
            optimize_ir(exported.model, input_size_limit=LARGEST_FOLDED, output_size_limit=LARGEST_FOLDED)
    except Exception as error:  # the exporter wraps what any of its translations may raise
        reason, operator = _reason(error, graph)
        raise CaptureError(f"the network cannot be written as ONNX: {reason}", operator) from error
    model = exported.model_proto
    _strip_traces(model)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    return model


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Writes the model to one file, weights included.

    raises CaptureError for a model over 2 GB, which ONNX cannot hold in one file; OSError where path cannot be written
    """
    if model.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        raise CaptureError("the network is over 2 GB, more than one ONNX file can hold: export it with --torchscript")
    path.write_bytes(model.SerializeToString())


def annotate_onnx(path: Path, metadata: Mapping[str, str]) -> None:
    """Replaces the metadata_props of a written file."""
    model = onnx.load(path)
    del model.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    save_onnx(model, path)


def _reason(error: Exception, graph: fx.GraphModule) -> tuple[str, str | None]:
    """The one line of the exporter's many that a user can act on, and the operator that ONNX lacks, if it is that."""
    text = str(error)
    missing = re.search(r"No ONNX function found for <OpOverload\(op='([\w.:]+)'", text)
    source = _source_of_complex_numbers(graph)
    if missing and "complex-valued" in text and source is not None:  # of which the missing one is a mere user
        return (
            f"ONNX has no operators on complex numbers, which {source} makes; use a layer that does without them, or "
            "--torchscript",
            source,
        )
    if missing:
        operator = missing[1].replace(".", "::", 1) if "::" not in missing[1] else missing[1]
        return f"ONNX has no operator for {missing[1]}; use a layer that does without it, or --torchscript", operator
    if "Constraints violated" in text and BATCH_NAME in text:
        return "one of its layers fixes the batch size", None
    return first_line(error), operator_in(error)


def _source_of_complex_numbers(graph: fx.GraphModule) -> str | None:
    """The first operator that makes complex numbers, such as aten::_fft_r2c."""
    for node in graph.graph.nodes:
        value = node.meta.get("val")
        if isinstance(node.target, torch._ops.OpOverload) and isinstance(value, torch.Tensor) and value.is_complex():
            return str(node.target._schema.name)
    return None


def _strip_traces(model: onnx.ModelProto) -> None:
    """Drops the exporter's notes on nodes and values: operators' histories, stack traces with this machine's paths."""
    graph = model.graph
    graph.ClearField("metadata_props")
    for item in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's own progress notes and warnings about PyTorch's insides off the terminal."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # torch.export and onnxscript warn of their own deprecated calls, which nobody here can change.
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        exporter.setLevel(level)
