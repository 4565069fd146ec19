"""The process that tries a model, started by sgn_serve/serving/trial.py: it may hang, crash or eat memory alone.

Its argument is the process id of the one that started it. It reads settings as JSON from stdin. It loads the model with
the same engine, providers and threads as the service, makes its model card, and sends pictures through it. To stdout it
writes a line when it begins, and one JSON object.
"""

import json
import os
import re
import sys
from dataclasses import asdict
from typing import Any

from sgn_serve.common.error_text import one_line
from sgn_serve.common.onnx_runtime import CPU
from sgn_serve.common.parent_process import end_with_starting_thread
from sgn_serve.common.refusals import ServingError
from sgn_serve.inference.classifier import Classifier
from sgn_serve.inference.engines import EngineError, resolve_providers
from sgn_serve.inference.graph import Graph, GraphError, read_graph
from sgn_serve.inference.output_check import NetworkOutputError, check_outputs
from sgn_serve.process.confinement import bound_resources
from sgn_serve.process.cores import usable_cores
from sgn_serve.process.signal_thread import unblock_signals
from sgn_serve.serving.engine_choice import FLOAT32, EngineChoice, engine_used, start_chosen
from sgn_serve.serving.examples import read_examples
from sgn_serve.serving.model_card import model_card
from sgn_serve.setting_types import OPENVINO
from sgn_serve.settings import Settings

_OUT_OF_MEMORY = re.compile(r"MemoryError|Failed to allocate memory|bad.alloc", re.IGNORECASE)


def main() -> int:
    """Try the model that the settings on stdin name, and write what came of it to stdout, as its last line."""
    unblock_signals()
    end_with_starting_thread()
    if os.getppid() != int(sys.argv[1]):  # it ended during the imports: nobody would end this process in time
        return 1
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # an engine may print, too
    settings = Settings.model_validate(json.load(sys.stdin))
    bound(settings)
    answer.write("begun\n")  # the time counts from here on
    answer.flush()
    answer.write(json.dumps(try_here(settings)))
    answer.close()
    return 0


def try_here(settings: Settings) -> dict[str, Any]:
    """Try a model in this process.

    Returns:
        The fields of the Tried of a good model. Those of another one are error, memory and engine. error is one line
        without its end. memory says whether the bound on memory is the reason, and engine whether the engine's own
        output tells more.
    """
    path = settings.model_path
    try:
        graph = read_graph(path)
        classifier, choice = start_chosen(graph, settings)
        card = model_card(graph, settings, read_examples(graph), engine_used(classifier, choice, settings))
        try:
            check_outputs(classifier, max(settings.max_batch, settings.max_images))
        except NetworkOutputError as error:
            raise GraphError(f"{path}: {error}; export another checkpoint") from None
        except Exception as error:  # the engines' exceptions share no base class
            raise GraphError(f"{path}: it cannot answer several pictures at once ({one_line(error)})") from None
    except MemoryError:
        return _refused("", memory=True)
    except ServingError as error:
        memory = _runs_on_cpu(settings) and bool(_OUT_OF_MEMORY.search(str(error)))
        return _refused(str(error), memory=memory, engine=isinstance(error, EngineError))
    summary = _summary(graph, classifier, choice)
    return {"graph_sha256": graph.file_sha256, "summary": summary, "notes": card.notes, "choice": asdict(choice)}


def _refused(error: str, memory: bool = False, engine: bool = False) -> dict[str, Any]:
    return {"error": error, "memory": memory, "engine": engine}


def _summary(graph: Graph, classifier: Classifier, choice: EngineChoice) -> str:
    """Return one line about a good model."""
    description = graph.description
    height, width = description.image_size
    return (
        f"{graph.path}: {len(description.class_names)} classes, {height} x {width} pixels, "
        f"{'with' if description.has_block else 'without'} self-gradient block, on {classifier.runs_on} in "
        f"{choice.precision or FLOAT32}: {choice.reason}"
    )


def bound(settings: Settings) -> None:
    """Bound this process's CPU time and address space, behind the bounds that the parent watches over.

    The address space may grow by twice the memory that is allowed, since allocators reserve more than they use. Beside
    CUDA there is no such bound: its driver reserves as many addresses as the machine has memory.
    """
    more_bytes = 2 * settings.trial_bytes if _runs_on_cpu(settings) else None
    bound_resources(int(settings.trial_seconds * usable_cores()) + 60, more_bytes)


def _runs_on_cpu(settings: Settings) -> bool:
    """Return whether no driver of a GPU will be loaded."""
    try:
        return settings.engine == OPENVINO or resolve_providers(settings.providers) == [CPU]
    except EngineError:  # told by the classifier
        return True


if __name__ == "__main__":
    sys.exit(main())
