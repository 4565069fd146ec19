"""Names in an exported graph: its input, its outputs and its metadata. export writes them; everybody else reads
them."""

INPUT = "image"
"""Input, (batch, 3, H, W) float32: RGB in [0, 1]."""
LOGITS = "logits"
"""Output, (batch, classes): block on. Absent from a network without a block."""
PLAIN_LOGITS = "plain_logits"
"""Output, (batch, classes): block off, from the first pass."""
SELF_GRADIENT = "self_gradient"
"""Output, (batch, 3, H, W): the gradient of the summed logits. Absent from a network without a block."""

METADATA_KEY = "self_gradient_network"
"""Metadata of a checkpoint and of a graph: the checkpoint's description as JSON."""
SHA256_KEY = "checkpoint_sha256"
"""Metadata of a graph: SHA-256 of the checkpoint that it was exported from, in hexadecimal."""
PRECISION_KEY = "precision"
"""Metadata of a graph in reduced precision: which one. Absent from a float32 graph."""
