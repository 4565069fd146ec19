"""Graphs that nobody should serve, by what is wrong with them: the tiny graph, with one thing changed."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sgn_serve.common.graph_format import INPUT, METADATA_KEY, PLAIN_LOGITS, SHA256_KEY
from tests.sgn_serve.tiny_graph import CLASS_NAMES, save_tiny_graph

Change = Callable[[onnx.ModelProto], None]


def save_bad_graph(kind: str, path: Path) -> Path:
    """Write the graph that BAD_GRAPHS calls `kind`."""
    model = onnx.load(save_tiny_graph(path))
    BAD_GRAPHS[kind][0](model)
    path.write_bytes(model.SerializeToString())
    return path


def _metadata(**checkpoint: Any) -> Change:
    """Change fields of the checkpoint's JSON."""

    def change(model: onnx.ModelProto) -> None:
        for item in model.metadata_props:
            if item.key == METADATA_KEY:
                item.value = json.dumps({**json.loads(item.value), **checkpoint})

    return change


def _property(key: str, value: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        helper.set_model_props(model, {**{item.key: item.value for item in model.metadata_props}, key: value})

    return change


def _constant(name: str, values: Any) -> Change:
    """Change the value of a constant."""

    def change(model: onnx.ModelProto) -> None:
        for item in model.graph.initializer:
            if item.name == name:
                item.CopyFrom(numpy_helper.from_array(np.asarray(values, np.float32), name))

    return change


def _gain(*nodes: onnx.NodeProto, constants: Iterable[onnx.TensorProto] = ()) -> Change:
    """Compute the factor `gain` of the logits with these nodes, from the factor `old gain`."""

    def change(model: onnx.ModelProto) -> None:
        for item in model.graph.initializer:
            if item.name == "gain":
                item.name = "old gain"
        rest = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*nodes, *rest])
        model.graph.initializer.extend(constants)

    return change


def _after_logits(*nodes: onnx.NodeProto, constants: Iterable[onnx.TensorProto] = ()) -> Change:
    """Compute the logits with the block off by these nodes, from `made`."""

    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.output[0] == PLAIN_LOGITS:
                node.output[0] = "made"
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(constants)

    return change


def _loop(rounds: int) -> onnx.NodeProto:
    """Return a Loop of so many rounds, from `old gain` to `gain`."""
    gain = helper.make_tensor_value_info("in", TensorProto.FLOAT, [])
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["again"]), helper.make_node("Abs", ["in"], ["out"])],
        "body",
        [helper.make_tensor_value_info("round", TensorProto.INT64, []), _flag("go"), gain],
        [_flag("again"), helper.make_tensor_value_info("out", TensorProto.FLOAT, [])],
    )
    return helper.make_node("Loop", ["rounds", "", "old gain"], ["gain"], body=body)


def _flag(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.BOOL, [])


def _whole(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def _one(name: str, value: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, np.int64), name)


def _size(*sides: int | str) -> Change:
    """Change what the input says about its sides, the batch first."""

    def change(model: onnx.ModelProto) -> None:
        dims = model.graph.input[0].type.tensor_type.shape.dim
        for dim, side in zip(dims, sides, strict=True):
            dim.Clear()
            if isinstance(side, int):
                dim.dim_value = side
            else:
                dim.dim_param = side

    return change


def _both(*changes: Change) -> Change:
    def change(model: onnx.ModelProto) -> None:
        for one in changes:
            one(model)

    return change


def _elsewhere(location: str) -> Change:
    """Say that a constant's value lies in another file."""

    def change(model: onnx.ModelProto) -> None:
        for item in model.graph.initializer:
            if item.name == "shift":
                item.ClearField("raw_data")
                item.data_location = TensorProto.EXTERNAL
                entry = item.external_data.add()
                entry.key, entry.value = "location", location

    return change


_NODES = helper.make_node

BAD_GRAPHS: dict[str, tuple[Change, str]] = {
    "NaN weights": (_constant("gain", np.nan), "plain_logits for a grey picture in a batch of 3 are not finite"),
    "infinite weights": (_constant("gain", np.inf), "are not finite"),
    "NaN with the block on": (
        _constant("shift", np.full((1, 3, 1, 1), np.nan)),
        " logits for a grey picture in a batch of 3 are not finite",
    ),
    "NaN for white": (
        # The mean of white is 1, and 0/0 is NaN.
        _after_logits(
            _NODES("Sub", ["made", "old"], ["less"]),
            _NODES("Div", ["less", "less"], ["one"]),
            _NODES("Mul", ["one", "made"], [PLAIN_LOGITS]),
            constants=[numpy_helper.from_array(np.array(10, np.float32), "old")],
        ),
        "plain_logits for a white picture in a batch of 3 are not finite",
    ),
    "NaN for nine and more": (
        # 0/0 is NaN once the batch is not smaller than nine.
        _gain(
            _NODES("Shape", [INPUT], ["batch of one side"], start=0, end=1),
            _NODES("Squeeze", ["batch of one side"], ["pictures"]),
            _NODES("Less", ["pictures", "nine"], ["few"]),
            _NODES("Cast", ["few"], ["few as number"], to=TensorProto.FLOAT),
            _NODES("Div", ["few as number", "few as number"], ["one"]),
            _NODES("Mul", ["old gain", "one"], ["gain"]),
            constants=[_one("nine", 9)],
        ),
        "plain_logits for a grey picture in a batch of 12 are not finite",
    ),
    "NaN for seven": (
        # 0/0 is NaN where the batch less seven is zero.
        _gain(
            _NODES("Shape", [INPUT], ["batch of one side"], start=0, end=1),
            _NODES("Squeeze", ["batch of one side"], ["pictures"]),
            _NODES("Sub", ["pictures", "seven"], ["more"]),
            _NODES("Cast", ["more"], ["more as number"], to=TensorProto.FLOAT),
            _NODES("Div", ["more as number", "more as number"], ["one"]),
            _NODES("Mul", ["old gain", "one"], ["gain"]),
            constants=[_one("seven", 7)],
        ),
        "plain_logits for a grey picture in a batch of 7 are not finite",
    ),
    "error for twenty and more": (
        _gain(
            _NODES("Shape", [INPUT], ["batch of one side"], start=0, end=1),
            _NODES("Squeeze", ["batch of one side"], ["pictures"]),
            _NODES("Gather", ["table", "pictures"], ["one"]),
            _NODES("Mul", ["old gain", "one"], ["gain"]),
            constants=[numpy_helper.from_array(np.ones(20, np.float32), "table")],
        ),
        "cannot answer several pictures at once",
    ),
    "class name no text": (_metadata(class_names=["red", 7, "blue"]), "class_names is no list of texts"),
    "class name half a pair": (_metadata(class_names=["red", "\ud800", "blue"]), "class name 1 is not Unicode"),
    "class names one text": (_metadata(class_names="red"), "class_names is no list of texts"),
    "class names too few": (_metadata(class_names=list(CLASS_NAMES[:2])), "for 2 class names"),
    "class names too many": (_metadata(class_names=[*CLASS_NAMES, "white"]), "for 4 class names"),
    "class name too long": (_metadata(class_names=["red", "green", "b" * 5000]), "class name 2 takes 5000 bytes"),
    "class names too long together": (
        _metadata(class_names=["c" * 1000 for _ in range(600)]),
        "the class names take 600000 bytes together",
    ),
    "recipe half a pair": (_metadata(recipe={"arch": "\ud800"}), "half a surrogate pair"),
    "recipe NaN": (_metadata(recipe={"lr": float("nan")}), "not JSON compliant"),
    "recipe too large": (_metadata(recipe={"note": "x" * 100_000}), "more than 65536"),
    "recipe too deep": (
        _property(
            METADATA_KEY,
            '{"format": "self-gradient-checkpoint/1", "image_size": [8, 8], "class_names": ["a", "b", "c"], "recipe": '
            + "[" * 100_000
            + "]" * 100_000
            + "}",
        ),
        "recursion",
    ),
    "digest a megabyte": (_property(SHA256_KEY, "a" * 1_000_000), "checkpoint_sha256 is not 64 hexadecimal digits"),
    "precision a megabyte": (_property("precision", "a" * 1_000_000), "precision is empty or longer than 64"),
    "zero pixels": (_both(_metadata(image_size=[0, 8]), _size("batch", 3, 0, 8)), "image_size is [0, 8]"),
    "100,000 pixels": (
        _both(_metadata(image_size=[100_000, 100_000]), _size("batch", 3, 100_000, 100_000)),
        "from 1 to 4096 pixels",
    ),
    "half a pixel": (_metadata(image_size=[8.5, 8]), "image_size is not a height and a width"),
    "any height": (_size("batch", 3, "height", 8), "its input image is batchx3xheightx8"),
    "one picture at a time": (_size(1, 3, 8, 8), "for batches of one size only"),
    "logits of float64": (
        _both(
            _after_logits(_NODES("Cast", ["made"], [PLAIN_LOGITS], to=TensorProto.DOUBLE)),
            lambda model: _declare(model, PLAIN_LOGITS, TensorProto.DOUBLE),
        ),
        "plain_logits are float64",
    ),
    "other shape for several": (
        _after_logits(_NODES("Reshape", ["made", "flat"], [PLAIN_LOGITS]), constants=[_whole("flat", 1, -1)]),
        "(3, 3)",
    ),
    "unknown operator": (
        _both(
            _after_logits(_NODES("Nowhere", ["made"], [PLAIN_LOGITS], domain="example.org")),
            lambda model: model.opset_import.append(helper.make_opsetid("example.org", 1)),
        ),
        "Nowhere",
    ),
    "weights missing": (_elsewhere("nowhere.bin"), "weights that it keeps in another file cannot be read"),
    "weights outside": (_elsewhere("../../etc/hostname"), "weights that it keeps in another file cannot be read"),
    "memory": (
        _gain(
            _NODES("ConstantOfShape", ["much"], ["zeros of memory"]),
            _NODES("ReduceSum", ["zeros of memory"], ["nothing"], keepdims=0),
            _NODES("Add", ["old gain", "nothing"], ["gain"]),
            constants=[_whole("much", 10**12)],
        ),
        "SGN_TRIAL_MB",
    ),
    "endless loop": (_gain(_loop(2**62), constants=[_one("rounds", 2**62)]), "SGN_TRIAL_SECONDS"),
}
"""The change to the tiny graph, and the text of its refusal, by kind."""


def nan_for_black(model: onnx.ModelProto) -> None:
    """Make the logits with the block off NaN for a black picture: its mean is 0, and 0/0 is NaN."""
    _after_logits(_NODES("Div", ["made", "made"], ["one"]), _NODES("Mul", ["one", "made"], [PLAIN_LOGITS]))(model)


def _declare(model: onnx.ModelProto, name: str, element: int) -> None:
    for output in model.graph.output:
        if output.name == name:
            output.type.tensor_type.elem_type = element
