"""Run an ONNX file on OpenVINO, in float32 or, where its metadata say so, in bfloat16."""

import importlib.util
import io
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from export.check.verify import EngineError, GraphRunner
from export.errors import ExportError
from export.formats.output_names import require_outputs
from sgn_serve.graph_format import PRECISION_KEY
from training.common.errors import first_line

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


def openvino_runner(path: Path, output_names: tuple[str, ...]) -> GraphRunner:
    """Load an ONNX file onto OpenVINO's CPU device, in the precision that its metadata name.

    Raises:
        OpenVinoError: OpenVINO is missing, or this machine's processor computes in another precision.
        EngineError: The file cannot be loaded, or its outputs are others than `output_names`.
    """
    require_openvino()
    import openvino

    precision = "fp32"
    for item in onnx.load(path).metadata_props:
        if item.key == PRECISION_KEY:
            precision = item.value
    hint = HINTS[precision]
    try:
        core = openvino.Core()
        model = core.read_model(io.BytesIO(path.read_bytes()))  # given a path, it would judge by the file's name
        compiled: Any = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    except Exception as error:  # OpenVINO's exceptions share no base class of their own
        raise EngineError(f"OpenVINO cannot load the graph: {first_line(error)}") from error
    used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if used not in (hint, {"f32": "float32", "bf16": "bfloat16"}[hint]):
        raise OpenVinoError(f"this machine's processor computes in {used}, not in {precision}; leave --precision out")
    require_outputs(sorted(output.any_name for output in compiled.outputs), sorted(output_names))

    def run(images: Tensor) -> dict[str, Tensor]:
        try:
            results = compiled([images.numpy()])
        except Exception as error:
            raise EngineError(f"OpenVINO cannot run the graph at batch {len(images)}: {first_line(error)}") from error
        return {name: torch.from_numpy(results[name].copy()) for name in output_names}

    return run
