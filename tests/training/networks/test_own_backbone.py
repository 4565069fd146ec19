"""Backbones that this project did not write: a researcher's own module, and timm's."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.needs_timm import NEEDS_TIMM, backbones
from tests.training.checkpoints import tiny_info
from training.checkpoint import CheckpointError, CheckpointInfo, build_model, load_checkpoint, save_checkpoint
from training.config import TrainConfig
from training.methods import build_method
from training.networks.backbones import build_backbone
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork


class OwnNetwork(nn.Module):
    """Layers that no built-in backbone has: layer norm, attention, batch norm of the plain kind."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.batch_norm = nn.BatchNorm1d(16)
        self.classifier = nn.Linear(16, 3)

    def forward(self, images):
        tokens = self.norm(self.patches(images).flatten(2).transpose(1, 2))
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.classifier(F.relu(self.batch_norm(tokens.mean(dim=1))))


def own_info(**changes) -> CheckpointInfo:
    return tiny_info(**{"architecture": "my attention network", "method": "standard", "block": None} | changes)


def colours(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise that is brighter in the channel of its class, (count, 3, 16, 16) and (count)."""
    labels = torch.arange(count) % 3
    images = 0.5 * torch.rand(count, 3, 16, 16)
    images[torch.arange(count), labels] += 0.4
    return images, labels


def test_training_ones_own_module():
    """The library's pieces in a loop of one's own."""
    torch.manual_seed(0)
    network = SelfGradientNetwork(OwnNetwork(), SelfGradientBlock(gradient_scaling="rms", scale=8 / 255)).train()
    method = build_method(TrainConfig("image-folder", method="self-gradient", epsilon=2 / 255, precision="float32"))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        step = method.loss(network, method.attack(network, *colours(24)))
        optimizer.zero_grad()
        step.backward()
        optimizer.step()
        losses.append(step.loss.item())
    assert losses[-1] < 0.5 * losses[0]


@NEEDS_TIMM
def test_attention_is_differentiated_twice():
    torch.manual_seed(0)
    network = SelfGradientNetwork(build_backbone("timm:test_vit", 3, (16, 16)), SelfGradientBlock()).train()
    images, labels = colours(6)
    F.cross_entropy(network(images), labels).backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert set(gradients) == {name for name, _ in network.named_parameters()}
    assert all(gradient.abs().max() > 0 for name, gradient in gradients.items() if name.startswith("block."))
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())


@pytest.mark.parametrize("arch", backbones("timm:test_efficientnet", "timm:test_resnet", "preact-resnet-18"))
def test_the_first_pass_freezes_every_batch_norm(arch):
    """timm's batch norms are subclasses that bring their activation along."""
    torch.manual_seed(0)
    network = SelfGradientNetwork(build_backbone(arch, 4, (32, 32)), SelfGradientBlock()).train()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    images = torch.rand(4, 3, 32, 32)
    gradient = network.self_gradient(images)
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    # no image's gradient depends on its neighbours
    torch.testing.assert_close(network.self_gradient(images[:1]), gradient[:1], rtol=1e-3, atol=1e-6)
    assert all(module.training for module in network.modules())
    network(images)
    assert any(not torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


def test_a_checkpoint_of_ones_own_backbone(tmp_path):
    path = tmp_path / "model.safetensors"
    info = own_info()
    network = build_model(info, OwnNetwork()).eval()
    save_checkpoint(path, network.state_dict(), info)
    loaded, loaded_info = load_checkpoint(path, OwnNetwork())
    assert loaded_info == info
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(loaded(images), network(images))
    with pytest.raises(CheckpointError, match=r"unknown architecture.*backbone of your own to load_checkpoint"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="do not fit the my attention network"):
        load_checkpoint(path, nn.Linear(1, 1))


@NEEDS_TIMM
def test_a_timm_checkpoint_is_rebuilt_at_its_own_image_size(tmp_path):
    path = tmp_path / "model.safetensors"
    info = own_info(architecture="timm:test_vit", image_size=(32, 48))
    network = build_model(info).eval()
    save_checkpoint(path, network.state_dict(), info)
    loaded, _ = load_checkpoint(path)
    images = torch.rand(2, 3, 32, 48)
    torch.testing.assert_close(loaded(images), network(images))


def test_attention_has_its_gradient_however_it_is_called():
    """PyTorch has fused attention for inference, which knows no gradient."""
    torch.manual_seed(0)
    network = SelfGradientNetwork(OwnNetwork(), SelfGradientBlock()).eval()
    images = torch.rand(2, 3, 16, 16)
    expected = torch.autograd.grad(network.plain_logits(images.requires_grad_()).sum(), images)[0]
    torch.testing.assert_close(network.self_gradient(images), expected)
    network.requires_grad_(False)
    with torch.no_grad():
        torch.testing.assert_close(network.self_gradient(images.detach()), expected)
    with torch.inference_mode():
        torch.testing.assert_close(network.self_gradient(images.detach()), expected)
