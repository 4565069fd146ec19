"""Measure what the block costs at serving time: ONNX Runtime's latency with the block on and off, in one run.

    python -m benchmarks.block_cost

Writes results/block_cost.json. It holds the best latency of many alternating calls for each batch size, and the ratio.
It also holds how long the graph takes to load, from the file to a network that can answer.
"""

import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.command_line import ROOT, command_parser, errors_told, thread_count, write_result
from benchmarks.provenance import commit
from sgn_serve.common.error_text import say
from sgn_serve.common.markdown import table
from sgn_serve.inference.classifier import Classifier
from sgn_serve.inference.engines import EngineError
from sgn_serve.inference.graph import GraphError, read_graph
from sgn_serve.settings import BUNDLED_MODEL

LOADS = 10
RESULT = ROOT / "results" / "block_cost.json"


def latency_ms(classifier: Classifier, batch: int, repeats: int) -> dict[str, float]:
    """Return the best of `repeats` calls with the block on and off, which alternate to meet the same disturbances."""
    height, width = classifier.description.image_size
    images = np.random.default_rng(0).random((batch, 3, height, width), dtype=np.float32)
    best = {True: float("inf"), False: float("inf")}
    for _ in range(repeats):
        for block in best:
            start = time.perf_counter()
            classifier.logits(images, self_gradient=block)
            best[block] = min(best[block], 1000 * (time.perf_counter() - start))
    ratio = best[True] / best[False]
    return {"block_on_ms": round(best[True], 3), "block_off_ms": round(best[False], 3), "ratio": round(ratio, 2)}


def load_ms(model: Path, threads: int, repeats: int = LOADS) -> dict[str, float]:
    """Return the best and the median of `repeats` loads, and the first one, which no cache has helped."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        Classifier(read_graph(model), ("cpu",), threads)
        times.append(1000 * (time.perf_counter() - start))
    return {"best": round(min(times[1:])), "median": round(statistics.median(times[1:])), "first": round(times[0])}


@errors_told
def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = command_parser("benchmarks.block_cost", __doc__)
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="exported graph (default: the bundled one)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], help="batch sizes")
    parser.add_argument("--repeats", type=int, default=50, help="calls per batch size and block state")
    parser.add_argument("--threads", type=thread_count, default=2, help="CPU threads of one call")
    options = parser.parse_args(arguments)
    try:
        graph = read_graph(options.model)
        load = load_ms(options.model, options.threads)
        classifier = Classifier(graph, ("cpu",), options.threads)
    except (GraphError, EngineError) as error:
        say(f"error: {error}")
        return 2
    result: dict[str, Any] = {
        "command": "python -m benchmarks.block_cost",
        "model": graph.description.sha256,
        "threads": options.threads,
        "repeats": options.repeats,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "git_commit": commit(),
        "load_ms": load,
        "latency": {},
    }
    print(f"loading: {load['median']} ms, at first {load['first']} ms")
    for batch in options.batches:
        result["latency"][str(batch)] = latency_ms(classifier, batch, options.repeats)
    rows = [[batch, *map(str, figures.values())] for batch, figures in result["latency"].items()]
    print(table(("batch", "block on, ms", "block off, ms", "ratio"), rows, "rrrr"))
    write_result(RESULT, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
