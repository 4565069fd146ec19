"""The bundled graph judged as a black box, beside the checkpoint that it was exported from."""

import onnx
import pytest
import torch

from release.disagreement import example_pictures
from sgn_serve.common.graph_format import file_sha256
from training.attacks.black_box import SourceNetwork
from training.attacks.exported_graph import ExportedGraph, ExportedGraphError
from training.attacks.registry import Context, build_attacks
from training.checkpoint import load_checkpoint
from training.evaluate import measuring
from training.evaluate.measuring import Trial

EPS = 8 / 255


@pytest.fixture(scope="module")
def bundled(project_root):
    folder = project_root / "sgn_serve" / "bundled"
    model, _ = load_checkpoint(folder / "model.safetensors")
    checkpoint = file_sha256(folder / "model.safetensors")
    return model.requires_grad_(False), checkpoint, ExportedGraph(folder / "model.onnx", checkpoint, threads=1), folder


def test_it_answers_as_its_checkpoint_does(bundled):
    model, _, graph, _ = bundled
    images = example_pictures()[0][:5].contiguous(memory_format=torch.channels_last)
    for block in (True, False):
        torch.testing.assert_close(
            graph(images, self_gradient=block), model(images, self_gradient=block), rtol=0, atol=1e-4
        )


@pytest.mark.thorough
def test_black_box_and_transfer_attacks_take_pictures_from_it(bundled):
    model, checkpoint, graph, folder = bundled
    images, labels = (part[40::20] for part in example_pictures())  # three: a hundred steps take seconds a picture
    context = Context(
        eps=EPS,
        has_block=True,
        classes=10,
        betas=(),
        checkpoint=SourceNetwork(model, "the checkpoint", checkpoint),
        graph_sha256=file_sha256(folder / "model.onnx"),
        queries=30,
    )
    attacks = [attack for attack in build_attacks(["clean"], context) if attack.id.state == "exported graph"]
    right = {
        attack.id.title: measuring.withstood(Trial(graph, images, labels, EPS, seed=0), attack)
        for attack in attacks
        if attack.id.family != "noise"
    }
    assert set(right) == {"clean", "CW-100 to the end, transfer from the checkpoint", "Square"}
    clean = right["clean"]
    assert torch.equal(clean, model(images).argmax(dim=1) == labels)
    assert right["CW-100 to the end, transfer from the checkpoint"].sum() < clean.sum()


def test_mistakes_name_the_fix(bundled, tmp_path):
    _, checkpoint, _, folder = bundled
    with pytest.raises(ExportedGraphError, match="python -m export"):
        ExportedGraph(tmp_path / "none.onnx", checkpoint)
    with pytest.raises(ExportedGraphError, match="exported from another checkpoint"):
        ExportedGraph(folder / "model.onnx", "0" * 64)
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(ExportedGraphError, match="export it again"):
        ExportedGraph(tmp_path / "broken.onnx", checkpoint)


def test_a_graph_is_not_judged_in_another_precision_than_it_is_for(bundled, tmp_path):
    _, checkpoint, _, folder = bundled
    graph = onnx.load(folder / "model.onnx")
    precision = graph.metadata_props.add(key="precision", value="bf16")
    onnx.save(graph, tmp_path / "model.onnx")
    with pytest.raises(ExportedGraphError, match=r"model\.onnx: was exported for bf16, which .*; name one exported"):
        ExportedGraph(tmp_path / "model.onnx", checkpoint)
    precision.value = "fp16"  # the graph itself computes in it
    onnx.save(graph, tmp_path / "model.onnx")
    ExportedGraph(tmp_path / "model.onnx", checkpoint, threads=1)
