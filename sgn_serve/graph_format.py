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
"""Metadata of a graph, and entry of the figures beside it: the threshold of self_gradient=auto as "margin", and what it
was measured to do, as JSON. A picture whose two largest plain probabilities differ by less gets the second pass."""

MAX_SIDE = 4096
"""Largest height and width of a network's pictures, in pixels. One such picture takes 200 MB as float32."""


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal: what identifies a checkpoint, a graph and its figures."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
