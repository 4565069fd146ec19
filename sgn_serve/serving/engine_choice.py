"""Choose the engine and the precision that a graph is served in: what SGN_ENGINE says, or with auto the best that fits.

OpenVINO in bfloat16 is the fastest engine on processors that have bfloat16 products, and answers slightly differently.
So it is chosen only for a graph whose answers were compared, and not where somebody asked for something else.
"""

import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnxruntime

from sgn_serve.graph_format import BF16, BF16_KEY, MIN_AGREEMENT
from sgn_serve.inference.classifier import ENGINE_NAMES, Classifier
from sgn_serve.inference.engines import CUDA, EngineError
from sgn_serve.inference.graph import Graph, GraphError, checked_bf16
from sgn_serve.process.processor import bfloat16_products
from sgn_serve.records import EngineUsed
from sgn_serve.refusals import one_line
from sgn_serve.serving.figures import read_figures
from sgn_serve.setting_types import AUTO_ENGINE, ONNX_RUNTIME, OPENVINO
from sgn_serve.settings import Settings

logger = logging.getLogger("bentoml.sgn_serve")

FLOAT32 = "float32"


@dataclass(frozen=True)
class EngineChoice:
    """The engine that a graph is served on.

    Attributes:
        engine: onnxruntime or openvino.
        precision: The precision that it is asked for: None for float32, or one such as bf16.
        reason: Why, in one line, for the log and the model card.
    """

    engine: str
    precision: str | None
    reason: str


def choose_engine(graph: Graph, settings: Settings) -> EngineChoice:
    """Choose the engine for a graph. Nothing is started, so it takes no time.

    Args:
        graph: The graph.
        settings: The settings of the service.

    Returns:
        With SGN_ENGINE=auto, OpenVINO in bfloat16 where all of these hold, and else ONNX Runtime:

        - SGN_PROVIDERS names no providers of ONNX Runtime, and it has none for a GPU;
        - OpenVINO is installed;
        - the processor multiplies bfloat16 numbers;
        - bfloat16 gives float32's answer for MIN_AGREEMENT of the pictures, as the graph or the figures beside it say.

        A graph that was exported for a reduced precision is served in that one.
    """
    exported = graph.description.precision
    if settings.engine != AUTO_ENGINE:
        return EngineChoice(settings.engine, exported, f"SGN_ENGINE={settings.engine}")
    if settings.providers:
        reason = f"SGN_PROVIDERS={','.join(settings.providers)} is ONNX Runtime's"
        return EngineChoice(ONNX_RUNTIME, exported, reason)
    if exported is not None:
        engine = OPENVINO if exported == BF16 else ONNX_RUNTIME
        return EngineChoice(engine, exported, f"the graph was exported for {exported}")
    if CUDA in onnxruntime.get_available_providers():
        return EngineChoice(ONNX_RUNTIME, None, "it can use a GPU")
    lacking = _lacking()
    if lacking is not None:
        return EngineChoice(ONNX_RUNTIME, None, lacking)
    found = bf16_agreement(graph)
    if found is None:
        return EngineChoice(ONNX_RUNTIME, None, "how well bfloat16's answers agree was not measured for this graph")
    agrees = f"bfloat16 gives float32's answer for {100 * found['agreement']:.4g} % of the pictures"
    if found["agreement"] < MIN_AGREEMENT:
        return EngineChoice(ONNX_RUNTIME, None, f"{agrees}, which is less than {100 * MIN_AGREEMENT:g} %")
    return EngineChoice(OPENVINO, BF16, f"the processor has {' and '.join(bfloat16_products())}, and {agrees}")


def bf16_agreement(graph: Graph) -> Mapping[str, Any] | None:
    """Return how often bfloat16 gives the answer of float32: what the graph says, else the figures beside it.

    Returns:
        The JSON of BF16_KEY. None where neither says it, or where the figures are not of this very graph.
    """
    if graph.description.bf16 is not None:
        return graph.description.bf16
    found = read_figures(graph).values.get(BF16_KEY)
    try:
        checked = None if found is None else checked_bf16(found)
    except ValueError as error:
        logger.warning("the figures beside %s: %s; export it again", graph.path, error)
        return None
    return checked if checked is None or checked.get("graph_sha256") == graph.file_sha256 else None


def start_chosen(graph: Graph, settings: Settings) -> tuple[Classifier, EngineChoice]:
    """Start a graph on the engine that is chosen for it.

    An engine that was chosen and not asked for, and that cannot run the graph, gives way to ONNX Runtime.

    Raises:
        EngineError: See Classifier.
        GraphError: See Classifier.
    """
    choice = choose_engine(graph, settings)
    try:
        return _start(graph, settings, choice), choice
    except (EngineError, GraphError) as error:
        if settings.engine != AUTO_ENGINE or choice.engine == ONNX_RUNTIME or graph.description.precision is not None:
            raise
        choice = EngineChoice(ONNX_RUNTIME, None, f"OpenVINO cannot run it in bfloat16 ({one_line(error)})")
    return _start(graph, settings, choice), choice


def engine_used(classifier: Classifier, choice: EngineChoice, settings: Settings) -> EngineUsed:
    """Return what the model card tells of the engine."""
    return EngineUsed(
        name=ENGINE_NAMES[choice.engine],
        providers=classifier.providers,
        precision=choice.precision or FLOAT32,
        chosen="auto" if settings.engine == AUTO_ENGINE else "setting",
        reason=choice.reason,
    )


def _start(graph: Graph, settings: Settings, choice: EngineChoice) -> Classifier:
    return Classifier(graph, settings.providers, settings.threads, choice.engine, choice.precision)


def _lacking() -> str | None:
    """Return what this machine lacks for bfloat16 on OpenVINO, None where it lacks nothing."""
    if importlib.util.find_spec("openvino") is None:
        return "OpenVINO is not installed"
    if not bfloat16_products():
        return "the processor has no bfloat16 products"
    return None
