"""Is a stride-2 input gradient faster as ordinary convolutions than as the ConvTranspose that the export leaves it?

    python -m benchmarks.strided_gradients

Writes results/tried/strided_gradients.json: time of both passes of WRN-16-2 on ONNX Runtime with every such pair (that
of a 3x3 convolution, and of the 1x1 shortcut beside it, added) written in three other ways, as ratios to the exported
graph, taking turns in one run. A test holds each way's answers against the exported graph's.

Of the four output pixels that one input pixel reaches, each takes some of the nine weights: 1, 2, 2 and 4 of them.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from benchmarks.engines.files import SHAPE, write_checkpoint, write_ours
from benchmarks.provenance import commit, processor, versions
from export.onnx_passes.blocked_layout import drop_unused

RESULT = Path(__file__).parents[1] / "results" / "tried" / "strided_gradients.json"
ARCHITECTURE = "wrn-16-2"
TAPS = ({0: 1}, {0: 2, 1: 0})
"""For an even and an odd output row or column: how far ahead in the input, which row or column of the kernel."""
Array = NDArray[np.float32]


class Pair:
    """Two stride-2 input gradients that are added: nodes that replace them are collected in `nodes`.

    wide, narrow: the 3x3 and the 1x1 ConvTranspose
    total:        the sum's name
    """

    def __init__(self, model: onnx.ModelProto, wide: NodeProto, narrow: NodeProto, total: str):
        weights = {item.name: item for item in model.graph.initializer}
        self.model, self.wide, self.narrow, self.total = model, wide.input[0], narrow.input[0], total
        kernel, shortcut = (numpy_helper.to_array(weights[node.input[1]]) for node in (wide, narrow))
        self.kernel: Array = kernel.swapaxes(0, 1)  # (out, in, 3, 3)
        self.shortcut: Array = shortcut.swapaxes(0, 1)
        self.nodes: list[NodeProto] = []

    def weights_of(self, row: int, column: int) -> Array:
        """(out, in, 2, 2): what the pixel of that parity takes, 0 where it takes nothing."""
        weights = np.zeros((*self.kernel.shape[:2], 2, 2), np.float32)
        for down, tap in TAPS[row].items():
            for across, other in TAPS[column].items():
                weights[:, :, down, across] = self.kernel[:, :, tap, other]
        return weights

    def constant(self, name: str, value: NDArray[Any]) -> str:
        name = f"{self.total}_{name}"
        self.model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        output = f"{self.total}_{name}" if name else self.total
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def convolution(self, image: str, name: str, weights: Array) -> str:
        height, width = weights.shape[2:]
        pads = [0, 0, height - 1, width - 1]
        constant = self.constant(f"{name}_weights", weights)
        return self.add("Conv", [image, constant], name, kernel_shape=[height, width], pads=pads)

    def four_pixels(self) -> list[str]:
        """A convolution for each, without needless products; the shortcut reaches the even one alone."""
        even = self.convolution(self.wide, "even", self.weights_of(0, 0)[:, :, :1, :1])
        even = self.add("Add", [even, self.convolution(self.narrow, "shortcut", self.shortcut)], "sum")
        return [
            even,
            self.convolution(self.wide, "right", self.weights_of(0, 1)[:, :, :1]),
            self.convolution(self.wide, "below", self.weights_of(1, 0)[:, :, :, :1]),
            self.convolution(self.wide, "both", self.weights_of(1, 1)),
        ]


def to_four_times_the_channels(pair: Pair) -> None:
    """One 2x2 convolution to four times the channels, the shortcut likewise with zeros, and DepthToSpace."""
    out = pair.kernel.shape[0]
    weights = np.concatenate([pair.weights_of(row, column) for row in (0, 1) for column in (0, 1)])
    shortcut = np.concatenate([pair.shortcut, np.zeros((3 * out, *pair.shortcut.shape[1:]), np.float32)])
    parts = [pair.convolution(pair.wide, "wide", weights), pair.convolution(pair.narrow, "shortcut", shortcut)]
    pair.add("DepthToSpace", [pair.add("Add", parts, "sum")], "", blocksize=2, mode="DCR")


def one_convolution_a_pixel(pair: Pair) -> None:
    """A convolution for each of the four pixels, and DepthToSpace."""
    joined = pair.add("Concat", pair.four_pixels(), "joined", axis=1)
    pair.add("DepthToSpace", [joined], "", blocksize=2, mode="DCR")


def ordered_by_a_product(pair: Pair) -> None:
    """A convolution for each, put side by side and into order by a product with a permutation matrix."""
    out, width = pair.kernel.shape[0], SHAPE[2] * 16 // pair.kernel.shape[0]  # of WRN-16-2: 32 to 16, 64 to 8
    order = np.zeros((2 * width, 2 * width), np.float32)
    order[np.arange(width), 2 * np.arange(width)] = 1
    order[width + np.arange(width), 2 * np.arange(width) + 1] = 1
    joined = pair.add("Concat", pair.four_pixels(), "joined", axis=3)
    shape = pair.constant("shape", np.array([-1, out, 2 * width, 2 * width]))
    rows = pair.add("Reshape", [joined, shape], "rows")
    pair.add("MatMul", [rows, pair.constant("order", order)], "")


WAYS: dict[str, Callable[[Pair], None]] = {
    "2x2 to four times the channels, DepthToSpace": to_four_times_the_channels,
    "a convolution a pixel, DepthToSpace": one_convolution_a_pixel,
    "a convolution a pixel, ordered by a product": ordered_by_a_product,
}


def rewritten(model: onnx.ModelProto, way: Callable[[Pair], None]) -> onnx.ModelProto:
    """A copy with every pair written that way. raises ValueError where a stride-2 ConvTranspose is left"""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    made_by = {output: node for node in model.graph.node for output in node.output}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        parts = [made_by[name] for name in node.input if name in made_by] if node.op_type == "Add" else []
        if len(parts) == 2 and all(map(_is_strided, parts)):
            wide, narrow = sorted(parts, key=lambda part: -max(_attribute(part, "kernel_shape")))
            pair = Pair(model, wide, narrow, node.output[0])
            way(pair)
            nodes += pair.nodes
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]
    drop_unused(model)
    if any(map(_is_strided, model.graph.node)):
        raise ValueError("a stride-2 input gradient is not one of a pair")
    return model


def _attribute(node: NodeProto, name: str) -> Any:
    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), None)


def _is_strided(node: NodeProto) -> bool:
    return node.op_type == "ConvTranspose" and _attribute(node, "strides") == [2, 2]


def _session(model: bytes | str, threads: int, folded: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if folded is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def exported(folder: Path) -> onnx.ModelProto:
    """What the export writes, with constants folded as ONNX Runtime does when it loads it."""
    checkpoint, graph, folded = folder / "model.safetensors", folder / "model.onnx", folder / "folded.onnx"
    write_checkpoint(ARCHITECTURE, checkpoint)
    write_ours(checkpoint, graph)
    _session(str(graph), 1, folded)
    return onnx.load(folded)


def measure(models: dict[str, bytes], batch: int, repeats: int, threads: int) -> dict[str, dict[str, float]]:
    """Best and median of so many turns by name, in ms; the first model is what the others are compared with."""
    images = np.random.default_rng(0).random((batch, *SHAPE), dtype=np.float32)
    sessions = {name: _session(model, threads) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(2 + repeats):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, {"image": images})
            if turn >= 2:
                times[name].append(1000 * (time.perf_counter() - start))
    reference = min(next(iter(times.values())))
    return {
        name: {
            "best_ms": round(min(values), 3),
            "median_ms": round(statistics.median(values), 3),
            "ratio_of_best": round(min(values) / reference, 3),
        }
        for name, values in times.items()
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.strided_gradients", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], help="batch sizes")
    parser.add_argument("--repeats", type=int, default=60, help="turns of every way at every batch size")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of one call")
    parser.add_argument("--output", type=Path, default=RESULT, help="JSON file")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        model = exported(Path(folder))
    models = {"ConvTranspose, as exported": model.SerializeToString()}
    models |= {name: rewritten(model, way).SerializeToString() for name, way in WAYS.items()}
    result: dict[str, Any] = {
        "command": "python -m benchmarks.strided_gradients",
        "architecture": ARCHITECTURE,
        "threads": options.threads,
        "repeats": options.repeats,
        "versions": versions(("onnxruntime",)),
        "processor": processor(),
        "git_commit": commit(),
        "batches": {},
    }
    for batch in options.batches:
        result["batches"][str(batch)] = measure(models, batch, options.repeats, options.threads)
        print(batch, json.dumps(result["batches"][str(batch)], indent=1), flush=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
