"""Run the service's own classifier over real pictures, with the block on, off, or left to the picture.

    python -m benchmarks.engines.auto_worker ENGINE PRECISION MODE GRAPH MARGIN THREADS

ENGINE is onnxruntime or openvino, PRECISION float32 or bf16, MODE on, off or auto. With auto the plain pass of a batch
runs first. Its pictures that need the second pass go on together, as in the service's batcher.

The program reads a line of JSON, {"pictures": FILE, "batch": N}, and answers with one: {"ms": ..., "cpu_ms": ...,
"peak_mb": ..., "classes": [...], "second_pass": [...]}, or {"error": ...}. FILE is a NumPy array (n, 3, H, W).
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.engines.process import answer_lines, peak_mb
from sgn_serve.inference.classifier import Classifier, needs_second_pass
from sgn_serve.inference.graph import read_graph

Answers = tuple[NDArray[np.int64], NDArray[np.bool_]]
"""The class of each picture, (n), and whether both passes ran for it, (n)."""


def answer_batch(classifier: Classifier, images: NDArray[np.float32], mode: str, margin: float) -> Answers:
    """Answer one batch.

    Args:
        classifier: The network.
        images: (n, 3, H, W) in [0, 1].
        mode: "on", "off" or "auto".
        margin: The threshold of auto.
    """
    if mode == "on":
        corrected = classifier.logits(images, self_gradient=True).corrected
        assert corrected is not None, "the block is on"
        return corrected.argmax(1), np.ones(len(images), bool)
    plain = classifier.logits(images, self_gradient=False).plain
    classes = plain.argmax(1)
    which = needs_second_pass(plain, margin) if mode == "auto" else np.zeros(len(images), bool)
    if which.any():
        corrected = classifier.logits(images[which], self_gradient=True).corrected
        assert corrected is not None, "the block is on"
        classes[which] = corrected.argmax(1)
    return classes, which


def answer_all(
    classifier: Classifier, images: NDArray[np.float32], batch: int, mode: str, margin: float
) -> dict[str, Any]:
    """Answer all pictures in batches and return the answers, the time and the peak memory."""
    started, cpu_started = time.perf_counter(), time.process_time()
    answers = [
        answer_batch(classifier, images[start : start + batch], mode, margin) for start in range(0, len(images), batch)
    ]
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    classes, second = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    return {
        "ms": 1000 * seconds,
        "cpu_ms": 1000 * cpu_seconds,
        "peak_mb": peak_mb(),
        "classes": classes.tolist(),
        "second_pass": second.tolist(),
    }


def main() -> int:
    """Answer standard input line by line, and return the exit status."""
    engine, precision, mode, graph, margin, threads = sys.argv[1:]
    classifier: Classifier | None = None
    pictures: dict[str, NDArray[np.float32]] = {}

    def answer(line: str) -> dict[str, Any]:
        nonlocal classifier
        asked = json.loads(line)
        if classifier is None:
            lowered = None if precision == "float32" else precision
            classifier = Classifier(read_graph(Path(graph)), (), int(threads), engine, lowered)
        path = asked["pictures"]
        if path not in pictures:
            pictures[path] = np.load(path)
        return answer_all(classifier, pictures[path], asked["batch"], mode, float(margin))

    return answer_lines(answer)


if __name__ == "__main__":
    sys.exit(main())
