"""Run an ONNX file on OpenVINO, in float32 or, where its metadata say so, in bfloat16."""

import importlib.util
import io
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from export.check.extreme_gradients import SecondPassRunner
from export.check.verify import GraphRunner, UnusableGraphError
from export.errors import ExportError
from export.formats.onnx import second_pass_of
from export.formats.output_names import require_outputs
from sgn_serve.common.error_text import first_line
from sgn_serve.common.graph_format import INPUT, LOGITS, PRECISION_KEY, SELF_GRADIENT
from sgn_serve.common.openvino_runtime import import_openvino

HINTS = {"fp32": "f32", "bf16": "bf16"}
"""OpenVINO's names of our precisions."""


class OpenVinoError(ExportError):
    """OpenVINO, or a processor that computes what is asked of it, is missing; the message names the fix."""


def require_openvino() -> None:
    """Check that OpenVINO is installed.

    Raises:
        OpenVinoError: It is not.
    """
    if importlib.util.find_spec("openvino") is None:
        raise OpenVinoError("--openvino checks the graph on OpenVINO, which is missing: pip install -e '.[openvino]'")


def _precision(path: Path) -> str:
    """Return the precision that a file's metadata name, fp32 where they name none."""
    named = [item.value for item in onnx.load(path).metadata_props if item.key == PRECISION_KEY]
    return named[0] if named else "fp32"


def _compiled(content: bytes, precision: str) -> Any:
    """Return a model, compiled for the CPU.

    Raises:
        OpenVinoError: OpenVINO is missing, or this machine's processor computes in another precision.
        UnusableGraphError: The model cannot be loaded.
    """
    require_openvino()
    hint = HINTS[precision]
    try:
        core = import_openvino().Core()
        model = core.read_model(io.BytesIO(content))  # given a path, it would judge by the file's name
        compiled: Any = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    except Exception as error:  # OpenVINO's exceptions share no base class of their own
        raise UnusableGraphError(f"OpenVINO cannot load the graph: {first_line(error)}") from error
    used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if used not in (hint, {"f32": "float32", "bf16": "bfloat16"}[hint]):
        raise OpenVinoError(f"this machine's processor computes in {used}, not in {precision}; leave --precision out")
    return compiled


def openvino_second_pass(path: Path) -> SecondPassRunner:
    """Load the second pass of a written file onto OpenVINO's CPU device, in the precision that its metadata name."""
    compiled = _compiled(second_pass_of(onnx.load(path)), _precision(path))

    def run(images: Tensor, gradients: Tensor) -> Tensor:
        results = compiled({INPUT: images.numpy(), SELF_GRADIENT: gradients.numpy()})
        return torch.from_numpy(results[LOGITS].copy())

    return run


def openvino_runner(path: Path, output_names: tuple[str, ...]) -> GraphRunner:
    """Load an ONNX file onto OpenVINO's CPU device, in the precision that its metadata name.

    Raises:
        OpenVinoError: OpenVINO is missing, or this machine's processor computes in another precision.
        UnusableGraphError: The file cannot be loaded, or its outputs are others than `output_names`.
    """
    compiled = _compiled(path.read_bytes(), _precision(path))
    require_outputs(sorted(output.any_name for output in compiled.outputs), sorted(output_names))

    def run(images: Tensor) -> dict[str, Tensor]:
        try:
            results = compiled([images.numpy()])
        except Exception as error:
            raise UnusableGraphError(
                f"OpenVINO cannot run the graph at batch {len(images)}: {first_line(error)}"
            ) from error
        return {name: torch.from_numpy(results[name].copy()) for name in output_names}

    return run
