"""Measure what self_gradient=auto costs on real pictures, as ratios to ONNX Runtime's plain float32 pass.

How many pictures need the second pass depends on the pictures, so random ones will not do. The network is the bundled
one, whose threshold was found on validation pictures, run by the service's own classifier. Each contender has a process
of its own, and they take turns over the same pictures. The clean pictures are timed.

The answers are compared with those of the block always on in float32, on clean pictures and after PGD-20.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.engines.process import AskedProcess
from benchmarks.errors import BenchmarkError
from export.check.agreement import STEP_SIZE, STEPS
from export.check.pictures import pictures_under
from sgn_serve.common import markdown
from sgn_serve.inference.graph import read_graph
from sgn_serve.serving.model_card import model_card
from sgn_serve.settings import BUNDLED_MODEL, Settings
from training.attacks.projected_gradient import ProjectedGradientAscent
from training.attacks.views import held_view
from training.checkpoint import load_checkpoint
from training.common.in_batches import in_batches
from training.config import EPS

WORKER = "benchmarks.engines.auto_worker"
PAUSE_S = 0.05
"""Pause between two contenders' turns, so that the threads of the one before rest."""
TWICE = "auto, every picture both ways"
OVER_ALL = 2.0
"""Threshold of auto that no difference of two probabilities reaches."""
WARM_UP = 1
"""Turns before those that count: OpenVINO prepares itself for each size of a batch that it has not met."""


@dataclass(frozen=True)
class Contender:
    """A row of the table.

    Attributes:
        engine: onnxruntime or openvino.
        precision: float32 or bf16.
        mode: on, off, auto, or twice: auto with a threshold under which every answer is, so that every picture takes
            the plain pass and both passes after it. No picture can cost more.
    """

    engine: str
    precision: str
    mode: str

    @property
    def name(self) -> str:
        """The row's title."""
        engine = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}[self.engine]
        mode = {"on": "block always on", "off": "block off", "auto": "auto", "twice": TWICE}[self.mode]
        return f"{mode}: {engine}, {self.precision}"


ENGINES = (("onnxruntime", "float32"), ("openvino", "bf16"))
CONTENDERS = tuple(Contender(*engine, mode) for engine in ENGINES for mode in ("off", "on", "auto", "twice"))
REFERENCE = CONTENDERS[0].name
ALWAYS_ON = CONTENDERS[1].name
"""The row whose answers the others are compared with."""


@dataclass(frozen=True)
class Task:
    """The pictures to measure on.

    Attributes:
        graph: The graph's file. Its checkpoint is the .safetensors beside it.
        folder: Folder of real pictures, or of a folder for each class.
        count: How many clean pictures, evenly spaced by name.
        attacked: How many of them are attacked too.
    """

    folder: Path
    graph: Path = BUNDLED_MODEL
    count: int = 1024
    attacked: int = 512


class AutoWorker:
    """A contender in a process of its own.

    Args:
        contender: The contender.
        graph: The graph's file.
        margin: The threshold of auto.
        threads: CPU threads of one call.
    """

    def __init__(self, contender: Contender, graph: Path, margin: float, threads: int):
        mode = contender.mode
        if mode == "twice":
            mode, margin = "auto", OVER_ALL
        arguments = [contender.engine, contender.precision, mode, str(graph), str(margin), str(threads)]
        self._process = AskedProcess(WORKER, arguments, threads)
        self.close = self._process.close

    def run(self, pictures: Path, batch: int) -> dict[str, Any]:
        """Answer all pictures of a file, and return what the worker measured, or {"error": message}."""
        return self._process.ask(json.dumps({"pictures": str(pictures), "batch": batch}))


def attack(checkpoint: Path, pictures: Tensor) -> Tensor:
    """Return pictures after PGD-20 on the network's own answers, block on, with the first pass held fixed.

    Args:
        checkpoint: The network's checkpoint.
        pictures: (n, 3, H, W) in [0, 1].
    """
    network, info = load_checkpoint(checkpoint)
    view = held_view(network)
    pgd = ProjectedGradientAscent(eps=info.epsilon or EPS, steps=STEPS, step_size=STEP_SIZE, keep_best=False)
    with torch.no_grad():
        labels = torch.cat([network(images).argmax(1) for images in pictures.split(50)])
    torch.manual_seed(0)
    return in_batches(lambda images, own: pgd.perturb(view, images, own), pictures, labels, batch_size=50)


def measure_auto(task: Task, batches: Sequence[int], repeats: int, threads: int) -> dict[str, Any]:
    """Time every contender and compare its answers.

    Args:
        task: The pictures.
        batches: Batch sizes.
        repeats: How many turns count.
        threads: CPU threads of one call.

    Returns:
        The times and ratios by batch size and row, and by row the share of second passes and the agreement.

    Raises:
        BenchmarkError: The network has no threshold, or the reference cannot run.
        PicturesError: The folder has too few pictures.
    """
    graph = read_graph(task.graph)
    mode = model_card(graph, Settings(model_path=task.graph)).auto
    if mode is None:
        raise BenchmarkError(
            f"{task.graph}: it has no threshold of self_gradient=auto; export it with --auto-agreement"
        )
    resize = graph.description.checkpoint.get("resize", "stretch")
    pictures = pictures_under(task.folder, task.count, graph.description.image_size, resize)
    workers = {one.name: AutoWorker(one, task.graph, mode.margin, threads) for one in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        clean, attacked = Path(folder) / "clean.npy", Path(folder) / "attacked.npy"
        np.save(clean, pictures.numpy())
        np.save(attacked, attack(task.graph.with_suffix(".safetensors"), pictures[: task.attacked]).numpy())
        try:
            timed = {str(batch): time_in_turns(workers, clean, batch, repeats) for batch in batches}
            answered = {
                kind: {name: worker.run(path, max(batches)) for name, worker in workers.items()}
                for kind, path in (("clean", clean), ("attacked", attacked))
            }
        finally:
            for worker in workers.values():
                worker.close()
    return {
        "margin": mode.margin,
        "pictures": task.count,
        "attacked_pictures": min(task.attacked, task.count),
        "attack": f"PGD-{STEPS} on the network's own answers, block on, first pass held fixed",
        "reference": REFERENCE,
        "batches": timed,
        "answers": {name: compare(answered, name) for name in workers},
    }


def time_in_turns(workers: Mapping[str, Any], pictures: Path, batch: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Time the contenders in turn, all pictures each.

    Returns:
        Milliseconds a batch, best and median, processor time among them, and the ratios to the reference, by row.
        {"error": message} for a contender that failed.
    """
    times: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    figures: dict[str, dict[str, Any]] = {}
    for turn in range(WARM_UP + repeats):
        for name, worker in workers.items():
            if "error" in figures.get(name, {}):
                continue
            answer = worker.run(pictures, batch)
            if "error" in answer:
                figures[name] = {"error": answer["error"]}
            elif turn >= WARM_UP:
                times[name].append(answer)
                figures[name] = {"peak_mb": round(answer["peak_mb"])}
            time.sleep(PAUSE_S)
    for name, answers in times.items():
        if "error" not in figures[name]:
            share = batch / len(answers[0]["classes"])
            wall, cpu = ([one[key] * share for one in answers] for key in ("ms", "cpu_ms"))
            figures[name] |= {
                "best_ms": round(min(wall), 3),
                "median_ms": round(statistics.median(wall), 3),
                "best_cpu_ms": round(min(cpu), 3),
            }
    if "error" in figures[REFERENCE]:
        raise BenchmarkError(f"{REFERENCE}: {figures[REFERENCE]['error']}")
    for row in figures.values():
        for ratio, key in (
            ("ratio_of_best", "best_ms"),
            ("ratio_of_medians", "median_ms"),
            ("ratio_of_cpu", "best_cpu_ms"),
        ):
            if key in row:
                row[ratio] = round(row[key] / figures[REFERENCE][key], 3)
    return figures


def compare(answered: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Return a row's shares of second passes, and how often it gives the answer of the block always on in float32.

    Args:
        answered: Answers of the workers, by kind of pictures and by row.
        name: The row.
    """
    shares: dict[str, Any] = {}
    for kind, rows in answered.items():
        row = rows[name]
        if "error" in row:
            return {"error": row["error"]}
        equal = np.equal(row["classes"], rows[ALWAYS_ON]["classes"])
        shares[kind] = {
            "agreement": round(float(equal.mean()), 4),
            "second_pass": round(float(np.mean(row["second_pass"])), 4),
        }
    return shares


def auto_table(result: Mapping[str, Any]) -> str:
    """Return the ratios, the shares of second passes and the agreement as a Markdown table."""
    lines = []
    for name, answers in result["answers"].items():
        if "error" in answers:
            lines.append([name, *["-"] * (len(result["batches"]) + 4)])
            continue
        ratios = [f"{rows[name]['ratio_of_best']:.2f}" for rows in result["batches"].values()]
        shares = [
            f"{100 * answers[kind][key]:.{digits}f}"
            for key, digits in (("second_pass", 0), ("agreement", 1))
            for kind in ("clean", "attacked")
        ]
        lines.append([name, *ratios, *shares])
    header = (
        "",
        *(f"batch {batch}" for batch in result["batches"]),
        "second pass, %",
        "after PGD-20",
        "same answer, %",
        "after PGD-20",
    )
    return markdown.table(header, lines, "l" + "r" * (len(header) - 1))
