"""Names and defaults of the options of `python -m export`. Nothing here imports PyTorch.

export.formats.table says how each kind of file is written.
"""

from dataclasses import dataclass

from sgn_serve import graph_format

PICTURES = 28
"""Pictures to check a graph on: a multiple of every batch size, so that each sees every picture in whole batches."""
ENOUGH_PICTURES = 1000
"""Pictures on which a share of equal answers is measured by default; with fewer it is rough."""
MIN_AGREEMENT = graph_format.MIN_AGREEMENT
"""Share of pictures that must keep float32's top class in reduced precision, by default."""
EPS = 8 / 255
"""Radius of attacks where the checkpoint names none, in units of pixel intensity."""
REDUCED_PRECISIONS = {"fp16": "float16", "bf16": "bfloat16"}
"""Types of the convolutions besides float32: the names in torch, by the precision's name."""


@dataclass(frozen=True)
class FileKind:
    """The names of a kind of file.

    Attributes:
        name: Name of the option, without its dashes.
        file_name: The file's default name, beside the checkpoint.
        content: The kind of file in words, for messages.
    """

    name: str
    file_name: str
    content: str


ONNX = FileKind("onnx", "model.onnx", "an ONNX graph")
OPENVINO = FileKind("openvino", "model.openvino.onnx", "an ONNX graph in the form that OpenVINO is fastest at")
TORCHSCRIPT = FileKind("torchscript", "model.torchscript.pt", "a TorchScript module")
AOT = FileKind("aot", "model.pt2", "an AOTInductor package for this machine's processor")
AOT_FOR_GPU = FileKind("aot", "model.cuda.pt2", "an AOTInductor package for this machine's GPU")
KINDS = (ONNX, OPENVINO, TORCHSCRIPT, AOT)
"""Kinds of files that a command line can ask for. AOT_FOR_GPU takes AOT's place with --device cuda."""
SERVED = (ONNX, OPENVINO)
"""Kinds that the service can serve; only these have example pictures beside them."""
FUSED = (ONNX, TORCHSCRIPT)
"""Kinds that can hold the block as one node."""
