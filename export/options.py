"""Names and defaults of the options of `python -m export`. Nothing here imports PyTorch.

export.formats.table says how each kind of file is written.
"""

from dataclasses import dataclass
from pathlib import Path

from sgn_serve.common import graph_format

PICTURES = 28
"""Pictures to check a graph on: a multiple of every batch size, so that each sees every picture in whole batches."""
ENOUGH_PICTURES = 1000
"""Pictures on which a share of equal answers is measured by default; with fewer it is rough."""
MIN_AGREEMENT = graph_format.MIN_AGREEMENT
"""Share of pictures that must keep float32's top class in reduced precision, by default."""
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


@dataclass(frozen=True)
class ExportOptions:
    """All that is asked of an export.

    Attributes:
        ckpt: The checkpoint, or weights of another program.
        classes: The names of their classes, or the file of these, for weights of another program.
        targets: Each format to write, with its file.
        pictures: Folder of pictures to check on; None for generated ones.
        fused: Whether the block is one node.
        precision: fp32, or one of REDUCED_PRECISIONS, which needs `pictures`.
        min_agreement: Share of pictures that must keep float32's top class in reduced precision.
        agreement_pictures: Number of pictures that shares are measured on.
        bf16_agreement: Folder of pictures that bfloat16 is measured on; None where it is not measured.
        auto_agreement: Share of pictures that auto's threshold shall keep; None for the checkpoint's threshold.
        evaluation: The report whose figures go with the graph; None for the one beside the checkpoint.
        examples: Number of example pictures; None for none.
        data_root: Folder of the data set, which `auto_agreement` and `examples` need.
        dataset: Its reader; None for the one that the network was trained with.
    """

    ckpt: Path
    classes: str | None
    targets: tuple[tuple[FileKind, Path], ...]
    pictures: Path | None
    fused: bool
    precision: str
    min_agreement: float
    agreement_pictures: int
    bf16_agreement: Path | None
    auto_agreement: float | None
    evaluation: Path | None
    examples: int | None
    data_root: Path | None
    dataset: str | None
