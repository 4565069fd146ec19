"""Start a graph on ONNX Runtime or OpenVINO: exactly as it was asked for, or with an error that names the fix."""

import importlib.util
from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from sgn_serve.common.onnx_runtime import CPU, start_session
from sgn_serve.common.openvino_runtime import compile_model
from sgn_serve.common.refusals import ServingError

CUDA = "CUDAExecutionProvider"

OPENVINO_PRECISIONS = {None: ("f32", "float32"), "bf16": ("bf16", "bfloat16")}
"""OpenVINO's hint for each precision in the metadata, which it also reports as used, and its other name for it."""


class EngineError(ServingError):
    """An engine, or one of its execution providers, was asked for and cannot be used.

    The message is one line that names the fix.
    """


class Session(Protocol):
    """A graph that is ready to run."""

    def run(self, outputs: list[str], inputs: Mapping[str, NDArray[np.float32]]) -> Sequence[Any]:
        """Run the graph and return the values of the named outputs, in order."""


def onnx_runtime_session(
    model: onnx.ModelProto, threads: int, providers: Sequence[str]
) -> onnxruntime.InferenceSession:
    """Start a graph on ONNX Runtime.

    Args:
        model: The graph.
        threads: CPU threads of one inference.
        providers: Execution providers by ONNX Runtime's names, in order of preference. ONNX Runtime leaves out those
            that it cannot start; the session's get_providers() tells which are active.
    """
    # Threads that wait for the next operator spin, and sleep between two runs. Threads that never spin made a run
    # up to 1.4 times as long, at the same processor time. Those that always do take cores from decoding.
    return start_session(model.SerializeToString(), threads, providers=providers, spinning="in a run")


def resolve_providers(requested: Sequence[str]) -> list[str]:
    """Return ONNX Runtime's names of execution providers, such as "CUDAExecutionProvider" for "cuda".

    Args:
        requested: Short or full names, in any case. If empty, CUDA where this ONNX Runtime was built with it, then the
            CPU.

    Raises:
        EngineError: This ONNX Runtime was built without one of them.
    """
    available = onnxruntime.get_available_providers()
    if not requested:
        names = [name for name in (CUDA, CPU) if name in available]
    else:
        by_short_name = {name.removesuffix("ExecutionProvider").lower(): name for name in available}
        names = []
        for name in requested:
            short = name.lower().removesuffix("executionprovider")
            if short not in by_short_name:
                raise EngineError(
                    f"SGN_PROVIDERS asks for {name}, which this ONNX Runtime does not have; it has "
                    f"{', '.join(by_short_name)} (cuda needs onnxruntime-gpu in the place of onnxruntime, which is the "
                    "same module: uninstall both, then pip install --no-deps onnxruntime-gpu)"
                )
            names.append(by_short_name[short])
    if CUDA in names:
        onnxruntime.preload_dlls()  # loads CUDA and cuDNN from where pip installed them
    return names


class OpenVinoSession:
    """A graph on OpenVINO's CPU device.

    Args:
        model: The graph.
        threads: CPU threads, which all inferences that run at once share.
        precision: The precision to compute in: None for float32, or bf16.
        at_once: Inferences that may run at once. Further ones wait.

    Raises:
        EngineError: OpenVINO is not installed, does not serve this precision, or the processor has no bfloat16.
    """

    def __init__(self, model: onnx.ModelProto, threads: int, precision: str | None, at_once: int = 1):
        if importlib.util.find_spec("openvino") is None:
            wanted, instead = "SGN_ENGINE=openvino", "set SGN_ENGINE=onnxruntime"
            if precision is not None:
                wanted, instead = f"the graph was exported for {precision}", "export it without --precision"
            raise EngineError(
                f"{wanted}, but OpenVINO is not installed; install this package with its extra openvino "
                f"(in a checkout: pip install -e '.[openvino]'), or {instead}"
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
            "NUM_STREAMS": at_once,
            # A pinned thread would wait for its core while decoding, or another process, uses it.
            "ENABLE_CPU_PINNING": False,
        }
        compiled = compile_model(model, settings)
        used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if used not in OPENVINO_PRECISIONS[precision]:
            raise EngineError(
                f"the graph is to be served in {precision or 'float32'}, but OpenVINO computes in {used} on this "
                "processor; export it without --precision"
            )
        self._idle: SimpleQueue[Any] = SimpleQueue()  # a request holds the values of one inference at a time
        for _ in range(at_once):
            self._idle.put(compiled.create_infer_request())

    def run(self, outputs: list[str], inputs: Mapping[str, NDArray[np.float32]]) -> Sequence[Any]:
        """Run the graph and return copies of the named outputs, in order."""
        request = self._idle.get()
        try:
            request.infer(dict(inputs), share_inputs=True)
            return [request.get_tensor(name).data.copy() for name in outputs]
        finally:
            self._idle.put(request)
