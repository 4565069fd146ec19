import pytest
import torch

from training.evaluate.diagnostics.convergence import Iteration, iterate, measure_convergence


class Quadratic(torch.nn.Module):
    """L(x) = 0.5 |x|^2 per image, so the gradient is x and every step of the iteration is known."""

    def forward(self, images):
        return 0.5 * images.flatten(1).square().sum(dim=1, keepdim=True)


def test_the_iteration_of_a_known_function():
    from training.networks.self_gradient import SelfGradientNetwork

    model = SelfGradientNetwork(Quadratic(), None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).eval()
    images = torch.rand(2, 3, 4, 4)
    epsilon = 0.1
    measured = iterate(model, images, lambda gradient: epsilon * gradient, epsilon, iterations=5)
    # g_n = x (1 + e + ... + e^(n-1)): the change of step n is e^(n-1) |x|.
    norm = images.flatten(1).norm(dim=1).mean().item()
    assert measured.gradient_change == pytest.approx([norm * epsilon**n for n in range(5)], rel=1e-3)
    assert measured.within_bound()
    assert measured.left_over() == pytest.approx(epsilon**4, rel=1e-2)
    assert len(measured.value_change) == 4


def test_an_iteration_that_does_not_settle_breaks_the_bound():
    assert not Iteration(0.1, [1.0, 0.5, 0.5], [0.1, 0.1]).within_bound()
    assert Iteration(0.1, [1.0, 0.5, 0.5], [0.1, 0.1]).left_over() == 0.5


def test_both_forms_of_a_network(network):
    images = torch.rand(3, 3, 12, 12, dtype=torch.double)
    model = network(scale=8 / 255).double()
    measured = measure_convergence(model, images, eps=8 / 255, iterations=4)
    assert set(measured) == {"block", "eps * gradient"}
    parts = measure_convergence(model, images, eps=8 / 255, iterations=4, batch_size=2)
    for name, iteration in measured.items():
        assert parts[name].gradient_change == pytest.approx(iteration.gradient_change, rel=1e-4)
        assert parts[name].value_change == pytest.approx(iteration.value_change, rel=1e-4)
    first = model.self_gradient(images).flatten(1).norm(dim=1).mean().item()
    for iteration in measured.values():
        assert iteration.gradient_change[0] == pytest.approx(first, rel=1e-5)
        assert len(iteration.gradient_change) == 4
    with pytest.raises(ValueError, match="no self-gradient block"):
        measure_convergence(network(block=False), images, eps=8 / 255)
