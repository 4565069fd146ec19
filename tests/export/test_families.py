"""Export backbones of every family; export_onnx raises where the graph differs from PyTorch."""

from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from export.check.pictures import structured_pictures
from export.errors import CaptureError
from export.exporter import export_onnx
from sgn_serve.inference.classifier import Classifier
from sgn_serve.inference.graph import read_graph
from sgn_serve.pictures.decoding import decode
from sgn_serve.settings import Settings
from tests.export.networks import checkpoint_info, randomise
from tests.needs_timm import NEEDS_TIMM, backbones
from training.checkpoint import build_model, save_checkpoint
from training.networks.preact_resnet import PreActResNet18, preact_resnet_18
from training.networks.self_gradient import SelfGradientNetwork

FAMILIES = {
    "preact-resnet-18": (16, 16),
    "timm:test_efficientnet": (32, 32),  # depthwise convolutions, squeeze and excitation, batch norm with activation
    "timm:test_convnext": (32, 32),  # layer norm over channels, GELU
    "timm:test_vit": (32, 48),  # attention, and weights for every place in the picture
}
ONE_OF_EACH: dict[str, dict[str, Any]] = {"timm:test_convnext": {"depths": (1, 1, 1, 1)}, "timm:test_vit": {"depth": 1}}
"""Options that leave out layers equal to others, which show nothing new and take the most time."""
PARTS = {
    "preact-resnet-18": "one block a group",
    "timm:test_convnext": "one block a stage",
    "timm:test_vit": "one layer",
}
TRACED_ANEW = ("timm:test_efficientnet", "timm:test_vit")
"""Families with an operator that torch.onnx.export replaces by others. The rest is traced once."""


def save(folder: Path, architecture: str, image_size: tuple[int, int]) -> tuple[Path, SelfGradientNetwork]:
    torch.manual_seed(0)
    info = checkpoint_info(architecture=architecture, image_size=image_size)
    network = randomise(build_model(info))
    save_checkpoint(folder / "model.safetensors", network.state_dict(), info)
    return folder / "model.safetensors", network


def one_block_a_group(arch: str, num_classes: int) -> PreActResNet18 | None:
    """Leave out the second block of each group, which is as the first one of all."""
    network = preact_resnet_18(arch, num_classes)
    if network is not None:
        network.blocks = network.blocks[::2]
    return network


@pytest.mark.parametrize("architecture", backbones(*FAMILIES, parts=PARTS, thorough=tuple(FAMILIES)))
def test_every_family_exports(architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if architecture in ONE_OF_EACH:
        timm = pytest.importorskip("timm")
        monkeypatch.setattr(timm, "create_model", partial(timm.create_model, **ONE_OF_EACH[architecture]))
    monkeypatch.setattr("training.networks.backbones.preact_resnet_18", one_block_a_group)
    image_size = FAMILIES[architecture]
    checkpoint, network = save(tmp_path, architecture, image_size)
    pictures = structured_pictures(4, 3, image_size)
    with torch.no_grad():
        effect = (network(pictures) - network.plain_logits(pictures)).abs().max()
    assert effect > 1e-3  # a block that did nothing would make the next lines easy

    with monkeypatch.context() as patched:
        if architecture not in TRACED_ANEW:
            patched.setattr(torch.export.ExportedProgram, "run_decompositions", lambda *_: pytest.fail("traced anew"))
        verification = export_onnx(checkpoint, tmp_path / "model.onnx")
    assert verification.passed
    assert {(check.batch, check.output) for check in verification.checks} == {
        (batch, output) for batch in (1, 4, 7) for output in ("logits", "plain_logits", "self_gradient")
    }


def test_a_backbone_with_other_logits_than_class_names_is_refused(tmp_path: Path) -> None:
    info = replace(checkpoint_info(architecture="mine", image_size=(16, 16)), class_names=("a", "b", "c"))
    network = randomise(build_model(info, OwnNetwork()))
    save_checkpoint(tmp_path / "model.safetensors", network.state_dict(), info)
    with pytest.raises(CaptureError, match="the backbone returns 10 logits for 3 class names; give a name to each"):
        export_onnx(tmp_path / "model.safetensors", tmp_path / "model.onnx", backbone=OwnNetwork())
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.thorough
@NEEDS_TIMM
def test_a_timm_network_is_served_at_its_own_image_size(tmp_path: Path) -> None:
    checkpoint, network = save(tmp_path, "timm:test_resnet", (64, 64))
    export_onnx(checkpoint, tmp_path / "model.onnx")

    settings = Settings.from_environment({"SGN_MODEL": str(tmp_path / "model.onnx")})
    graph = read_graph(settings.model_path)
    assert graph.description.image_size == (64, 64)
    classifier = Classifier(graph, ("cpu",), threads=1)
    file = BytesIO()
    pixels = (structured_pictures(1, 3, (64, 64), seed=5)[0] * 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(file, "PNG")
    image = decode(file.getvalue(), graph.description.image_size, settings.max_pixels)[None]
    logits = classifier.logits(image, self_gradient=True)
    with torch.no_grad():
        expected = network(torch.from_numpy(image)).numpy()
        plain = network.plain_logits(torch.from_numpy(image)).numpy()
    assert logits.corrected is not None
    np.testing.assert_allclose(logits.corrected, expected, rtol=0, atol=1e-3)
    np.testing.assert_allclose(logits.plain, plain, rtol=0, atol=1e-3)
    np.testing.assert_allclose(classifier.logits(image, self_gradient=False).plain, plain, rtol=0, atol=1e-3)


class OwnNetwork(nn.Module):
    """Attention as PyTorch packs it, and a linear layer over more than one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.attention = nn.TransformerEncoderLayer(16, 2, dim_feedforward=32, activation="gelu", batch_first=True)
        self.classifier = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        return self.classifier(self.attention(tokens).mean(dim=1))


@pytest.mark.thorough
def test_a_network_of_ones_own_exports(tmp_path: Path) -> None:
    info = checkpoint_info(architecture="my transformer", image_size=(16, 16))
    network = randomise(build_model(info, OwnNetwork()))
    save_checkpoint(tmp_path / "model.safetensors", network.state_dict(), info)
    assert export_onnx(tmp_path / "model.safetensors", tmp_path / "model.onnx", backbone=OwnNetwork()).passed
