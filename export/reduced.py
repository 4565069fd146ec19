"""Export in reduced precision, compared with float32."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from export.capture.graph import capture
from export.check.agreement import Agreement, agreements_json, measure_agreement
from export.check.extreme_gradients import verify_extreme_gradients
from export.check.pictures import unseen_pictures
from export.check.suitability import SUITABILITY_PICTURES, require_suitable
from export.check.verify import REDUCED_TOLERANCES, Verification, VerificationError, verify
from export.errors import ExportError
from export.exporter import naming_layers
from export.formats.table import FORMATS, Format
from export.network_passes import passes_of
from export.options import ENOUGH_PICTURES, MIN_AGREEMENT, PICTURES, REDUCED_PRECISIONS
from export.output import replacing, writing
from export.rewrite import rewrite
from export.rewrite.precision import lower_precision
from export.stages import begin
from sgn_serve.common.graph_format import LOGITS, METADATA_KEY, PRECISION_KEY, SELF_GRADIENT, SHA256_KEY, file_sha256
from training.config import EPS
from training.foreign.loading import Source, load_network

AGREEMENT_KEY = "agreement_with_float32"
"""Metadata key of a graph in reduced precision: JSON of its Agreements."""

ERRORS_KEY = "errors_against_float32"
"""Metadata key of such a graph: JSON of each output's relative error, for the median and the worst picture."""


class PrecisionError(ExportError):
    """A precision that a format or its engine does not have; the message names the fix."""


@dataclass(frozen=True)
class ReducedReport:
    """Measurements of a graph in reduced precision, against the float32 network.

    Attributes:
        verification: Errors of its outputs at batch 1, 4 and 7.
        agreements: How often it gives the same answer.
    """

    verification: Verification
    agreements: tuple[Agreement, ...]

    def table(self) -> str:
        """Return the measurements as lines of text for a terminal."""
        return "\n".join([self.verification.table(), *(agreement.line() for agreement in self.agreements)])

    def metadata(self) -> dict[str, str]:
        """Return the measurements as metadata of the graph."""
        errors = {
            check.output: {"median": check.median_error, "worst": check.worst_error}
            for check in self.verification.checks  # nearly the same at every batch size; the last one's are kept
        }
        return {AGREEMENT_KEY: agreements_json(self.agreements), ERRORS_KEY: json.dumps(errors)}


class AgreementError(ExportError):
    """A graph in reduced precision that differs from float32 in too many answers; nothing was written.

    Attributes:
        agreements: The measured agreements.
    """

    exit_status = 1

    def __init__(self, message: str, agreements: tuple[Agreement, ...]):
        """Make an error with the agreements that were measured."""
        super().__init__(message)
        self.agreements = agreements

    def details(self) -> str:
        """Return the agreements, a line for each output."""
        return "\n".join(agreement.line() for agreement in self.agreements)


@dataclass(frozen=True)
class Reduced:
    """A reduced precision and the agreement with float32 that it must reach.

    Attributes:
        precision: fp16 or bf16, of the convolutions and the operators between them.
        min_agreement: Share of pictures, in [0, 1], that must keep their top class, both clean and attacked.
        pictures: Number of pictures that the share is measured on, at least PICTURES.
    """

    precision: str
    min_agreement: float = MIN_AGREEMENT
    pictures: int = ENOUGH_PICTURES


def export_reduced(
    file_format: Format,
    checkpoint: Path | Source,
    target: Path,
    pictures_folder: Path,
    reduced: Reduced,
    backbone: nn.Module | None = None,
) -> ReducedReport:
    """Write a checkpoint's network in reduced precision, once it has been compared with float32.

    Args:
        file_format: The kind of file.
        checkpoint: A model.safetensors, or weights of another program; see training.foreign.loading.
        target: The file to write. A good file replaces it in one step; after a failure it is as it was.
        pictures_folder: Folder of real pictures, which may lie in subfolders.
        reduced: The precision, and the agreement that it must reach.
        backbone: A module of your own whose weights the checkpoint holds; see load_network.

    Returns:
        The measurements; they are in the file's metadata too.

    Raises:
        PrecisionError: The format has no such precision.
        VerificationError: The outputs differ by more than the precision explains.
        AgreementError: The answers differ too often.
        ExportError, CheckpointError, WeightsError: See `export_graph`.
    """
    if reduced.precision not in file_format.reduced:
        raise PrecisionError(_not_supported(file_format, reduced.precision))
    file_format.check()
    source = checkpoint if isinstance(checkpoint, Source) else Source(checkpoint)
    network, info = load_network(source, backbone)
    passes = passes_of(network)
    pictures = unseen_pictures(pictures_folder, reduced.pictures, info)
    checked = pictures[:: max(1, len(pictures) // PICTURES)][:PICTURES]
    metadata = {
        METADATA_KEY: info.to_json(),
        SHA256_KEY: file_sha256(source.path),
        PRECISION_KEY: reduced.precision,
        **file_format.metadata,
    }
    with replacing(target, source.path) as partial:
        begin("try the network in PyTorch")
        require_suitable(network, checked[:SUITABILITY_PICTURES], len(info.class_names))
        begin("capture the passes")
        graph = capture(passes, info.image_size)
        begin("rewrite the graph")
        rewrite(graph)
        if not file_format.engine_lowers:
            lower_precision(graph, getattr(torch, REDUCED_PRECISIONS[reduced.precision]))
        begin(f"write {file_format.content} in {reduced.precision}")
        with naming_layers(network, graph), writing(target):
            file_format.save(graph, metadata, partial)
        begin("compare it with PyTorch")
        runner = file_format.runner(partial, passes.output_names)
        verification = verify(runner, passes, checked, REDUCED_TOLERANCES)
        if not verification.passed:
            raise VerificationError(
                f"the graph's outputs differ from float32's by more than {reduced.precision} explains", verification
            )
        if SELF_GRADIENT in passes.output_names and file_format.second_pass is not None:
            begin("check the second pass on extreme self-gradients")
            verify_extreme_gradients(file_format.second_pass(partial), network, checked[:1], REDUCED_TOLERANCES[LOGITS])
        begin(f"compare its answers to {len(pictures):,} pictures, as they are and attacked, with float32's")
        agreements = measure_agreement(runner, network, pictures, info.epsilon or EPS)
        if min(agreement.lowest for agreement in agreements) < reduced.min_agreement:
            raise AgreementError(
                f"{reduced.precision} keeps the answer of fewer than {reduced.min_agreement:.1%} of the pictures; "
                "export in another --precision, or accept it with a lower --min-agreement",
                agreements,
            )
        report = ReducedReport(verification, agreements)
        assert file_format.annotate is not None
        with writing(target):
            file_format.annotate(partial, {**metadata, **report.metadata()})
    return report


def _not_supported(file_format: Format, precision: str) -> str:
    """Return why a format lacks a precision, and which formats have it."""
    reasons = {
        ("onnx", "bf16"): "ONNX Runtime's CPU provider has no bfloat16 convolution",
        ("openvino", "fp16"): "OpenVINO computes in float16 on processors that are not at hand to check it on",
        ("aot", "fp16"): "AOTInductor packages are written in float32 and bfloat16 only",
    }
    formats = [f"--{item.name}" for item in FORMATS if precision in item.reduced]
    return f"{reasons[file_format.name, precision]}: {precision} needs {' or '.join(formats)}"
