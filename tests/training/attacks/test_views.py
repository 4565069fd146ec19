import torch
from torch import nn

from training.attacks.views import averaged_view, full_view, held_view, smooth_view, straight_through_view
from training.derivatives.smooth_surrogate import SmoothSurrogate
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork


def image_gradient(view, images):
    images = images.clone().requires_grad_()
    logits = view(images)
    return logits.detach(), torch.autograd.grad(logits.square().sum(), images)[0]


def test_views_have_the_networks_exact_logits(network):
    model = network()
    images = torch.rand(3, 3, 16, 16)
    exact = model(images).detach()
    for view in (full_view(model), held_view(model), smooth_view(model, 5.0)):
        torch.testing.assert_close(image_gradient(view, images)[0], exact, rtol=0, atol=1e-5)


def test_double_backward_is_blind_to_the_block_and_the_smooth_surrogate_is_not(network):
    model = network().double()
    images = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    held = image_gradient(held_view(model), images)[1]
    full = image_gradient(full_view(model), images)[1]
    smooth = image_gradient(smooth_view(model, 5.0), images)[1]
    torch.testing.assert_close(full, held)
    assert (smooth - held).norm() > 0.01 * held.norm()


def test_smooth_view_of_a_smooth_network_is_its_true_derivative(network):
    """The surrogate's derivative is that of the function it stands for, once the smoothing is on everywhere."""
    model = network().double()
    images = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    with SmoothSurrogate(5.0):
        gradient = image_gradient(smooth_view(model, 5.0), images)[1]
        step = 1e-6
        shift = torch.zeros_like(images)
        shift[0, 1, 3, 3] = step
        with torch.no_grad():
            difference = (model(images + shift).square().sum() - model(images - shift).square().sum()) / (2 * step)
    torch.testing.assert_close(gradient[0, 1, 3, 3], difference, rtol=1e-5, atol=1e-8)


def test_smooth_view_sees_the_block_behind_any_piecewise_linear_layers():
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.LeakyReLU(0.1), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    model = SelfGradientNetwork(backbone, SelfGradientBlock(gradient_scaling="rms")).double().eval()
    images = torch.rand(3, 3, 12, 12, dtype=torch.float64)
    held = image_gradient(held_view(model), images)[1]
    torch.testing.assert_close(image_gradient(full_view(model), images)[1], held)
    logits, smooth = image_gradient(smooth_view(model, 5.0), images)
    torch.testing.assert_close(logits, model(images).detach())
    assert (smooth - held).norm() > 0.01 * held.norm()


def test_logits_are_exact(network):
    images = torch.rand(3, 3, 12, 12)
    for scaling in ("rms", "none"):
        model = network(gradient_scaling=scaling)
        exact = model(images).detach()
        for view in (straight_through_view(model, 20.0), averaged_view(held_view(model), 3, 0.01)):
            torch.testing.assert_close(image_gradient(view, images)[0], exact, rtol=0, atol=1e-5)
    plain = network(block=False)
    torch.testing.assert_close(straight_through_view(plain, 20.0)(images), plain(images))


def test_straight_through_sees_a_block_whose_tanh_layers_are_saturated(network):
    model = network(scale=0.1).double()
    with torch.no_grad():
        for convolution in model.block.convolutions:
            convolution.weight.mul_(30)
    images = torch.rand(2, 3, 12, 12, dtype=torch.float64)
    held = image_gradient(held_view(model), images)[1]
    smooth = image_gradient(smooth_view(model, 5.0), images)[1]
    through = image_gradient(straight_through_view(model, 5.0), images)[1]
    assert (through - held).norm() > 10 * (smooth - held).norm()


def test_straight_through_of_an_identity_block_is_the_smooth_view(network):
    """Where the block is the identity times its scale to first order, stepping over it changes nothing."""
    model = network(gradient_scaling="none", scale=1.0).double()
    with torch.no_grad():
        for convolution in model.block.convolutions:
            convolution.weight.copy_(torch.eye(3, dtype=torch.float64)[:, :, None, None])
        # The gradient is so small that tanh is linear.
        model.backbone.classifier.weight.mul_(1e-4)
    images = torch.rand(2, 3, 12, 12, dtype=torch.float64)
    smooth = image_gradient(smooth_view(model, 5.0), images)[1]
    through = image_gradient(straight_through_view(model, 5.0), images)[1]
    torch.testing.assert_close(through, smooth, rtol=1e-3, atol=1e-12)


def test_averaging_is_over_the_neighbourhood():
    """A gradient that flips sign from cell to cell averages out; a constant one stays."""
    images = torch.full((1, 3, 4, 4), 0.5)
    torch.manual_seed(0)

    def rippled(inputs):
        return (inputs + 0.01 * torch.sin(1000 * inputs)).flatten(1).sum(dim=1, keepdim=True)

    def slope(view):
        inputs = images.clone().requires_grad_()
        return torch.autograd.grad(view(inputs).sum(), inputs)[0]

    raw = slope(rippled) - 1
    averaged = slope(averaged_view(rippled, 200, 0.05)) - 1
    assert averaged.abs().mean() < 0.2 * raw.abs().mean()
