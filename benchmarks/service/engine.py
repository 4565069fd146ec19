"""Measure ONNX Runtime alone on batches of decoded pictures: the most that a service on this machine could reach.

    python -m benchmarks.service.engine GRAPH THREADS BATCH SECONDS

It prints pictures a second, block on. It is a process of its own, so that its threads end with it.
"""

import sys
import time
from pathlib import Path

import numpy as np

from sgn_serve.common.graph_format import INPUT, LOGITS
from sgn_serve.common.onnx_runtime import start_session


def pictures_per_second(graph: Path, threads: int, batch: int, seconds: float) -> float:
    """Return how many pictures a second ONNX Runtime answers.

    Args:
        graph: The exported graph.
        threads: CPU threads of one run.
        batch: Pictures of one run.
        seconds: How long to measure, after one run that does not count.
    """
    session = start_session(graph, threads)
    height, width = session.get_inputs()[0].shape[2:]
    images = np.random.default_rng(0).random((batch, 3, height, width), np.float32)
    session.run([LOGITS], {INPUT: images})
    runs, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        session.run([LOGITS], {INPUT: images})
        runs += 1
    return runs * batch / (time.perf_counter() - started)


if __name__ == "__main__":
    path, thread_count, size, duration = sys.argv[1:]
    print(pictures_per_second(Path(path), int(thread_count), int(size), float(duration)))
