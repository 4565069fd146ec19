"""A graph on its engine: execution providers, threads, and the two ways through it, block on and block off."""

import logging
import re
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from sgn_serve.graph_format import INPUT, LOGITS, PLAIN_LOGITS, SELF_GRADIENT
from sgn_serve.inference.engines import EngineError, OpenVinoSession, Session
from sgn_serve.inference.graph import Description, Graph, GraphError
from sgn_serve.process.cores import usable_cores
from sgn_serve.settings import ONNX_RUNTIME, OPENVINO

logger = logging.getLogger("bentoml.sgn_serve")

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
ENGINE_NAMES = {ONNX_RUNTIME: "ONNX Runtime", OPENVINO: "OpenVINO"}


@dataclass(frozen=True)
class Logits:
    """plain: (N, classes), block off
    corrected:  (N, classes), block on, or None where it was not asked for
    gradient:   (N, 3, H, W), the self-gradient, or None where it was not asked for
    """

    plain: NDArray[np.float32]
    corrected: NDArray[np.float32] | None
    gradient: NDArray[np.float32] | None = None

    def __getitem__(self, some: slice) -> "Logits":
        """Of some of the pictures."""
        return Logits(*(None if values is None else values[some] for values in self._all()))  # type: ignore[arg-type]

    def _all(self) -> tuple[NDArray[np.float32] | None, ...]:
        return (self.plain, self.corrected, self.gradient)


class Classifier:
    """Runs a graph, in one pass (block off) or two (block on).

    graph:     as read_graph returns it
    providers: ONNX Runtime's execution providers by preference, such as ("cuda", "cpu"); empty: CUDA where it works,
               else the CPU
    threads:   CPU threads of one inference; 0 for all cores that this process may use
    engine:    onnxruntime or openvino, which has no providers to choose from

    raises EngineError for an engine or a provider that is not active afterwards, GraphError for a graph that does not
    run or whose logits do not match its class names
    """

    def __init__(self, graph: Graph, providers: tuple[str, ...] = (), threads: int = 0, engine: str = ONNX_RUNTIME):
        if engine != ONNX_RUNTIME and providers:
            raise EngineError(
                f"SGN_PROVIDERS={','.join(providers)} is for ONNX Runtime and has no effect with SGN_ENGINE={engine}; "
                "leave one of them out"
            )
        if engine == ONNX_RUNTIME and graph.description.precision == "bf16":
            raise EngineError(
                f"{graph.path} was exported for bf16, which ONNX Runtime would compute in float32; set "
                "SGN_ENGINE=openvino, or export it without --precision"
            )
        self.description = graph.description
        self.engine = engine
        self.providers = resolve_providers(providers) if engine == ONNX_RUNTIME else []
        self._threads = threads or usable_cores()
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = self._threads
        self._options.inter_op_num_threads = 1
        # Threads that spin while they have nothing to do would take the cores from decoding and from the event loop.
        self._options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._options.log_severity_level = 3  # errors only: its warnings are about the machine, not about the graph
        try:
            # Two sessions, because one runs all of its graph whatever is asked of it.
            self._plain: Session = self._session(graph.cut([PLAIN_LOGITS]), explicit=bool(providers))
            self._both: Session | None = None
            if graph.description.has_block:
                self._both = self._session(graph.cut(two_pass_outputs(graph.description)), explicit=bool(providers))
            self._check_classes()
        except EngineError:
            raise
        except Exception as error:  # the engines' exceptions share no base class
            raise GraphError(f"{graph.path}: {ENGINE_NAMES[engine]} cannot run it {_refusal(error)}") from None

    @property
    def runs_on(self) -> str:
        """The engine and its providers, for messages."""
        return " ".join([ENGINE_NAMES[self.engine], ", ".join(self.providers)]).strip()

    def logits(self, images: NDArray[np.float32], self_gradient: bool, with_gradient: bool = False) -> Logits:
        """Classifies.

        images:        (N, 3, H, W) RGB in [0, 1]
        self_gradient: two passes, block on, or one, block off
        with_gradient: the self-gradient too, which the two passes work out anyway
        raises ValueError if the block is wanted of a network without one, or the gradient where the graph has no such
        output or the block is off
        """
        if with_gradient and not (self_gradient and self.description.has_gradient):
            raise ValueError("the self-gradient is there with the block on only, of a graph that has it as an output")
        if not self_gradient:
            (plain,) = self._plain.run([PLAIN_LOGITS], {INPUT: images})
            return Logits(plain, None)
        if self._both is None:
            raise ValueError("this network has no self-gradient block")
        outputs = [PLAIN_LOGITS, LOGITS] + ([SELF_GRADIENT] if with_gradient else [])
        return Logits(*self._both.run(outputs, {INPUT: images}))

    def _session(self, model: onnx.ModelProto, explicit: bool) -> Session:
        if self.engine == OPENVINO:
            return OpenVinoSession(model, self._threads, self.description.precision)
        session = onnxruntime.InferenceSession(model.SerializeToString(), self._options, providers=self.providers)
        inactive = [name for name in self.providers if name not in session.get_providers()]
        if not inactive:
            session.disable_fallback()
            return session
        if explicit:
            raise EngineError(
                f"SGN_PROVIDERS asks for {', '.join(inactive)}, which ONNX Runtime could not start (its own message "
                "is above); install what it misses, or set SGN_PROVIDERS=cpu"
            )
        logger.warning("%s could not be started, so the CPU is used; its reason is above", ", ".join(inactive))
        self.providers = [CPU]
        return session

    def _check_classes(self) -> None:
        height, width = self.description.image_size
        black = np.zeros((1, 3, height, width), np.float32)
        logits = self.logits(black, self_gradient=self.description.has_block)
        expected = (1, len(self.description.class_names))
        for values in (logits.plain, logits.corrected):
            if values is not None and values.shape != expected:
                raise ValueError(f"logits of shape {values.shape} for {expected[1]} class names")


def _refusal(error: Exception) -> str:
    """What an engine has against a graph and the fix, in one line, without the place in its own source."""
    text = " ".join(str(error).split())
    reason = re.sub(r"\S+\.(?:h|cc|cpp):\d+ [^(]*\(.*?\) (?=\w)", "", text, count=1)
    opset = re.search(r"Opset (\d+) is .* till opset (\d+)", text)
    if opset:
        reason = f"its opset is {opset[1]}, and ONNX Runtime {onnxruntime.__version__} knows them up to {opset[2]}"
    too_new = opset is not None or "model IR version" in text
    fix = "upgrade onnxruntime, or export it again with this version" if too_new else "export it again"
    return f"({reason[:300]}); {fix}"


def two_pass_outputs(description: Description) -> list[str]:
    """What the two-pass part of a graph answers: the logits, and the self-gradient where the graph has it."""
    return [LOGITS, PLAIN_LOGITS] + ([SELF_GRADIENT] if description.has_gradient else [])


def resolve_providers(requested: tuple[str, ...]) -> list[str]:
    """ONNX Runtime's names of the providers asked for ("cuda" or "CUDAExecutionProvider", in any case).

    requested: empty for CUDA where this ONNX Runtime was built with it, then the CPU
    raises EngineError for one that this ONNX Runtime was built without
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
                    f"{', '.join(by_short_name)} (cuda needs the gpu extra instead of the cpu one)"
                )
            names.append(by_short_name[short])
    if CUDA in names:
        onnxruntime.preload_dlls()  # finds CUDA and cuDNN where pip put them
    return names
