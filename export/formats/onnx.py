"""Write a captured graph as one self-contained ONNX file, and run such a file."""

import logging
import re
import warnings
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import onnx
import onnx.utils
import torch
from onnxscript.optimizer import optimize_ir
from torch import Tensor, fx
from torch.onnx._internal._lazy_import import onnxscript_apis  # type: ignore[attr-defined]

from export.capture.graph import example_image, output_names_of
from export.check.extreme_gradients import SecondPassRunner
from export.check.verify import GraphRunner, UnusableGraphError
from export.errors import CaptureError, operator_in
from export.formats.output_names import require_outputs
from sgn_serve.common.error_text import first_line
from sgn_serve.common.graph_format import INPUT, LOGITS, SELF_GRADIENT
from sgn_serve.common.onnx_runtime import start_session

OPSET = 18
"""The newest opset that torch.onnx writes without a conversion; every runtime of the last three years reads it."""

LARGEST_FOLDED = 256
"""Most elements of a constant whose expressions are computed at export and stored beside it."""

BATCH_NAME = "batch"


def to_onnx(
    graph: fx.GraphModule,
    metadata: Mapping[str, str],
    translations: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
) -> onnx.ModelProto:
    """Translate the captured graph into an ONNX model with a dynamic batch size.

    Args:
        graph: A captured graph; the model's input and outputs have the same names.
        metadata: Becomes the model's metadata_props.
        translations: How operators that PyTorch does not know are written: torch.onnx.export's
            custom_translation_table.

    Returns:
        The model, weights included.

    Raises:
        CaptureError: ONNX has no such operator, or a layer fixes the batch size.
    """
    sizes = {INPUT: {0: torch.export.Dim(BATCH_NAME)}}
    try:
        with _quiet(), _quick(), torch.no_grad(), _views_as_reshapes(graph), _stable_sorts_as_sorts(graph):
            program = torch.export.export(graph, (example_image(graph),), dynamic_shapes=sizes, strict=False)
            # torch.onnx.export calls it, which traces the graph anew even where that changes nothing.
            program.run_decompositions = partial(_decomposed, program)
            exported = torch.onnx.export(
                program,
                dynamo=True,
                dynamic_shapes=sizes,  # gives the name alone; the batch would be called s40 or the like
                input_names=[INPUT],
                output_names=list(output_names_of(graph)),
                opset_version=OPSET,
                custom_translation_table=dict(translations or {}),
                verbose=False,
                optimize=False,
            )
            assert exported is not None  # None is what the old exporter returns
            # Only small constants are folded. Flipped weights stay expressions, which a runtime computes at load time.
            optimize_ir(exported.model, input_size_limit=LARGEST_FOLDED, output_size_limit=LARGEST_FOLDED)
    except Exception as error:  # the exporter wraps what any of its translations may raise
        reason, operator = _reason(error, graph)
        raise CaptureError(f"the network cannot be written as ONNX: {reason}", operator) from error
    model = exported.model_proto
    _strip_traces(model)
    onnx.helper.set_model_props(model, dict(metadata))
    return model


def _decomposed(
    program: torch.export.ExportedProgram, table: dict[Any, Callable[..., Any]]
) -> torch.export.ExportedProgram:
    """Return a program in which every operator of the table is replaced by others.

    A program without such an operator is returned as it is: tracing it anew gives the same program.
    """
    if all(_is_final(node, table) for node in program.graph.nodes):
        return program
    return torch.export.ExportedProgram.run_decompositions(program, table)


_KEPT = (torch.ops.aten.reshape.default, torch.ops.aten.linear.default, torch.ops.aten.sym_size.int)
"""Operators that are made of others by name only: a decomposed program has them too, or another name of them."""


def _is_final(node: fx.Node, table: Container[Any]) -> bool:
    """Tell whether a node stays as it is when its program is decomposed."""
    operator = node.target
    if isinstance(operator, torch._ops.OpOverload):
        made_of_others = operator not in _KEPT and torch._C._dispatch_has_kernel_for_dispatch_key(
            operator.name(), "CompositeImplicitAutograd"
        )
        return operator not in table and not made_of_others and not operator._schema.is_mutable
    # Arithmetic on the batch size, and the choice of one of an operator's results, may stay too.
    return node.op in ("placeholder", "output") or getattr(node.target, "__module__", None) == "_operator"


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write the model to one file, weights included.

    Raises:
        CaptureError: The model is over 2 GiB, which ONNX cannot hold in one file.
        OSError: The path cannot be written.
    """
    if model.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        raise CaptureError("the network is over 2 GiB, more than one ONNX file can hold: export it with --torchscript")
    path.write_bytes(model.SerializeToString())


def annotate_onnx(path: Path, metadata: Mapping[str, str]) -> None:
    """Replace the metadata_props of a written file."""
    model = onnx.load(path)
    onnx.helper.set_model_props(model, dict(metadata))
    save_onnx(model, path)


def onnx_runner(
    model: Path | bytes, output_names: tuple[str, ...], custom_operators: Path | None = None
) -> GraphRunner:
    """Load an ONNX graph into ONNX Runtime's CPU provider.

    Args:
        model: A file, or its content.
        output_names: The outputs that the graph must have, in order.
        custom_operators: A library of operators to register with ONNX Runtime.

    Raises:
        UnusableGraphError: The graph cannot be loaded, or its outputs are others.
    """
    try:
        session = start_session(model, torch.get_num_threads(), custom_operators=custom_operators)
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise UnusableGraphError(f"ONNX Runtime cannot load the graph: {first_line(error)}") from error
    require_outputs([output.name for output in session.get_outputs()], output_names)

    def run(images: Tensor) -> dict[str, Tensor]:
        try:
            arrays = session.run(list(output_names), {INPUT: images.numpy()})
        except Exception as error:
            raise UnusableGraphError(
                f"ONNX Runtime cannot run the graph at batch {len(images)}: {first_line(error)}"
            ) from error
        return {name: torch.from_numpy(array) for name, array in zip(output_names, arrays, strict=True)}

    return run


def second_pass_of(model: onnx.ModelProto) -> bytes:
    """Return the part of a two-pass model that maps the image and its self-gradient to the logits, as a file's content.

    Raises:
        UnusableGraphError: The logits do not follow from these two.
    """
    try:
        # The extractor takes what it needs of the nodes by reference; a copy keeps the model as it is.
        extractor = onnx.utils.Extractor(onnx.ModelProto.FromString(model.SerializeToString()))
        part = extractor.extract_model([INPUT, SELF_GRADIENT], [LOGITS])
    except Exception as error:  # the library raises several kinds
        raise UnusableGraphError(f"the graph's second pass cannot be taken by itself: {first_line(error)}") from error
    if not any(SELF_GRADIENT in node.input for node in part.graph.node):
        raise UnusableGraphError(f"the graph's {LOGITS} do not depend on its {SELF_GRADIENT}")
    return part.SerializeToString()


def onnx_second_pass(path: Path) -> SecondPassRunner:
    """Load the second pass of a written file into ONNX Runtime's CPU provider."""
    session = start_session(second_pass_of(onnx.load(path)), torch.get_num_threads())

    def run(images: Tensor, gradients: Tensor) -> Tensor:
        (logits,) = session.run([LOGITS], {INPUT: images.numpy(), SELF_GRADIENT: gradients.numpy()})
        return torch.from_numpy(logits)

    return run


def _reason(error: Exception, graph: fx.GraphModule) -> tuple[str, str | None]:
    """Return the one line of the exporter's error that a user can act on, and the operator that ONNX lacks, if any."""
    text = str(error)
    missing = re.search(r"No ONNX function found for <OpOverload\(op='([\w.:]+)'", text)
    source = _source_of_complex_numbers(graph)
    if missing and "complex-valued" in text and source is not None:  # the missing operator only uses the numbers
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
    """Return the first operator that makes complex numbers, such as aten::_fft_r2c."""
    for node in graph.graph.nodes:
        value = node.meta.get("val")
        if isinstance(node.target, torch._ops.OpOverload) and isinstance(value, torch.Tensor) and value.is_complex():
            return str(node.target._schema.name)
    return None


@contextmanager
def _views_as_reshapes(graph: fx.GraphModule) -> Iterator[None]:
    """Make each view of a graph a reshape for a while, which needs no memory of a certain layout.

    Tensors were laid out by PyTorch's kernels when the graph was captured, and by their decompositions when it is
    translated. They differ for attention, measured with `scaled_dot_product_attention`.
    """
    views = [node for node in graph.graph.nodes if node.target is torch.ops.aten.view.default]
    for node in views:
        node.target = torch.ops.aten.reshape.default
    graph.recompile()
    try:
        yield
    finally:
        for node in views:
            node.target = torch.ops.aten.view.default
        graph.recompile()


def _strip_traces(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes on nodes and values: operators' histories, and stack traces with local paths.

    onnx_ir's ClearMetadataAndDocStringPass would leave the notes on values and initializers.
    """
    graph = model.graph
    graph.ClearField("metadata_props")
    for item in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's progress messages and its warnings about PyTorch's internals."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # torch.export and onnxscript warn about their own deprecated calls, which nobody here can change.
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        exporter.setLevel(level)


_operators = cache(onnxscript_apis.get_torchlib_ops)
"""Operators that onnxscript can write. It parses the sources of 500 functions for them: a tenth of a small export."""


@contextmanager
def _quick() -> Iterator[None]:
    """Spare the exporter work that changes nothing in the file.

    It parses its operators' sources once a process, not once a file. It records no stack trace for each node, which
    `_strip_traces` would remove. For a WRN-10-1 the traces were 6 % of an export's time.
    """
    with (
        mock.patch.object(onnxscript_apis, "get_torchlib_ops", _operators),
        mock.patch.object(fx.config, "do_not_emit_stack_traces", True),
    ):
        yield


@contextmanager
def _stable_sorts_as_sorts(graph: fx.GraphModule) -> Iterator[None]:
    """Make each stable sort of a graph a sort for a while. The exporter has a rule for that alone.

    It writes TopK, which puts the lower index first among equal values: as a stable sort does, in both directions.
    """
    aten = torch.ops.aten
    sorts = [(node, node.args, node.kwargs) for node in graph.graph.nodes if node.target is aten.sort.stable]
    for node, args, kwargs in sorts:
        node.target = aten.sort.default
        node.args, node.kwargs = (*args, kwargs.get("dim", -1), kwargs.get("descending", False)), {}
    graph.recompile()
    try:
        yield
    finally:
        for node, args, kwargs in sorts:
            node.target, node.args, node.kwargs = aten.sort.stable, args, kwargs
        graph.recompile()
