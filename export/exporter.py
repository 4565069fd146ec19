"""From a checkpoint file to a checked graph file."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import fx, nn

from export.capture.graph import CaptureError, capture, example_image, passes_of
from export.capture.layers import layer_of_operator
from export.check.pictures import pictures_in, structured_pictures
from export.check.verify import PICTURES, GraphError, Run, Verification, onnx_run, verify
from export.formats.table import FUSED, ONNX, Format
from export.kernels.fuse import fuse_block
from export.kernels.onnx_functions import library_path
from export.output import OutputError, replacing
from export.rewrite import rewrite
from sgn_serve.graph_format import METADATA_KEY, SHA256_KEY
from training.checkpoint import load_checkpoint
from training.common.files import sha256
from training.networks.self_gradient import SelfGradientNetwork


class VerificationError(RuntimeError):
    """The graph does not compute what the network computes; nothing was written.

    verification: the checks, or None where the graph could not even be run
    """

    def __init__(self, message: str, verification: Verification | None = None):
        super().__init__(message)
        self.verification = verification


def export_onnx(
    checkpoint: Path,
    target: Path,
    pictures_folder: Path | None = None,
    backbone: nn.Module | None = None,
    fused: bool = False,
) -> Verification:
    """export_graph to an ONNX file."""
    return export_graph(ONNX, checkpoint, target, pictures_folder, backbone, fused)


def export_graph(
    file_format: Format,
    checkpoint: Path,
    target: Path,
    pictures_folder: Path | None = None,
    backbone: nn.Module | None = None,
    fused: bool = False,
) -> Verification:
    """Writes the checkpoint's network as one file, once that file has been checked against PyTorch.

    checkpoint:      a model.safetensors (see training.checkpoint.load_checkpoint)
    target:          is replaced in one step by a good file, and left as it was by a failure
    pictures_folder: real pictures to check on; made-up ones where None
    backbone:        a module of your own that the checkpoint holds the weights of (see load_checkpoint)
    fused:           the block as one node. ONNX: ai.sgn.SelfGradientBlock; where the kernels' library for ONNX Runtime
                     is built, the graph is checked without it and then with it. TorchScript: sgn::self_gradient_block,
                     for which PyTorch's library must be built
    returns:         the checks, all passed
    raises CheckpointError, PicturesError, OutputError for what was passed in, CaptureError for a network that cannot be
    written as one graph, CompilerError where there is nothing to compile with, KernelsError for kernels that cannot be
    loaded, VerificationError for a graph that is wrong
    """
    if fused:
        if file_format.name not in FUSED:
            raise OutputError(f"--fused is for --onnx and --torchscript, not --{file_format.name}; leave it out")
        file_format = FUSED[file_format.name]
    file_format.check()
    network, info = load_checkpoint(checkpoint, backbone)
    channels = len(info.mean)
    if pictures_folder is None:
        pictures = structured_pictures(PICTURES, channels, info.image_size)
    else:
        pictures = pictures_in(pictures_folder, PICTURES, info.image_size)
    metadata = {METADATA_KEY: info.to_json(), SHA256_KEY: sha256(checkpoint)}
    passes = passes_of(network)
    with replacing(target, checkpoint) as partial:
        graph = capture(passes, info.image_size)
        if fused:
            fuse_block(graph, network.block)
        rewrite(graph)
        with naming_layers(network, graph):
            file_format.save(graph, metadata, partial)
        try:
            for run in _runs(file_format, partial, passes.output_names):
                verification = verify(run, network, pictures)
                if not verification.passed:
                    raise VerificationError("the graph's outputs differ from PyTorch's", verification)
        except GraphError as error:
            raise VerificationError(str(error)) from error
    return verification


def _runs(file_format: Format, path: Path, output_names: tuple[str, ...]) -> Iterator[Run]:
    """The written file as it will be run: a fused one without the kernels' library and, where it is built, with it."""
    yield file_format.run(path, output_names)
    if file_format is FUSED[ONNX.name] and library_path().is_file():
        yield onnx_run(path, output_names, library_path())


@contextmanager
def naming_layers(network: SelfGradientNetwork, graph: fx.GraphModule) -> Iterator[None]:
    """Within, an error about an operator says which layer calls it."""
    try:
        yield
    except CaptureError as error:
        layer = None
        if error.operator is not None:
            with suppress(Exception):  # of the user's network, which may raise anything: the error at hand says more
                layer = layer_of_operator(network, error.operator, example_image(graph)[:1])
        if layer is None:
            raise
        raise CaptureError(f"layer {layer}: {error}", error.operator) from error
