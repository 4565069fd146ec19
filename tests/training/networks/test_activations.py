import pytest
import torch
from torch import nn

from training.attacks.names import AttackError
from training.attacks.views import check_view, full_view, held_view, smooth_view
from training.networks.activations import with_activation
from training.networks.errors import ArchitectureError
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork
from training.networks.wide_resnet import WideResNet

SMOOTH = ["silu", "gelu", "softplus"]


def smooth_network(activation: str) -> SelfGradientNetwork:
    torch.manual_seed(0)
    backbone = with_activation(WideResNet(10, 1, num_classes=5), activation)
    return SelfGradientNetwork(backbone, SelfGradientBlock(gradient_scaling="rms")).double().eval()


def image_gradient(view, images):
    images = images.clone().requires_grad_()
    return torch.autograd.grad(view(images).square().sum(), images)[0]


def test_relu_leaves_the_backbone_alone():
    backbone = WideResNet(10, 1, num_classes=5)
    modules = list(backbone.modules())
    assert list(with_activation(backbone, "relu").modules()) == modules


@pytest.mark.parametrize("activation", SMOOTH)
def test_every_relu_is_replaced_and_no_weight_renamed(activation):
    backbone = with_activation(WideResNet(10, 1, num_classes=5), activation)
    assert not any(isinstance(module, nn.ReLU) for module in backbone.modules())
    assert backbone.state_dict().keys() == WideResNet(10, 1, num_classes=5).state_dict().keys()


def test_what_cannot_be_replaced_is_refused():
    with pytest.raises(ArchitectureError, match="known are: relu"):
        with_activation(nn.Identity(), "swish")
    with pytest.raises(ArchitectureError, match="leave --activation away"):
        with_activation(nn.Sequential(nn.Linear(2, 2), nn.Tanh()), "silu")


@pytest.mark.parametrize("activation", SMOOTH)
def test_the_full_view_of_a_smooth_network_sees_the_block(activation):
    model = smooth_network(activation)
    images = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    full = image_gradient(full_view(model), images)
    assert (full - image_gradient(held_view(model), images)).norm() > 0.01 * full.norm()
    shift = torch.zeros_like(images)
    shift[0, 1, 3, 3] = 1e-6
    with torch.no_grad():
        difference = (model(images + shift).square().sum() - model(images - shift).square().sum()) / 2e-6
    torch.testing.assert_close(full[0, 1, 3, 3], difference, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("activation", SMOOTH)
def test_the_surrogate_leaves_smooth_activations_alone(activation):
    """It replaces ReLUs; of a network without any, its derivative is the true one."""
    model = smooth_network(activation)
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    full = image_gradient(full_view(model), images)
    torch.testing.assert_close(image_gradient(smooth_view(model, 5.0), images), full)


def test_views_that_show_nothing_new_are_refused(network):
    with pytest.raises(AttackError, match="--activation such as silu"):
        check_view("full", network())
    with pytest.raises(AttackError, match="--attack-view full"):
        check_view("smooth", smooth_network("silu"))
    check_view("full", smooth_network("silu"))
    for view in ("held", "smooth"):
        check_view(view, network())
