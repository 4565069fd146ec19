"""From a checkpoint file to a checked graph file."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import fx, nn

from export.agreement import ENOUGH_PICTURES, Agreement, agreements_json, measure_agreement
from export.capture import CaptureError, capture, example_image, passes_of
from export.formats import FORMATS, FUSED, ONNX, ONNX_TO_QUANTIZE, Format
from export.kernels.fuse import fuse_block
from export.kernels.onnx_functions import library_path
from export.layers import layer_of_operator
from export.onnx import CHECKSUM_KEY, METADATA_KEY, PRECISION_KEY, save_onnx, sha256_of
from export.pictures import pictures_in, pictures_under, structured_pictures
from export.quantization import quantize_first_pass
from export.rewrite import rewrite
from export.rewrite.precision import lower_precision
from export.verify import PICTURES, REDUCED_TOLERANCES, GraphError, Run, Verification, onnx_run, verify
from export.winograd import write_wide_convolutions_by_winograd
from training.checkpoint import load_checkpoint
from training.networks.self_gradient import SelfGradientNetwork

AGREEMENT_KEY = "agreement_with_float32"
"""Metadata key of a graph in reduced precision: JSON of its Agreements."""
ERRORS_KEY = "errors_against_float32"
"""Metadata key of such a graph: JSON of each output's relative error, of the median and the worst picture."""

INT8 = "int8-first-pass"
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
REDUCED_PRECISIONS = (*DTYPES, INT8)
CALIBRATION_PICTURES = 128
EPS = 8 / 255
"""The attack's radius where the checkpoint names none."""


class OutputError(ValueError):
    """A place where the graph cannot be written; the message names it and the fix."""


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
    metadata = {METADATA_KEY: info.to_json(), CHECKSUM_KEY: sha256_of(checkpoint)}
    passes = passes_of(network)
    with _replacing(target, checkpoint) as partial:
        graph = capture(passes, info.image_size)
        if fused:
            fuse_block(graph, network.block)
        rewrite(graph)
        with _naming_layers(network, graph):
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


class PrecisionError(ValueError):
    """A precision that a format or its engine does not have; the message names the fix."""


@dataclass(frozen=True)
class ReducedReport:
    """What was measured of a graph in reduced precision, against the float32 network.

    verification: its outputs' errors at batch 1, 4 and 7
    agreements:   how often it gives the same answer
    """

    verification: Verification
    agreements: tuple[Agreement, ...]

    def table(self) -> str:
        """Lines of text for a terminal."""
        return "\n".join([self.verification.table(), *(agreement.line() for agreement in self.agreements)])

    def metadata(self) -> dict[str, str]:
        """For the graph's metadata."""
        errors = {
            check.output: {"median": check.median_error, "worst": check.worst_error}
            for check in self.verification.checks  # nearly the same at every batch size; the last one's stay
        }
        return {AGREEMENT_KEY: agreements_json(self.agreements), ERRORS_KEY: json.dumps(errors)}


class AgreementError(RuntimeError):
    """A graph in reduced precision that too often answers otherwise than float32; nothing was written.

    agreements: what was measured
    """

    def __init__(self, message: str, agreements: tuple[Agreement, ...]):
        super().__init__(message)
        self.agreements = agreements


@dataclass(frozen=True)
class Reduced:
    """A reduced precision and what it has to be worth.

    precision:     fp16 or bf16 (convolutions and what lies between them), or int8-first-pass
    min_agreement: share of pictures, in [0, 1], that must keep their top class: as they are, and attacked
    pictures:      on how many that is measured, at least PICTURES
    """

    precision: str
    min_agreement: float = 0.995
    pictures: int = ENOUGH_PICTURES


def export_reduced(
    file_format: Format,
    checkpoint: Path,
    target: Path,
    pictures_folder: Path,
    reduced: Reduced,
    backbone: nn.Module | None = None,
) -> ReducedReport:
    """Writes the checkpoint's network in reduced precision, once it has been compared with float32.

    pictures_folder: real pictures, in it or in folders in it; for int8 there must be CALIBRATION_PICTURES more than are
                     compared, which the ranges are taken from
    backbone:        a module of your own that the checkpoint holds the weights of (see load_checkpoint)
    returns:         what was measured; it is in the file's metadata too
    raises what export_graph does, with wider tolerances, PrecisionError where the format has no such precision,
    AgreementError where the answers differ too often
    """
    if reduced.precision not in file_format.reduced:
        raise PrecisionError(_not_supported(file_format, reduced.precision))
    file_format.check()
    network, info = load_checkpoint(checkpoint, backbone)
    passes = passes_of(network)
    calibration = CALIBRATION_PICTURES if reduced.precision == INT8 else 0
    pictures = pictures_under(pictures_folder, reduced.pictures + calibration, info.image_size)
    for_ranges = torch.zeros(len(pictures), dtype=torch.bool)
    # Every so many, so that both parts have pictures of every class.
    for_ranges[torch.arange(calibration) * len(pictures) // max(calibration, 1)] = True
    metadata = {
        METADATA_KEY: info.to_json(),
        CHECKSUM_KEY: sha256_of(checkpoint),
        PRECISION_KEY: reduced.precision,
    }
    with _replacing(target, checkpoint) as partial:
        graph = capture(passes, info.image_size)
        rewrite(graph)
        if reduced.precision in DTYPES and not file_format.engine_lowers:
            lower_precision(graph, DTYPES[reduced.precision])
        with _naming_layers(network, graph):
            writer = ONNX_TO_QUANTIZE if reduced.precision == INT8 else file_format
            writer.save(graph, metadata, partial)
        if reduced.precision == INT8:
            model = quantize_first_pass(onnx.load(partial), pictures[for_ranges])
            write_wide_convolutions_by_winograd(model)
            save_onnx(model, partial)
        compared = pictures[~for_ranges]
        try:
            run = file_format.run(partial, passes.output_names)
            verification = verify(
                run, network, compared[:: max(1, len(compared) // PICTURES)][:PICTURES], REDUCED_TOLERANCES
            )
            if not verification.passed:
                raise VerificationError(
                    f"the graph's outputs differ from float32's by more than {reduced.precision} explains", verification
                )
            agreements = measure_agreement(run, network, compared, info.epsilon or EPS)
        except GraphError as error:
            raise VerificationError(str(error)) from error
        if min(agreement.lowest for agreement in agreements) < reduced.min_agreement:
            raise AgreementError(
                f"{reduced.precision} keeps the answer of fewer than {reduced.min_agreement:.1%} of the pictures; "
                "export in another --precision, or accept it with a lower --min-agreement",
                agreements,
            )
        report = ReducedReport(verification, agreements)
        assert file_format.annotate is not None
        file_format.annotate(partial, {**metadata, **report.metadata()})
    return report


def _not_supported(file_format: Format, precision: str) -> str:
    reasons = {
        ("onnx", "bf16"): "ONNX Runtime's CPU provider has no bfloat16 convolution",
        ("openvino", "fp16"): "OpenVINO computes in float16 on processors that are not at hand to check it on",
        ("openvino", INT8): "OpenVINO 2026.4 computes 8-bit gradients that are off by half",
        ("torchscript", INT8): "TorchScript has no 8-bit convolution that is written as a graph",
        ("aot", "fp16"): "AOTInductor packages are written in float32 and bfloat16 only",
        ("aot", INT8): "AOTInductor packages are written in float32 and bfloat16 only",
    }
    formats = [f"--{item.name}" for item in FORMATS if precision in item.reduced]
    return f"{reasons[file_format.name, precision]}: {precision} needs {' or '.join(formats)}"


@contextmanager
def _naming_layers(network: SelfGradientNetwork, graph: fx.GraphModule) -> Iterator[None]:
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


UNFINISHED: dict[Path, Path] = {}
"""Files that are being written and will be their targets: for whoever ends the process at once."""


@contextmanager
def _replacing(target: Path, checkpoint: Path) -> Iterator[Path]:
    """A file to write to beside `target`, which takes its place on success and is removed on any failure."""
    if target.exists() and target.samefile(checkpoint):
        raise OutputError(f"{target}: is the checkpoint itself, which the graph would replace; pass another PATH")
    if target.is_dir():
        raise OutputError(f"{target}: is a folder; pass the file to write, such as {target / 'model.onnx'}")
    if not target.parent.is_dir():
        raise OutputError(f"{target}: its folder does not exist; create it first")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.touch()  # before the work, which would be in vain
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror}); pass another PATH") from None
    UNFINISHED[partial] = target
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
        UNFINISHED.pop(partial, None)
