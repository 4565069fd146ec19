"""Export in reduced precision, compared with float32."""

import json
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import nn

from export.capture.graph import capture, passes_of
from export.check.agreement import ENOUGH_PICTURES, Agreement, agreements_json, measure_agreement
from export.check.pictures import pictures_under
from export.check.verify import PICTURES, REDUCED_TOLERANCES, GraphError, Verification, verify
from export.exporter import VerificationError, naming_layers
from export.formats.onnx import save_onnx
from export.formats.table import FORMATS, ONNX_TO_QUANTIZE, Format
from export.onnx_passes.quantization import quantize_first_pass
from export.onnx_passes.winograd import write_wide_convolutions_by_winograd
from export.output import replacing
from export.rewrite import rewrite
from export.rewrite.precision import lower_precision
from sgn_serve.graph_format import METADATA_KEY, PRECISION_KEY, SHA256_KEY
from training.checkpoint import load_checkpoint
from training.common.files import sha256

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
        SHA256_KEY: sha256(checkpoint),
        PRECISION_KEY: reduced.precision,
    }
    with replacing(target, checkpoint) as partial:
        graph = capture(passes, info.image_size)
        rewrite(graph)
        if reduced.precision in DTYPES and not file_format.engine_lowers:
            lower_precision(graph, DTYPES[reduced.precision])
        with naming_layers(network, graph):
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
