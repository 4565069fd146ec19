import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from training.attacks.views import smooth_self_gradient
from training.derivatives.double_backward import CheapSecondDerivatives
from training.derivatives.smooth_surrogate import SmoothSurrogate
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork


def varied_network(activation=nn.ReLU) -> SelfGradientNetwork:
    """Strides, groups, dilation, biases, pooling and a batch norm without parameters among the usual layers."""
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        activation(),
        nn.Conv2d(8, 8, 3, stride=2, padding=2, dilation=2, groups=4, bias=False),
        nn.BatchNorm2d(8),
        activation(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding="same", bias=False),
        nn.BatchNorm2d(12, affine=False),
        activation(),
        nn.Conv2d(12, 12, 1),
        nn.Flatten(),
        nn.Linear(12 * 4 * 4, 5),
    )
    network = SelfGradientNetwork(backbone, SelfGradientBlock(gradient_scaling="rms"))
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return network.train()


def loss_and_gradients(network, images, plain_share: float, cheap: bool, momentum: float = 0.0):
    """momentum: of the running statistics; above 0, the second pass moves them under PyTorch's own second derivative"""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
    labels = torch.arange(len(images), device=images.device) % 5
    if cheap:
        with CheapSecondDerivatives():
            plain, gradient = network.first_pass(images)
    else:
        plain, gradient = network.first_pass(images)
    loss = F.cross_entropy(network.second_pass(images, gradient), labels)
    if plain_share:
        loss = loss + plain_share * F.cross_entropy(plain, labels)
    parameters = dict(network.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return loss.detach(), gradient.detach(), dict(zip(parameters, gradients, strict=True))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU])
@pytest.mark.parametrize("plain_share", [0.0, 0.3])
def test_the_same_loss_to_the_last_bit_and_the_same_parameter_gradients(device, activation, plain_share):
    network = varied_network(activation).double().to(device)
    images = torch.rand(4, 3, 16, 16, dtype=torch.float64).to(device)
    loss, gradient, expected = loss_and_gradients(network, images, plain_share, cheap=False)
    cheap_loss, cheap_gradient, cheap = loss_and_gradients(network, images, plain_share, cheap=True)
    # The kernel of a sum may add in another order each time on a GPU.
    exact = {"rtol": 0, "atol": 0} if device.type == "cpu" else {"rtol": 1e-12, "atol": 1e-14}
    torch.testing.assert_close(cheap_loss, loss, **exact)
    torch.testing.assert_close(cheap_gradient, gradient, **exact)
    for name, value in expected.items():
        torch.testing.assert_close(cheap[name], value, rtol=1e-9, atol=1e-12, msg=name)
    # The control: without its second derivative, the first convolution's gradient is another one.
    with torch.no_grad():
        held = network.first_pass(images)[1]
    (forgetful,) = torch.autograd.grad(
        F.cross_entropy(network.second_pass(images, held), torch.arange(4, device=device)),
        network.get_parameter("backbone.0.weight"),
    )
    assert (forgetful - cheap["backbone.0.weight"]).norm() > 1e-3 * forgetful.norm()


def test_the_second_pass_does_not_move_the_statistics_under_the_first():
    network = varied_network().double()
    images = torch.rand(4, 3, 16, 16, dtype=torch.float64)
    _, _, expected = loss_and_gradients(network, images, 0.0, cheap=True, momentum=0.0)
    _, _, moved = loss_and_gradients(network, images, 0.0, cheap=True, momentum=0.5)
    for name, value in expected.items():
        assert torch.equal(moved[name], value), name


def test_the_same_loss_under_autocast_and_gradients_as_exact_as_pytorchs(network):
    """Float32 is the reference: PyTorch's own bfloat16 derivatives depend on the processor's kernels."""
    model = network(gradient_scaling="none", scale=8 / 255).train().to(memory_format=torch.channels_last)
    images = torch.rand(8, 3, 16, 16).to(memory_format=torch.channels_last)
    _, _, exact = loss_and_gradients(model, images, 0.0, cheap=False)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _, expected = loss_and_gradients(model, images, 0.0, cheap=False)
        cheap_loss, _, cheap = loss_and_gradients(model, images, 0.0, cheap=True)
    assert torch.equal(cheap_loss, loss)
    for name, value in exact.items():
        # Measured: PyTorch's error is at most 0.4 of a gradient's norm, and the ratio of the two at most 1.002.
        error, cheap_error = ((gradients[name] - value).norm() for gradients in (expected, cheap))
        assert cheap_error <= 1.1 * error, name
        assert cheap_error < 0.6 * value.norm(), name


class Convolutions(TorchDispatchMode):
    """Counts them: forward, and backward once for the input and once for the weight."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            self.count += sum(args[-1][:2])
        self.count += func is torch.ops.aten.convolution.default
        return func(*args, **(kwargs or {}))


def test_it_does_less_work(network):
    counts = {}
    for cheap in (False, True):
        with Convolutions() as convolutions:
            loss_and_gradients(network().train(), torch.rand(2, 3, 16, 16), 0.0, cheap)
        counts[cheap] = convolutions.count
    assert counts[True] < 0.85 * counts[False]


@pytest.mark.parametrize("training", [True, False])
def test_the_smooth_surrogate_has_the_same_derivative_at_less_work(training):
    model = varied_network().double().train(training).requires_grad_(False)
    images = torch.rand(3, 3, 16, 16, dtype=torch.float64)

    def by_pytorch(images):
        with SmoothSurrogate(20.0):
            return model.self_gradient(images)

    outputs, counts = [], []
    gradients: list[Tensor] = []
    for function in (by_pytorch, lambda images: smooth_self_gradient(model, images, 20.0)):
        given = images.clone().requires_grad_()
        with Convolutions() as convolutions:
            output = function(given)
            gradients += torch.autograd.grad((output * torch.arange(output.numel()).view_as(output)).sum(), given)
        outputs.append(output.detach())
        counts.append(convolutions.count)
    assert torch.equal(*outputs)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)
    assert counts[1] < counts[0]
