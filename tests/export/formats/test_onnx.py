"""The exported file, as someone who has only the file sees it."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, fx, nn

from export.capture.graph import capture
from export.check.pictures import structured_pictures
from export.check.verify import verify
from export.errors import CaptureError
from export.exporter import export_onnx
from export.formats.onnx import onnx_runner, to_onnx
from export.network_passes import Passes, passes_of
from export.options import PICTURES
from export.rewrite import rewrite
from sgn_serve.common.graph_format import METADATA_KEY, SHA256_KEY, file_sha256
from tests.export.conftest import Exported
from tests.export.networks import IMAGE_SIZE, checkpoint_info, network_around, randomise
from training.checkpoint import CheckpointInfo, build_model, load_checkpoint, save_checkpoint


def session_of(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run(path: Path, images: Tensor, output: str) -> np.ndarray:
    return session_of(path).run([output], {"image": images.numpy()})[0]


def test_names_types_and_sizes(exported: Exported) -> None:
    session = session_of(exported.graph)
    assert [(item.name, item.type, item.shape) for item in session.get_inputs()] == [
        ("image", "tensor(float)", ["batch", 3, 32, 32])
    ]
    assert [(item.name, item.type, item.shape) for item in session.get_outputs()] == [
        ("logits", "tensor(float)", ["batch", 10]),
        ("plain_logits", "tensor(float)", ["batch", 10]),
        ("self_gradient", "tensor(float)", ["batch", 3, 32, 32]),
    ]


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_any_batch_size(exported: Exported, batch: int) -> None:
    images = structured_pictures(batch, 3, IMAGE_SIZE, seed=3)
    with torch.no_grad():
        expected = exported.network(images).numpy()
    np.testing.assert_allclose(run(exported.graph, images, "logits"), expected, rtol=0, atol=1e-2)
    assert (run(exported.graph, images, "logits").argmax(1) == expected.argmax(1)).all()


def test_an_answer_does_not_depend_on_the_other_pictures(exported: Exported) -> None:
    images = structured_pictures(6, 3, IMAGE_SIZE, seed=4)
    others = torch.cat([images[:1], structured_pictures(5, 3, IMAGE_SIZE, seed=5)])
    for output in ("logits", "plain_logits", "self_gradient"):
        alone = run(exported.graph, images[:1], output)
        for batch in (images, others):
            np.testing.assert_allclose(run(exported.graph, batch, output)[:1], alone, rtol=0, atol=1e-5)


def test_the_file_explains_itself(exported: Exported) -> None:
    metadata = {item.key: item.value for item in exported.model().metadata_props}
    assert set(metadata) == {METADATA_KEY, SHA256_KEY} == {"self_gradient_network", "checkpoint_sha256"}
    assert CheckpointInfo.from_json(metadata[METADATA_KEY]) == exported.info
    assert metadata[SHA256_KEY] == file_sha256(exported.checkpoint)


def test_one_valid_file_without_traces_of_this_machine(exported: Exported) -> None:
    assert [path.name for path in exported.graph.parent.iterdir()] == [exported.graph.name]
    onnx.checker.check_model(str(exported.graph), full_check=True)
    content = exported.graph.read_bytes()
    for trace in (str(Path(__file__).parents[3]), "site-packages", ".py"):
        assert trace.encode() not in content


def test_plain_dataflow(exported: Exported) -> None:
    """No control flow and nothing but standard operators, so that every runtime can run it."""
    model = exported.model()
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]
    assert not {node.op_type for node in model.graph.node} & {"If", "Loop", "Scan"}
    assert not model.functions


def test_weights_are_stored_once_under_their_names(exported: Exported) -> None:
    model = exported.model()
    stored = sum(int(np.prod(item.dims)) for item in model.graph.initializer)
    parameters = sum(parameter.numel() for parameter in exported.network.parameters())
    assert stored < parameters * 1.02  # running statistics and a few constants come on top
    names = {item.name for item in model.graph.initializer}
    assert {"network.backbone.stem.weight", "network.backbone.classifier.weight"} <= names


def test_one_pass_can_be_cut_out(exported: Exported, tmp_path: Path) -> None:
    """The service cuts the graph so, to answer with the block off at the price of one pass."""
    one_pass = tmp_path / "plain.onnx"
    onnx.utils.extract_model(str(exported.graph), str(one_pass), ["image"], ["plain_logits"])
    images = structured_pictures(5, 3, IMAGE_SIZE, seed=6)
    whole = run(exported.graph, images, "plain_logits")

    np.testing.assert_allclose(run(one_pass, images, "plain_logits"), whole, rtol=0, atol=1e-6)
    assert len(onnx.load(one_pass).graph.node) < len(exported.model().graph.node) / 2


@pytest.mark.thorough
def test_any_backbone(varied: tuple[Passes, fx.GraphModule]) -> None:
    passes, graph = varied[0], copy.deepcopy(varied[1])
    rewrite(graph)
    model = to_onnx(graph, {})
    runner = onnx_runner(model.SerializeToString(), passes.output_names)
    assert verify(runner, passes, structured_pictures(PICTURES, 3, IMAGE_SIZE)).passed


class FixedBatch(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.reshape(2, -1)[:, :10]


def test_a_fixed_batch_size_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"layer backbone \(FixedBatch\) fixes the batch size"):
        capture(passes_of(network_around(FixedBatch())), IMAGE_SIZE)


@pytest.mark.thorough
def test_a_smooth_network(tmp_path: Path) -> None:
    """Softplus of a sharpness that ONNX does not know; varied_backbone has a SiLU."""
    info = replace(checkpoint_info(), activation="softplus", image_size=(16, 16))
    checkpoint = tmp_path / "model.safetensors"
    save_checkpoint(checkpoint, randomise(build_model(info)).state_dict(), info)
    assert export_onnx(checkpoint, tmp_path / "model.onnx").passed
    network, _ = load_checkpoint(checkpoint)
    images = structured_pictures(3, 3, info.image_size, seed=6)
    with torch.no_grad():
        expected = network(images).numpy()
    np.testing.assert_allclose(run(tmp_path / "model.onnx", images, "logits"), expected, rtol=0, atol=1e-2)
