"""The libraries that a graph can run on, each as a session like ONNX Runtime's: what was asked for, or an error."""

import importlib.util
import io
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from sgn_serve.refusals import ServingError

OPENVINO_PRECISIONS = {None: ("f32", "float32"), "bf16": ("bf16", "bfloat16")}
"""By the metadata's precision: OpenVINO's hint, and its two names of what it computes in."""


class EngineError(ServingError):
    """An engine, or an execution provider of it, that was asked for and cannot be used; the message, one line, names
    the fix."""


class Session(Protocol):
    """A graph that is ready to run."""

    def run(self, outputs: list[str], inputs: Mapping[str, NDArray[np.float32]]) -> Sequence[Any]:
        """The values of the named outputs, in order."""


class OpenVinoSession:
    """A graph on OpenVINO's CPU device.

    threads:   CPU threads of one inference
    precision: as in the graph's metadata: None for float32, or bf16
    raises EngineError where OpenVINO is not installed, for a precision that it does not serve, and where the processor
    has no bfloat16
    """

    def __init__(self, model: onnx.ModelProto, threads: int, precision: str | None):
        if importlib.util.find_spec("openvino") is None:
            raise EngineError(
                "SGN_ENGINE=openvino, but OpenVINO is not installed; install this package with its extra openvino "
                "(in a checkout: pip install -e '.[openvino]'), or set SGN_ENGINE=onnxruntime"
            )
        if precision not in OPENVINO_PRECISIONS:
            raise EngineError(
                f"SGN_ENGINE=openvino serves graphs in float32 and bf16, and this one is {precision}; export it with "
                "--openvino, or set SGN_ENGINE=onnxruntime"
            )
        hint, *_ = OPENVINO_PRECISIONS[precision]
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # A pinned thread would wait for whoever holds its core: decoding, or another process.
            "ENABLE_CPU_PINNING": False,
        }
        compiled = _compile(model, settings)
        used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if used not in OPENVINO_PRECISIONS[precision]:
            raise EngineError(
                f"the graph was exported for {precision or 'float32'}, but OpenVINO computes in {used} on this "
                "processor; export it without --precision"
            )
        self._request = compiled.create_infer_request()
        self._running = threading.Lock()

    def run(self, outputs: list[str], inputs: Mapping[str, NDArray[np.float32]]) -> Sequence[Any]:
        with self._running:  # the request holds one inference's values
            self._request.infer(dict(inputs), share_inputs=True)
            return [self._request.get_tensor(name).data.copy() for name in outputs]


def _compile(model: onnx.ModelProto, settings: Mapping[str, object]) -> Any:
    import openvino

    core = openvino.Core()
    return core.compile_model(core.read_model(io.BytesIO(model.SerializeToString())), "CPU", dict(settings))
