"""Read exported graph files, check them, and cut parts out of them."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx.external_data_helper import load_external_data_for_model
from onnx.utils import Extractor

from sgn_serve.common.error_text import one_line
from sgn_serve.common.graph_format import (
    AUTO_KEY,
    BF16_KEY,
    CHECKPOINT_FORMAT,
    INPUT,
    LOGITS,
    MAX_SIDE,
    METADATA_KEY,
    PLAIN_LOGITS,
    PRECISION_KEY,
    SELF_GRADIENT,
    SHA256_KEY,
)
from sgn_serve.common.refusals import ServingError

MAX_NAME_BYTES = 1024
"""Longest class name, in bytes of UTF-8: every answer carries some of them."""
MAX_NAMES_BYTES = 512 * 1024
"""Largest size of all class names together. The 21,841 of ImageNet-21k take about 400 KB."""
MOST_GRAPH_BYTES = 2 << 30
"""Most bytes of a graph's file. Protocol Buffers, in which ONNX stores it, has no larger messages."""
MAX_METADATA_BYTES = 64 * 1024
"""Everything else that the metadata say, as JSON. The bundled model's take 2.3 KB."""
_MAX_PRECISION = 64
_MAX_MEASURED = 4096
"""Longest entry that tells what was measured of a graph, in characters."""
_SHARES = {AUTO_KEY: "margin", BF16_KEY: "agreement"}
"""The share in each entry that tells what was measured of a graph."""

_FIX = "export one with `python -m export --ckpt model.safetensors --onnx PATH` and name it by --model or SGN_MODEL"


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
        auto: The threshold of self_gradient=auto as "margin", and what it was measured to do. None where the graph has
            none, or no block.
        bf16: How often bfloat16 gives float32's answer as "agreement", and what that was measured on. None where the
            graph does not say it.
    """

    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    sha256: str
    has_block: bool
    has_gradient: bool = False
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    precision: str | None = None
    auto: Mapping[str, Any] | None = None
    bf16: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Graph:
    """An exported graph that was read and checked.

    Attributes:
        path: Its file.
        model: The graph.
        description: Content of its metadata and its outputs.
        file_sha256: SHA-256 of the file's bytes as they were read, in hexadecimal.
    """

    path: Path
    model: onnx.ModelProto
    description: Description
    file_sha256: str

    def cut(self, outputs: list[str]) -> onnx.ModelProto:
        """Return the part of the graph that computes `outputs` from the image, without any other node.

        ONNX Runtime runs the whole graph even if it is asked for only some of the outputs.
        """
        return Extractor(self.model).extract_model([INPUT], outputs)


def read_graph(path: Path) -> Graph:
    """Read an exported graph and check that it has the inputs, outputs and metadata that export writes.

    It is not run: that is Classifier's part, and a model from elsewhere is tried first (sgn_serve/serving/trial.py).

    Args:
        path: The .onnx file.

    Raises:
        GraphError: The file is missing, or was not written by this project's export.
        MemoryError: It needs more memory than this process may have.
    """
    if path.is_dir():
        inside = next(iter(sorted(path.glob("*.onnx"))), None)
        raise GraphError(f"{path}: a folder, not a graph; {f'name {inside}' if inside else _FIX}")
    if not path.is_file():
        found = "a pipe or a device, not a file" if path.exists() else "no such file"
        raise GraphError(f"{path}: {found}; {_FIX}")
    if path.stat().st_size > MOST_GRAPH_BYTES:
        raise GraphError(f"{path}: larger than 2 GiB, which no ONNX file is; {_FIX}")
    model, sha256 = _parse(path)
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
            f"but it has {_listed(inputs)} and {_listed(outputs)}; {_FIX}"
        )
    try:
        description = _describe(metadata, outputs)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise GraphError(f"{path}: its metadata {METADATA_KEY} cannot be used ({_reason(error)}); {_FIX}") from None
    _check_input(path, next(item for item in model.graph.input if item.name == INPUT), description.image_size)
    return Graph(path, model, description, sha256)


def json_size(value: Any) -> int:
    """Return how many bytes a value takes as JSON in UTF-8.

    Raises:
        ValueError: JSON cannot carry it: it holds NaN, infinity, or half a surrogate pair.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise ValueError("a text is not Unicode: it holds half a surrogate pair") from None


def _parse(path: Path) -> tuple[onnx.ModelProto, str]:
    """Return the graph in a file, with weights that lie in files beside it, and the SHA-256 of the file's bytes.

    Raises:
        GraphError: The file, or one with its weights, cannot be read.
        MemoryError: See read_graph.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GraphError(f"{path}: {error.strerror}; {_FIX}") from None
    try:
        model = onnx.load_model_from_string(content)
    except MemoryError:
        raise
    except Exception as error:  # protobuf's and onnx's exceptions share no base class
        raise GraphError(f"{path}: not an ONNX file ({type(error).__name__}); {_FIX}") from None
    try:
        load_external_data_for_model(model, str(path.parent))
    except MemoryError:
        raise
    except Exception as error:  # OSError, and onnx's own
        raise GraphError(
            f"{path}: weights that it keeps in another file cannot be read ({one_line(error)}); "
            "put that file beside it, or export it again as one file"
        ) from None
    return model, hashlib.sha256(content).hexdigest()


def _check_input(path: Path, image: onnx.ValueInfoProto, image_size: tuple[int, int]) -> None:
    """Check that a graph takes any number of pictures of the size that its metadata say.

    Raises:
        GraphError: It does not.
    """
    tensor = image.type.tensor_type
    found = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim]
    shown = "x".join(map(str, found))[:100] or "of no shape"
    if len(found) != 4 or found[1:] != [3, *image_size]:
        expected = "x".join(map(str, ("batch", 3, *image_size)))
        raise GraphError(f"{path}: its input {INPUT} is {shown}, but its metadata say {expected}; {_FIX}")
    if isinstance(found[0], int):
        raise GraphError(f"{path}: its input {INPUT} is {shown}, for batches of one size only; {_FIX}")
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        raise GraphError(f"{path}: its input {INPUT} is not float32; {_FIX}")


def _describe(metadata: Mapping[str, str], outputs: set[str]) -> Description:
    """Return what a graph's metadata and the names of its outputs say.

    Raises:
        ValueError: The metadata do not describe a network, or hold what no answer could carry.
        KeyError: They lack a field.
        TypeError: They are no JSON object.
        RecursionError: They are nested too deeply.
    """
    text, sha256, precision = metadata[METADATA_KEY], metadata[SHA256_KEY], metadata.get(PRECISION_KEY)
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError(f"{SHA256_KEY} is not 64 hexadecimal digits")
    if precision is not None and not 0 < len(precision) <= _MAX_PRECISION:
        raise ValueError(f"{PRECISION_KEY} is empty or longer than {_MAX_PRECISION} characters")
    # The JSON is not read yet. A character may stand there as \ud83d\ude00, three times as long as in UTF-8.
    if len(text) > 3 * (MAX_NAMES_BYTES + MAX_METADATA_BYTES):
        raise ValueError(f"{len(text)} characters are too many")
    checkpoint = json.loads(text)
    if checkpoint["format"] != CHECKPOINT_FORMAT:
        raise ValueError(f"format {checkpoint['format']!r} instead of {CHECKPOINT_FORMAT!r}")
    class_names = _class_names(checkpoint["class_names"])
    size = json_size({name: value for name, value in checkpoint.items() if name != "class_names"})
    if size > MAX_METADATA_BYTES:
        raise ValueError(f"besides the class names they take {size} bytes, more than {MAX_METADATA_BYTES}")
    has_block = LOGITS in outputs
    has_gradient = has_block and SELF_GRADIENT in outputs
    image_size = _image_size(checkpoint["image_size"])
    auto = _auto(metadata.get(AUTO_KEY), checkpoint) if has_block else None
    bf16 = None if BF16_KEY not in metadata else _parse_measured(metadata[BF16_KEY], BF16_KEY)
    return Description(class_names, image_size, sha256, has_block, has_gradient, checkpoint, precision, auto, bf16)


def _auto(text: str | None, checkpoint: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the threshold of self_gradient=auto: what the export found, else what the checkpoint had.

    Raises:
        ValueError: It is none.
    """
    if text is not None:
        return _parse_measured(text, AUTO_KEY)
    margin = checkpoint.get("auto_margin")
    return None if margin is None else checked_measured({"margin": margin}, AUTO_KEY)


def _parse_measured(text: str, key: str) -> Mapping[str, Any]:
    """Return what an entry of the metadata says that was measured.

    Raises:
        ValueError: It is too long or no JSON, or see checked_measured.
    """
    if len(text) > _MAX_MEASURED:
        raise ValueError(f"{key} has more than {_MAX_MEASURED} characters")
    return checked_measured(json.loads(text), key)


def checked_measured(value: Any, key: str) -> Mapping[str, Any]:
    """Check an entry with measurements of a graph, and return it unchanged.

    Args:
        value: The JSON of an entry of the metadata, or of the figures beside the graph.
        key: The entry's name: AUTO_KEY, whose share is "margin", or BF16_KEY, whose share is "agreement".

    Raises:
        ValueError: It is no object, has no share from 0 to 1, or holds what JSON cannot carry.
    """
    name = _SHARES[key]
    share = value.get(name) if isinstance(value, dict) else None
    if type(share) not in (int, float) or share is None or not 0 <= share <= 1:  # NaN is refused too
        raise ValueError(f'{key} is no object with a "{name}" from 0 to 1')
    json_size(value)
    checked: Mapping[str, Any] = value
    return checked


def _class_names(names: Any) -> tuple[str, ...]:
    """Return the class names of a description.

    Raises:
        ValueError: They are no list of texts, or too long for answers.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("class_names is no list of texts")
    if not names:
        raise ValueError("no class names")
    sizes = []
    for index, name in enumerate(names):
        try:
            sizes.append(len(name.encode()))
        except UnicodeEncodeError:
            raise ValueError(f"class name {index} is not Unicode: it holds half a surrogate pair") from None
    longest = max(sizes)
    if longest > MAX_NAME_BYTES:
        raise ValueError(f"class name {sizes.index(longest)} takes {longest} bytes, more than {MAX_NAME_BYTES}")
    if sum(sizes) > MAX_NAMES_BYTES:
        raise ValueError(f"the class names take {sum(sizes)} bytes together, more than {MAX_NAMES_BYTES}")
    return tuple(names)


def _image_size(size: Any) -> tuple[int, int]:
    """Return the (height, width) of a description.

    Raises:
        ValueError: They are not two whole numbers of pixels in range.
    """
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int for side in size):
        raise ValueError("image_size is not a height and a width")
    if not all(1 <= side <= MAX_SIDE for side in size):
        raise ValueError(f"image_size is {str(size)[:60]}, and each side must be from 1 to {MAX_SIDE} pixels")
    return size[0], size[1]


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))[:200] or "none"


def _reason(error: Exception) -> str:
    """Return a one-line reason for refusing metadata. Only our own ValueErrors go without their type."""
    return one_line(error) if type(error) is ValueError else " ".join(repr(error).split())[:300]
