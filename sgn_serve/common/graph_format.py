"""Names of the input, the outputs and the metadata of an exported graph: export writes them, all others read them."""

import hashlib
from pathlib import Path

INPUT = "image"
"""Input, (batch, 3, H, W) float32: RGB in [0, 1]."""
LOGITS = "logits"
"""Output, (batch, classes): the logits with the block on. Absent from a network without a block."""
PLAIN_LOGITS = "plain_logits"
"""Output, (batch, classes): the logits with the block off, from the first pass."""
SELF_GRADIENT = "self_gradient"
"""Output, (batch, 3, H, W): the gradient of the sum of the logits with respect to the input. Absent from a network
without a block."""

CHECKPOINT_FORMAT = "self-gradient-checkpoint/1"
"""Value of "format" in a checkpoint's description."""
METADATA_KEY = "self_gradient_network"
"""Metadata of a checkpoint and of a graph: the checkpoint's description as JSON."""
BACKGROUND_FIELD = "background"
"""Entry of that description: the colour, such as #ffffff, that training puts under transparent pixels and around padded
pictures. Absent where it is white."""
SHA256_KEY = "checkpoint_sha256"
"""Metadata of a graph: SHA-256 of the checkpoint that it was exported from, in hexadecimal."""
PRECISION_KEY = "precision"
"""Metadata of a graph in reduced precision: the name of the precision. Absent from a float32 graph."""
AUTO_KEY = "auto"
"""Metadata of a graph, and entry of the figures beside it: the threshold of self_gradient=auto as "margin", and its
measured effect, as JSON. A picture whose two largest plain probabilities differ by less gets the second pass."""
BF16 = "bf16"
"""The precision bfloat16, as PRECISION_KEY names it."""
BF16_KEY = "bf16"
"""Metadata of a float32 graph, and entry of the figures beside it. JSON: "agreement" is the share of pictures for which
bfloat16 on OpenVINO gives float32's answer; the rest says what it was measured on. The share is the lowest of clean and
attacked pictures, block on and off. Among the figures the entry names its graph as "graph_sha256"."""
MIN_AGREEMENT = 0.995
"""Least such share: with less, an export in reduced precision is refused, and SGN_ENGINE=auto does not choose it."""

FIGURES_FORMAT = "self-gradient-figures/1"
"""Value of "format" in the file of figures beside a graph."""
GRAPH_SHA256_FIELD = "graph_sha256"
"""Entry of that file: SHA-256 of the graph that it was written with. Rows measured on the graph have it too."""
MAX_FIGURES_BYTES = 2_000_000
"""Largest file of figures; the bundled model's has 59 KB."""
EXAMPLES_FORMAT = "self-gradient-examples/1"
"""Value of "format" in the file of example pictures beside a graph."""
MAX_EXAMPLES = 20
"""Most example pictures of a graph."""
MAX_EXAMPLES_BYTES = 8_000_000
"""Largest file of example pictures: each worker holds it in memory. The bundled model's has 150 KB."""

MAX_SIDE = 4096
"""Largest height and width of a network's pictures, in pixels. One such picture takes 200 MB as float32."""


def figures_path(graph: Path) -> Path:
    """Return the file of figures beside a graph: model.json beside model.onnx, model.pt2.json beside model.pt2.

    It is not part of the graph, because the graph itself can be attacked. Its hash stands among the figures, and must
    not change with them.
    """
    return _beside(graph, ".json")


def examples_path(graph: Path) -> Path:
    """Return the file of example pictures beside a graph: model.examples.json beside model.onnx."""
    return _beside(graph, ".examples.json")


def _beside(graph: Path, suffix: str) -> Path:
    return graph.with_suffix(suffix) if graph.suffix == ".onnx" else graph.with_name(graph.name + suffix)


def same_eps(first: float, second: float) -> bool:
    """Return whether two radii are the same but for rounding, such as 0.031 and 8/255."""
    return abs(first - second) < 0.25 / 255


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal: what identifies a checkpoint, a graph and its figures."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
