import pytest
import torch
import torch.nn.functional as F

from training.views import SmoothReLU, full_view, held_view, smooth_view


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
    """With the smoothing on everywhere, the surrogate's derivative is that of the function it stands for."""
    model = network().double()
    images = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    with SmoothReLU(5.0):
        gradient = image_gradient(smooth_view(model, 5.0), images)[1]
        step = 1e-6
        shift = torch.zeros_like(images)
        shift[0, 1, 3, 3] = step
        with torch.no_grad():
            difference = (model(images + shift).square().sum() - model(images - shift).square().sum()) / (2 * step)
    torch.testing.assert_close(gradient[0, 1, 3, 3], difference, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    "relu", [torch.relu, F.relu, torch.nn.ReLU(), torch.nn.ReLU(inplace=True), lambda x: x.clone().relu_()]
)
def test_smooth_relu_reaches_every_way_to_call_relu(relu):
    values = torch.linspace(-1, 1, 5)
    with SmoothReLU(3.0):
        smooth = relu(values.clone())
    torch.testing.assert_close(smooth, F.softplus(values, beta=3.0))
    assert torch.equal(relu(values.clone()), values.clamp(min=0))
