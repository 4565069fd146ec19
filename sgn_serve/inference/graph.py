"""Read exported graph files, check them, and cut parts out of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
from onnx.utils import Extractor

from sgn_serve.graph_format import (
    CHECKPOINT_FORMAT,
    INPUT,
    LOGITS,
    METADATA_KEY,
    PLAIN_LOGITS,
    PRECISION_KEY,
    SELF_GRADIENT,
    SHA256_KEY,
)
from sgn_serve.refusals import ServingError

_FIX = "export one with `python -m export --ckpt model.safetensors --onnx PATH` and set SGN_MODEL to PATH"


class GraphError(ServingError):
    """A file cannot be served. The message, one line, names the file, what was expected, and the fix."""


@dataclass(frozen=True)
class Description:
    """The description of a graph, from its metadata and its outputs.

    Attributes:
        class_names: A name for each logit, in order.
        image_size: (height, width) in pixels that the network was trained at.
        sha256: SHA-256 of the checkpoint that the graph was exported from, which identifies the model.
        has_block: Whether there is a self-gradient block to switch on.
        has_gradient: Whether the self-gradient is an output.
        checkpoint: The checkpoint's whole description, as training wrote it.
        precision: The precision that the graph was exported for, such as bf16. None for float32.
    """

    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    sha256: str
    has_block: bool
    has_gradient: bool = False
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    precision: str | None = None


@dataclass(frozen=True)
class Graph:
    """An exported graph that was read and checked."""

    path: Path
    model: onnx.ModelProto
    description: Description

    def cut(self, outputs: list[str]) -> onnx.ModelProto:
        """Return the part of the graph that computes `outputs` from the image, without any other node.

        ONNX Runtime runs the whole graph even if it is asked for only some of the outputs.
        """
        return Extractor(self.model).extract_model([INPUT], outputs)


def read_graph(path: Path) -> Graph:
    """Read an exported graph and check that it has the inputs, outputs and metadata that export writes.

    Args:
        path: The .onnx file.

    Raises:
        GraphError: The file is missing, or was not written by this project's export.
    """
    if not path.is_file():
        raise GraphError(f"{path}: no such file; {_FIX}")
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf, onnx and the file system raise exceptions without a common base
        raise GraphError(f"{path}: not an ONNX file ({type(error).__name__}); {_FIX}") from None
    if not model.graph.node:
        raise GraphError(f"{path}: not an ONNX graph, or one without nodes; {_FIX}")
    metadata = {item.key: item.value for item in model.metadata_props}
    missing = {METADATA_KEY, SHA256_KEY} - metadata.keys()
    if missing:
        raise GraphError(f"{path}: an ONNX graph without the metadata {', '.join(sorted(missing))}; {_FIX}")
    outputs = {output.name for output in model.graph.output}
    inputs = {item.name for item in model.graph.input} - {item.name for item in model.graph.initializer}
    if inputs != {INPUT} or PLAIN_LOGITS not in outputs:
        raise GraphError(
            f"{path}: expected the input {INPUT} and the outputs {PLAIN_LOGITS} and, with a block, {LOGITS}, "
            f"but it has {', '.join(sorted(inputs)) or 'none'} and {', '.join(sorted(outputs)) or 'none'}; {_FIX}"
        )
    try:
        description = replace(
            _describe(json.loads(metadata[METADATA_KEY]), metadata[SHA256_KEY], outputs),
            precision=metadata.get(PRECISION_KEY),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise GraphError(f"{path}: its metadata {METADATA_KEY} cannot be used ({error!r}); {_FIX}") from None
    image = next(item for item in model.graph.input if item.name == INPUT)
    found = [dim.dim_value or dim.dim_param for dim in image.type.tensor_type.shape.dim]
    if found[1:] != [3, *description.image_size]:
        expected = "x".join(map(str, ("batch", 3, *description.image_size)))
        raise GraphError(
            f"{path}: its input {INPUT} is {'x'.join(map(str, found))}, but its metadata say {expected}; {_FIX}"
        )
    return Graph(path, model, description)


def _describe(checkpoint: Any, sha256: str, outputs: set[str]) -> Description:
    if checkpoint["format"] != CHECKPOINT_FORMAT:
        raise ValueError(f"format {checkpoint['format']!r} instead of {CHECKPOINT_FORMAT!r}")
    height, width = checkpoint["image_size"]
    class_names = tuple(str(name) for name in checkpoint["class_names"])
    if not class_names:
        raise ValueError("no class names")
    has_block = LOGITS in outputs
    return Description(
        class_names, (int(height), int(width)), sha256, has_block, has_block and SELF_GRADIENT in outputs, checkpoint
    )
