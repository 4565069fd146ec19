import json

import numpy as np
import onnx
import onnxruntime
import pytest

from sgn_serve.common import graph_format
from sgn_serve.common.graph_format import LOGITS, PLAIN_LOGITS
from sgn_serve.inference.graph import GraphError, read_graph
from tests.sgn_serve.tiny_graph import CLASS_NAMES, SHA256, save_tiny_graph


def test_a_graph_says_what_it_is(tmp_path):
    description = read_graph(save_tiny_graph(tmp_path / "m.onnx", (6, 9))).description
    assert description.class_names == CLASS_NAMES
    assert description.image_size == (6, 9)
    assert description.sha256 == SHA256
    assert description.has_block


def with_metadata(path, **entries):
    """Write the tiny graph with further entries in its metadata."""
    model = onnx.load(save_tiny_graph(path))
    known = {item.key: item.value for item in model.metadata_props}
    onnx.helper.set_model_props(model, known | entries)
    onnx.save(model, path)
    return path


def test_the_threshold_of_auto_is_the_exports_else_the_checkpoints(tmp_path):
    path = tmp_path / "m.onnx"
    assert read_graph(save_tiny_graph(path)).description.auto is None
    assert read_graph(save_tiny_graph(path, checkpoint={"auto_margin": 0.5})).description.auto == {"margin": 0.5}
    found = {"margin": 0.08, "agreement": 0.998}
    assert read_graph(with_metadata(path, auto=json.dumps(found))).description.auto == found
    without = save_tiny_graph(path, block=False, checkpoint={"auto_margin": 0.5})
    assert read_graph(without).description.auto is None


@pytest.mark.parametrize(
    "auto", ["0.08", '{"margin": 1.5}', '{"margin": NaN}', '{"margin": true}', '{"margin": 0, "x": NaN}', "{" * 5000]
)
def test_a_threshold_that_is_none_is_refused(tmp_path, auto):
    with pytest.raises(GraphError, match=r"metadata .* cannot be used"):
        read_graph(with_metadata(tmp_path / "m.onnx", auto=auto))


def test_a_plain_network_has_no_block(tmp_path):
    assert not read_graph(save_tiny_graph(tmp_path / "m.onnx", block=False)).description.has_block


def test_the_one_pass_part_holds_one_pass_and_answers_the_same(tmp_path):
    graph = read_graph(save_tiny_graph(tmp_path / "m.onnx"))
    part = graph.cut([PLAIN_LOGITS])
    assert [node.op_type for node in part.graph.node] == ["ReduceMean", "Mul"], (
        "nothing of the block or the second pass"
    )
    assert [output.name for output in part.graph.output] == [PLAIN_LOGITS]
    images = np.random.default_rng(0).random((4, 3, 8, 8), np.float32)
    whole = onnxruntime.InferenceSession(graph.model.SerializeToString(), providers=["CPUExecutionProvider"])
    alone = onnxruntime.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = whole.run([PLAIN_LOGITS], {"image": images})
    (got,) = alone.run(None, {"image": images})
    assert np.array_equal(expected, got)


def test_the_two_pass_part_holds_both(tmp_path):
    graph = read_graph(save_tiny_graph(tmp_path / "m.onnx"))
    assert len(graph.cut([LOGITS, PLAIN_LOGITS]).graph.node) == len(graph.model.graph.node)


def foreign_graph():
    image = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    nodes = [onnx.helper.make_node("Relu", ["x"], ["y"])]
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "foreign", [image], [other]))


def test_foreign_files_are_refused_in_one_line(tmp_path):
    path = tmp_path / "foreign.onnx"

    def refusal():
        with pytest.raises(GraphError) as raised:
            read_graph(path)
        message = str(raised.value)
        assert str(path) in message
        assert "python -m export" in message
        assert "SGN_MODEL" in message
        assert "\n" not in message
        return message

    assert "no such file" in refusal()
    path.mkdir()
    assert "a folder, not a graph" in refusal()
    (path / "model.onnx").write_bytes(b"")
    with pytest.raises(GraphError, match=f"a folder, not a graph; name {path}/model.onnx"):
        read_graph(path)
    (path / "model.onnx").unlink()
    path.rmdir()
    path.write_bytes(b"PK\x03\x04 not a graph at all")
    assert "not an ONNX" in refusal()
    path.write_bytes(b"")
    assert "not an ONNX" in refusal()

    model = foreign_graph()
    onnx.save(model, path)
    assert "without the metadata checkpoint_sha256, self_gradient_network" in refusal()
    description = json.dumps({"format": "self-gradient-checkpoint/1", "class_names": ["a"], "image_size": [8, 8]})
    onnx.helper.set_model_props(model, {"self_gradient_network": description, "checkpoint_sha256": SHA256})
    onnx.save(model, path)
    assert "expected the input image" in refusal()


@pytest.mark.parametrize(
    "checkpoint",
    [
        {"format": "other/9"},
        {"image_size": 8},
        {"image_size": ["a", "b"]},
        {"class_names": []},
        {"class_names": None},
    ],
)
def test_metadata_that_makes_no_sense_is_refused(tmp_path, checkpoint):
    path = save_tiny_graph(tmp_path / "m.onnx", checkpoint=checkpoint)
    with pytest.raises(GraphError, match="metadata self_gradient_network cannot be used"):
        read_graph(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json"])
def test_metadata_that_is_no_checkpoint_json_is_refused(tmp_path, text):
    path = save_tiny_graph(tmp_path / "m.onnx", metadata={"self_gradient_network": text, "checkpoint_sha256": SHA256})
    with pytest.raises(GraphError, match="metadata self_gradient_network cannot be used"):
        read_graph(path)


def test_an_input_of_another_size_than_the_metadata_say_is_refused_in_one_line(tmp_path):
    path = save_tiny_graph(tmp_path / "m.onnx", (6, 9))
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 8
    onnx.save(model, path)
    with pytest.raises(GraphError, match=r"its input image is .*x3x8x9, but its metadata say batchx3x6x9"):
        read_graph(path)


def test_the_names_in_a_graph_do_not_change():
    """Graphs that were exported before, and clients of /v2, know these names."""
    names = {name: value for name, value in vars(graph_format).items() if name.isupper()}
    assert names == {
        "INPUT": "image",
        "LOGITS": "logits",
        "PLAIN_LOGITS": "plain_logits",
        "SELF_GRADIENT": "self_gradient",
        "MAX_SIDE": 4096,
        "CHECKPOINT_FORMAT": "self-gradient-checkpoint/1",
        "METADATA_KEY": "self_gradient_network",
        "SHA256_KEY": "checkpoint_sha256",
        "PRECISION_KEY": "precision",
        "BACKGROUND_FIELD": "background",
        "AUTO_KEY": "auto",
        "BF16": "bf16",
        "BF16_KEY": "bf16",
        "MIN_AGREEMENT": 0.995,
        "FIGURES_FORMAT": "self-gradient-figures/1",
        "GRAPH_SHA256_FIELD": "graph_sha256",
        "MAX_FIGURES_BYTES": 2_000_000,
        "EXAMPLES_FORMAT": "self-gradient-examples/1",
        "MAX_EXAMPLES": 20,
        "MAX_EXAMPLES_BYTES": 8_000_000,
    }
