"""Defences as graphs: one file each, with PyTorch's answers, that the service loads."""

import numpy as np
import onnx
import pytest
import torch

from export.exporter import export_graph, export_onnx
from export.formats.table import TORCHSCRIPT
from sgn_serve.inference.classifier import Classifier
from sgn_serve.inference.graph import read_graph
from tests.export.networks import IMAGE_SIZE, checkpoint_info, randomise
from tests.training.small_backbone import SmallBackbone
from training.checkpoint import build_model, load_checkpoint, save_checkpoint
from training.defend import defended
from training.networks.defences.build import DEFENCES

PLAIN = checkpoint_info(block=False, architecture="small")
"""It describes a SmallBackbone: a defence passes through its network several times, and each pass is traced."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=() if name in ("anti-adversary", "gradient-denoiser") else pytest.mark.thorough)
        for name in DEFENCES
    ],
)
def exported_defence(request, tmp_path_factory):
    """A checkpoint of a defence, and its graph."""
    folder = tmp_path_factory.mktemp("defence")
    torch.manual_seed(0)
    network = randomise(build_model(PLAIN, SmallBackbone(10)))
    network.backbone.get_parameter("classifier.weight").data.mul_(4)  # a denoiser's step is as long as the gradient
    defence, info = defended(network, PLAIN, DEFENCES[request.param])
    save_checkpoint(folder / "model.safetensors", defence.state_dict(), info)
    export_onnx(folder / "model.safetensors", folder / "model.onnx", backbone=SmallBackbone(10))
    return folder / "model.safetensors", folder / "model.onnx"


def test_the_service_loads_the_graph_and_gives_pytorchs_answers(exported_defence):
    checkpoint, path = exported_defence
    defence, info = load_checkpoint(checkpoint, SmallBackbone(10))
    graph = read_graph(path)
    assert graph.description.has_block
    assert graph.description.has_gradient == defence.uses_gradient
    assert info.defence is not None
    assert graph.description.checkpoint["defence"]["name"] == info.defence.name
    served = Classifier(graph, ("cpu",), threads=1)
    images = torch.rand(5, 3, *IMAGE_SIZE, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected, plain = defence(images), defence(images, self_gradient=False)
    found = served.logits(images.numpy(), self_gradient=True)
    assert found.corrected is not None
    np.testing.assert_allclose(found.corrected, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.plain, plain, rtol=1e-3, atol=1e-4)
    assert np.abs(found.corrected - found.plain).max() > 1e-3
    off = served.logits(images.numpy(), self_gradient=False)
    np.testing.assert_allclose(off.plain, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("size", [0.0, 1e-36, 1e20])
def test_a_denoisers_graph_is_right_for_gradients_of_any_size(tmp_path, size):
    torch.manual_seed(0)
    network = randomise(build_model(PLAIN, SmallBackbone(10)))
    network.backbone.get_parameter("classifier.weight").data.mul_(size)
    defence, info = defended(network, PLAIN, DEFENCES["gradient-denoiser"])
    save_checkpoint(tmp_path / "model.safetensors", defence.state_dict(), info)
    export_onnx(tmp_path / "model.safetensors", tmp_path / "model.onnx", backbone=SmallBackbone(10))
    images = torch.rand(2, 3, *IMAGE_SIZE, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = defence(images)
    found = Classifier(read_graph(tmp_path / "model.onnx"), ("cpu",), threads=1).logits(images.numpy(), True)
    assert expected.isfinite().all()
    assert found.corrected is not None
    np.testing.assert_allclose(found.corrected, expected, rtol=1e-3, atol=1e-4 * max(1, size))


def test_the_graph_draws_nothing(exported_defence):
    operators = {node.op_type for node in onnx.load(exported_defence[1]).graph.node}
    assert not {name for name in operators if name.startswith("Random") or name == "Bernoulli"}


def test_other_formats_do_not_need_a_gradient_either(tmp_path):
    torch.manual_seed(0)
    defence, info = defended(randomise(build_model(PLAIN, SmallBackbone(10))), PLAIN, DEFENCES["noise-average"])
    save_checkpoint(tmp_path / "model.safetensors", defence.state_dict(), info)
    checked = export_graph(
        TORCHSCRIPT, tmp_path / "model.safetensors", tmp_path / "model.pt", backbone=SmallBackbone(10)
    )
    assert {check.output for check in checked.checks} == {"logits", "plain_logits"}
