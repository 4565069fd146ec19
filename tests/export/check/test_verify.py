"""The check must find wrong graphs: each negative control is the good file, changed in one way."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from export.check.pictures import structured_pictures
from export.check.verify import Check, Tolerance, UnusableGraphError, Verification, verify
from export.formats.onnx import onnx_runner
from export.options import PICTURES
from tests.export.conftest import Exported
from tests.export.networks import IMAGE_SIZE, OUTPUTS

Spoil = Callable[[onnx.ModelProto], None]


def verification_of(exported: Exported, model: onnx.ModelProto) -> Verification:
    runner = onnx_runner(model.SerializeToString(), OUTPUTS)
    return verify(runner, exported.passes, structured_pictures(PICTURES, 3, IMAGE_SIZE))


def failures(verification: Verification) -> set[tuple[str, int]]:
    return {(check.output, check.batch) for check in verification.checks if not check.passed}


def everywhere(*outputs: str) -> set[tuple[str, int]]:
    return {(output, batch) for output in outputs for batch in (1, 4, 7)}


def replace_value(
    model: onnx.ModelProto, name: str, nodes: list[onnx.NodeProto], **constants: np.ndarray
) -> onnx.ModelProto:
    """Insert `nodes`, which compute `name` from `true_<name>`, after the node that computed it."""
    graph = model.graph
    producer = next(index for index, node in enumerate(graph.node) if name in node.output)
    list(graph.node)[producer].output[:] = [
        f"true_{name}" if output == name else output for output in graph.node[producer].output
    ]
    following = [onnx.NodeProto.FromString(node.SerializeToString()) for node in list(graph.node)[producer + 1 :]]
    del graph.node[producer + 1 :]
    graph.node.extend([*nodes, *following])
    graph.initializer.extend(numpy_helper.from_array(value, constant) for constant, value in constants.items())
    return model


def test_the_export_passes(exported: Exported) -> None:
    verification = verification_of(exported, exported.model())
    assert verification.passed
    assert [check.batch for check in verification.checks] == [1, 1, 1, 4, 4, 4, 7, 7, 7]
    assert all(check.same_top1 == PICTURES for check in verification.checks if check.output != "self_gradient")


def frozen(exported: Exported) -> onnx.ModelProto:
    """The gradient of one picture for all pictures, as a tracer makes it that takes the gradient for a constant."""
    picture = structured_pictures(1, 3, IMAGE_SIZE, seed=9)
    constant = exported.network.self_gradient(picture).detach().numpy()
    return replace_value(
        exported.model(),
        "self_gradient",
        [
            helper.make_node("Mul", ["true_self_gradient", "zero"], ["no_gradient"]),
            helper.make_node("Add", ["no_gradient", "frozen"], ["self_gradient"]),
        ],
        zero=np.array(0, np.float32),
        frozen=constant,
    )


def test_a_frozen_gradient_fails(exported: Exported) -> None:
    assert failures(verification_of(exported, frozen(exported))) == everywhere("self_gradient")


def test_a_gradient_of_zero_fails_however_small_the_true_one_is(exported: Exported) -> None:
    model = replace_value(
        exported.model(),
        "self_gradient",
        [helper.make_node("Mul", ["true_self_gradient", "zero"], ["self_gradient"])],
        zero=np.array(0, np.float32),
    )
    verification = verification_of(exported, model)
    assert failures(verification) >= everywhere("self_gradient")


def test_a_gradient_averaged_over_the_batch_fails(exported: Exported) -> None:
    """Right for a single picture, wrong for several."""
    nodes = [
        helper.make_node("ReduceMean", ["true_self_gradient", "batch_axis"], ["mean_gradient"], keepdims=1),
        helper.make_node("Shape", ["true_self_gradient"], ["gradient_shape"]),
        helper.make_node("Expand", ["mean_gradient", "gradient_shape"], ["self_gradient"]),
    ]
    model = replace_value(exported.model(), "self_gradient", nodes, batch_axis=np.array([0]))
    assert failures(verification_of(exported, model)) == {("self_gradient", 4), ("self_gradient", 7)}


def test_a_loss_averaged_over_the_batch_fails(exported: Exported) -> None:
    """The gradient is then divided by the batch size, which a block that scales it would hide from the logits."""
    nodes = [
        helper.make_node("Shape", ["true_self_gradient"], ["batch_size"], start=0, end=1),
        helper.make_node("Cast", ["batch_size"], ["batch_size_float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Div", ["true_self_gradient", "batch_size_float"], ["self_gradient"]),
    ]
    model = replace_value(exported.model(), "self_gradient", nodes)
    assert failures(verification_of(exported, model)) == {("self_gradient", 4), ("self_gradient", 7)}


def test_a_second_pass_that_ignores_the_gradient_fails(exported: Exported) -> None:
    """The output `self_gradient` is right, but the block is fed another."""
    model = frozen(exported)
    for node in model.graph.node:
        renamed = {"self_gradient": "block_input", "true_self_gradient": "self_gradient"}
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    assert failures(verification_of(exported, model)) == everywhere("logits")


def test_swapped_outputs_fail(exported: Exported) -> None:
    model = exported.model()
    swapped = {"logits": "plain_logits", "plain_logits": "logits"}
    for node in model.graph.node:
        node.input[:] = [swapped.get(name, name) for name in node.input]
        node.output[:] = [swapped.get(name, name) for name in node.output]
    assert failures(verification_of(exported, model)) == everywhere("logits", "plain_logits")


def test_shuffled_classes_fail(exported: Exported) -> None:
    model = replace_value(
        exported.model(),
        "logits",
        [helper.make_node("Gather", ["true_logits", "order"], ["logits"], axis=1)],
        order=np.array([0, 1, 2, 3, 4, 5, 6, 7, 9, 8]),
    )
    assert failures(verification_of(exported, model)) == everywhere("logits")


def test_a_slightly_wrong_weight_fails(exported: Exported) -> None:
    model = exported.model()
    weight = next(item for item in model.graph.initializer if item.name == "network.backbone.stem.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.001), weight.name))
    assert everywhere("logits", "plain_logits") <= failures(verification_of(exported, model))


def test_outputs_of_another_shape_are_refused(exported: Exported) -> None:
    twice = [helper.make_node("Concat", ["true_logits", "true_logits"], ["logits"], axis=0)]
    with pytest.raises(UnusableGraphError, match=r"logits for 28 pictures at batch 1 is \(56, 10\), not \(28, 10\)"):
        verification_of(exported, replace_value(exported.model(), "logits", twice))


def test_not_a_number_fails() -> None:
    nan = float("nan")
    assert not Check(1, "logits", nan, nan, nan, Tolerance(1, 1), 1, 1).passed


def test_other_outputs_are_refused(exported: Exported) -> None:
    model = exported.model()
    del model.graph.output[2]
    with pytest.raises(UnusableGraphError, match="outputs are logits, plain_logits, expected"):
        onnx_runner(model.SerializeToString(), OUTPUTS)


def test_a_frozen_batch_size_is_refused(exported: Exported) -> None:
    model = exported.model()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    runner = onnx_runner(model.SerializeToString(), OUTPUTS)
    with pytest.raises(UnusableGraphError, match="batch 4"):
        verify(runner, exported.passes, structured_pictures(PICTURES, 3, IMAGE_SIZE))


def test_what_is_not_a_graph_is_refused() -> None:
    with pytest.raises(UnusableGraphError, match="cannot load"):
        onnx_runner(b"not a graph", OUTPUTS)


def test_the_table_shows_every_check_and_marks_what_failed(exported: Exported) -> None:
    assert len(verification_of(exported, exported.model()).table().splitlines()) == 2 + 9
    table = verification_of(exported, frozen(exported)).table()
    marked = [line.split()[:2] for line in table.splitlines() if line.endswith("MISMATCH")]
    assert marked == [["1", "self_gradient"], ["4", "self_gradient"], ["7", "self_gradient"]]


def test_pictures_are_not_the_example_that_was_traced() -> None:
    """The example is a tensor without values. Were it all zeros, these would still be others."""
    pictures = structured_pictures(PICTURES, 3, IMAGE_SIZE)
    assert (pictures.flatten(1).std(dim=1) > 0.05).all()
    assert len(torch.unique(pictures.flatten(1), dim=0)) == PICTURES
