"""Choose the engine and the precision that a graph is served in: what SGN_ENGINE says, or with auto the best that fits.

OpenVINO in bfloat16 is the fastest engine on processors that have bfloat16 products, and answers slightly differently.
So it is chosen only for a graph whose answers were compared, and not where somebody asked for something else.
"""

import importlib.util
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from sgn_serve.common.error_text import one_line
from sgn_serve.common.graph_format import BF16, BF16_KEY, GRAPH_SHA256_FIELD, MIN_AGREEMENT
from sgn_serve.inference.classifier import ENGINE_NAMES, Classifier, Logits
from sgn_serve.inference.engines import CUDA, EngineError
from sgn_serve.inference.graph import Graph, GraphError, checked_measured
from sgn_serve.process.processor import bfloat16_products
from sgn_serve.records import EngineUsed
from sgn_serve.serving.figures import read_figures
from sgn_serve.setting_types import AUTO_ENGINE, ONNX_RUNTIME, OPENVINO
from sgn_serve.settings import Settings, check_threads

logger = logging.getLogger("bentoml.sgn_serve")

FLOAT32 = "float32"
PICTURES = 4
"""Pictures of noise that the engine which auto chose answers first."""
TURNS = 5
"""Turns of each engine that are timed."""
TIMED_SECONDS = 2.0
"""Time after which no further turn begins. SGN_TRIAL_SECONDS is for both engines together."""
FAR_OFF = 0.25
"""Largest error of an output, as a share of its size. The bundled network's self-gradient has 0.07 in bfloat16, and had
4 where OpenVINO misread an operator."""


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
        The engine. SGN_ENGINE=auto chooses OpenVINO in bfloat16 where all of these hold, and else ONNX Runtime:

        - SGN_PROVIDERS names no providers of ONNX Runtime, and it is not the build for GPUs;
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
        return EngineChoice(ONNX_RUNTIME, None, "this ONNX Runtime is the build for GPUs")
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
        checked = None if found is None else checked_measured(found, BF16_KEY)
    except ValueError as error:
        logger.warning("the figures beside %s: %s; export it again", graph.path, error)
        return None
    return checked if checked is None or checked.get(GRAPH_SHA256_FIELD) == graph.file_sha256 else None


def start_chosen(
    graph: Graph, settings: Settings, tried: EngineChoice | None = None, at_once: int = 1
) -> tuple[Classifier, EngineChoice]:
    """Start a graph on the engine that is chosen for it.

    An engine that was chosen and not asked for gives way to ONNX Runtime where it cannot run the graph. So it does
    where its outputs for some pictures are far from ONNX Runtime's, or where it takes longer. The agreement may have
    been measured elsewhere, and some families of networks are slower on OpenVINO.

    Args:
        graph: The graph.
        settings: The settings of the service.
        tried: The choice of this graph's trial, which is taken as it is. None chooses anew.
        at_once: Inferences that may run at once, see Classifier.

    Raises:
        EngineError: See Classifier.
        GraphError: See Classifier.
        SettingsError: There are too many threads for the cores.
    """
    check_threads(settings)
    if tried is not None:
        return _start(graph, settings, tried, at_once), tried
    choice = choose_engine(graph, settings)
    given = settings.engine != AUTO_ENGINE or graph.description.precision is not None
    if given or choice.engine == ONNX_RUNTIME:
        return _start(graph, settings, choice, at_once), choice
    instead = replace(choice, engine=ONNX_RUNTIME, precision=None)
    try:
        classifier = _start(graph, settings, choice, at_once)
    except (EngineError, GraphError) as error:
        instead = replace(instead, reason=f"OpenVINO cannot run it in bfloat16 ({one_line(error)})")
        return _start(graph, settings, instead, at_once), instead
    reference = _start(graph, settings, instead, at_once)
    try:
        expected = answer_noise(reference)
    except Exception as error:  # the engines' exceptions share no base class
        reason = (
            f"ONNX Runtime cannot run it for several pictures at once ({one_line(error)}), so OpenVINO was not compared"
        )
        return reference, replace(instead, reason=reason)
    try:
        off = largest_error(answer_noise(classifier), expected)
        share = relative_time(classifier, reference) if off <= FAR_OFF else math.inf
    except Exception as error:  # the engines' exceptions share no base class
        reason = f"OpenVINO cannot run it in bfloat16 for several pictures at once ({one_line(error)})"
        return reference, replace(instead, reason=reason)
    if off > FAR_OFF:
        return reference, replace(instead, reason=f"OpenVINO's outputs in bfloat16 are off by {off:.2g} of their size")
    if share > 1:
        return reference, replace(instead, reason=f"OpenVINO in bfloat16 took {share:.2f} of its time")
    return classifier, replace(choice, reason=f"{choice.reason}; it took {share:.2f} of ONNX Runtime's time")


def relative_time(classifier: Classifier, reference: Classifier) -> float:
    """Return how long a batch takes, as a share of what the reference takes: the shortest of some turns of each.

    A slow network gets fewer turns, one at least.

    Args:
        classifier: The network on the engine in question.
        reference: The same network on another engine.
    """
    block = reference.description.has_block
    images = _noise(reference)
    shortest = dict.fromkeys((classifier, reference), math.inf)
    begun = time.perf_counter()
    for _ in range(TURNS):
        for one in shortest:
            start = time.perf_counter()
            one.logits(images, block)
            shortest[one] = min(shortest[one], time.perf_counter() - start)
        if time.perf_counter() - begun > TIMED_SECONDS:
            break
    return shortest[classifier] / shortest[reference]


def answer_noise(classifier: Classifier) -> Logits:
    """Return every output of a network for PICTURES pictures of noise."""
    block = classifier.description.has_block
    return classifier.logits(_noise(classifier), block, block and classifier.description.has_gradient)


def _noise(classifier: Classifier) -> NDArray[np.float32]:
    return np.random.default_rng(0).random((PICTURES, 3, *classifier.description.image_size), np.float32)


def largest_error(found: Logits, expected: Logits) -> float:
    """Return the error of the output that is furthest off, as a share of its size, for the median of some pictures.

    Args:
        found: The outputs of the engine in question.
        expected: The outputs in float32 for the same pictures.
    """
    pairs = ((found.plain, expected.plain), (found.corrected, expected.corrected), (found.gradient, expected.gradient))
    return max(_median_error(one, other) for one, other in pairs if one is not None and other is not None)


def _median_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    rows = (len(expected), -1)
    size = np.linalg.norm(expected.reshape(rows), axis=1)
    error = np.linalg.norm((found - expected).reshape(rows), axis=1) / np.maximum(size, np.finfo(np.float32).tiny)
    return float(np.median(np.where(np.isnan(error), np.inf, error)))


def engine_used(classifier: Classifier, choice: EngineChoice, settings: Settings) -> EngineUsed:
    """Return what the model card tells of the engine."""
    return EngineUsed(
        name=ENGINE_NAMES[choice.engine],
        providers=classifier.providers,
        precision=choice.precision or FLOAT32,
        chosen="auto" if settings.engine == AUTO_ENGINE else "setting",
        reason=choice.reason,
    )


def _start(graph: Graph, settings: Settings, choice: EngineChoice, at_once: int = 1) -> Classifier:
    return Classifier(graph, settings.providers, settings.threads, choice.engine, choice.precision, at_once)


def _lacking() -> str | None:
    """Return what this machine lacks for bfloat16 on OpenVINO, None where it lacks nothing."""
    if importlib.util.find_spec("openvino") is None:
        return "OpenVINO is not installed"
    if not bfloat16_products():
        return "the processor has no bfloat16 products"
    return None
