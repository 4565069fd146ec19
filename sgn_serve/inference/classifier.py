"""Classify with an exported graph: in one pass with the block off, or in two passes with the block on."""

import logging
import re
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from sgn_serve.common.error_text import one_line
from sgn_serve.common.graph_format import BF16, INPUT, LOGITS, PLAIN_LOGITS, SELF_GRADIENT
from sgn_serve.common.onnx_runtime import CPU
from sgn_serve.inference.engines import (
    EngineError,
    OpenVinoSession,
    Session,
    onnx_runtime_session,
    resolve_providers,
)
from sgn_serve.inference.graph import Description, Graph, GraphError
from sgn_serve.process.cores import usable_cores
from sgn_serve.setting_types import ONNX_RUNTIME, OPENVINO

logger = logging.getLogger("bentoml.sgn_serve")

ENGINE_NAMES = {ONNX_RUNTIME: "ONNX Runtime", OPENVINO: "OpenVINO"}


@dataclass(frozen=True)
class Logits:
    """Outputs of the network for a batch of N pictures.

    Attributes:
        plain: Logits with the block off, (N, classes).
        corrected: Logits with the block on, (N, classes), or None if they were not asked for.
        gradient: The self-gradient, (N, 3, H, W), or None if it was not asked for.
        second_pass: Pictures that the second pass ran for with self_gradient=auto, (N). `corrected` holds the plain
            logits of the others then. None with the block on or off.
    """

    plain: NDArray[np.float32]
    corrected: NDArray[np.float32] | None
    gradient: NDArray[np.float32] | None = None
    second_pass: NDArray[np.bool_] | None = None

    def finite(self) -> bool:
        """Return whether all outputs are numbers that can be sent."""
        outputs = (self.plain, self.corrected, self.gradient)
        return all(bool(np.isfinite(output).all()) for output in outputs if output is not None)

    def __getitem__(self, pictures: slice) -> "Logits":
        """Return the outputs for a slice of the batch."""
        return Logits(
            self.plain[pictures],
            None if self.corrected is None else self.corrected[pictures],
            None if self.gradient is None else self.gradient[pictures],
            None if self.second_pass is None else self.second_pass[pictures],
        )


def needs_second_pass(plain: NDArray[np.float32], margin: float) -> NDArray[np.bool_]:
    """Tell for which pictures self_gradient=auto runs the second pass: where the plain answer is not clear.

    Args:
        plain: Logits with the block off, (N, classes).
        margin: The two largest probabilities of a clear answer differ by at least this.

    Returns:
        (N). An answer that is NaN is not clear.
    """
    if plain.shape[1] == 1:
        return np.full(len(plain), margin > 1)
    largest = np.partition(softmax(plain), -2, axis=1)[:, -2:]
    with np.errstate(invalid="ignore"):
        clear: NDArray[np.bool_] = largest[:, 1] - largest[:, 0] >= margin
    return ~clear


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the probabilities of logits, (..., classes) each, computed in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


class Classifier:
    """Runs a graph in one pass (block off) or two (block on).

    Args:
        graph: The graph, from read_graph.
        providers: ONNX Runtime's execution providers in order of preference, such as ("cuda", "cpu"). If empty, CUDA
            where it works, else the CPU.
        threads: CPU threads of all inferences together. 0 for all cores that this process may use.
        engine: onnxruntime or openvino. OpenVINO has no providers to choose from.
        precision: The precision that OpenVINO computes in, such as bf16; None for the graph's own.
        at_once: Inferences that may run at once, at most. They share the threads. One with two threads takes longer
            than half as long as one with one: each operator waits for the thread that ends last.

    Attributes:
        at_once: Inferences that may run at once: no more than there are threads, and one where a provider other than
            the CPU was tried.

    Raises:
        EngineError: The engine cannot be used, or a requested provider is not active.
        GraphError: The graph does not run, or its logits do not match its class names.
    """

    def __init__(
        self,
        graph: Graph,
        providers: tuple[str, ...] = (),
        threads: int = 0,
        engine: str = ONNX_RUNTIME,
        precision: str | None = None,
        at_once: int = 1,
    ):
        if engine != ONNX_RUNTIME and providers:
            raise EngineError(
                f"SGN_PROVIDERS={','.join(providers)} is for ONNX Runtime and has no effect with SGN_ENGINE={engine}; "
                "leave one of them out"
            )
        if engine == ONNX_RUNTIME and graph.description.precision == BF16:
            raise EngineError(
                f"{graph.path} was exported for bf16, which ONNX Runtime would compute in float32; set "
                "SGN_ENGINE=openvino, or export it without --precision"
            )
        self.description = graph.description
        self.engine = engine
        self.precision = precision or graph.description.precision
        self.providers = resolve_providers(providers) if engine == ONNX_RUNTIME else []
        self._threads = threads or usable_cores()
        self.at_once = min(at_once, self._threads) if self.providers in ([], [CPU]) else 1
        try:
            # Two sessions, because a session runs its whole graph whichever outputs it is asked for.
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
        """Run the network on a batch.

        Args:
            images: RGB in [0, 1], (N, 3, H, W).
            self_gradient: True for the block on, in two passes; False for the block off, in one pass.
            with_gradient: Whether to return the self-gradient too. The two passes compute it anyway.

        Raises:
            ValueError: The network has no block, or the self-gradient is asked for with the block off or from a graph
                without that output.
        """
        if with_gradient and not (self_gradient and self.description.has_gradient):
            raise ValueError("the self-gradient needs the block on, and a graph that has it as an output")
        if not self_gradient:
            (plain,) = self._plain.run([PLAIN_LOGITS], {INPUT: images})
            return Logits(plain, None)
        if self._both is None:
            raise ValueError("this network has no self-gradient block")
        outputs = [PLAIN_LOGITS, LOGITS] + ([SELF_GRADIENT] if with_gradient else [])
        return Logits(*self._both.run(outputs, {INPUT: images}))

    def _session(self, model: onnx.ModelProto, explicit: bool) -> Session:
        """Start a part of the graph. explicit: whether somebody asked for these providers."""
        if self.engine == OPENVINO:
            return OpenVinoSession(model, self._threads, self.precision, self.at_once)
        # A thread that calls a session computes too. All callers share its other threads.
        session = onnx_runtime_session(model, self._threads - self.at_once + 1, self.providers)
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
        """Run a black picture and check that there is one logit for each class name."""
        height, width = self.description.image_size
        black = np.zeros((1, 3, height, width), np.float32)
        logits = self.logits(black, self_gradient=self.description.has_block)
        expected = (1, len(self.description.class_names))
        for values in (logits.plain, logits.corrected):
            if values is not None and values.shape != expected:
                raise ValueError(f"logits of shape {values.shape} for {expected[1]} class names")


def _refusal(error: Exception) -> str:
    """Return, in one line, why an engine refuses a graph, and the fix; without the place in the engine's source."""
    text = one_line(error, limit=10_000)  # the reason stands behind a long name of the place in the source
    reason = re.sub(r"\S+\.(?:h|cc|cpp):\d+ [^(]*\(.*?\) (?=\w)", "", text, count=1)
    opset = re.search(r"Opset (\d+) is .* till opset (\d+)", text)
    if opset:
        reason = f"its opset is {opset[1]}, and ONNX Runtime {onnxruntime.__version__} knows them up to {opset[2]}"
    too_new = opset is not None or "model IR version" in text
    fix = "upgrade onnxruntime, or export it again with this version" if too_new else "export it again"
    return f"({reason[:300]}); {fix}"


def two_pass_outputs(description: Description) -> list[str]:
    """Return the outputs of the two-pass part of a graph: the logits, and the self-gradient if the graph has it."""
    return [LOGITS, PLAIN_LOGITS] + ([SELF_GRADIENT] if description.has_gradient else [])
