import pytest
import torch

from training.attacks.projected_gradient import cross_entropy, margin
from training.attacks.registry import Context, build_attacks
from training.attacks.views import averaged_view
from training.evaluate.diagnostics.determinism import batch_dependence, products_on_a_gpu, randomness
from training.evaluate.diagnostics.gradient_check import finite_difference_correlations, zero_gradient_share
from training.evaluate.measuring import Trial, withstood

EPS = 8 / 255


@pytest.fixture
def linear():
    torch.manual_seed(0)
    weight = torch.randn(3 * 4 * 4, 5)
    return lambda images: images.flatten(1) @ weight


def test_correlation_is_one_for_a_true_gradient_minus_one_for_its_opposite_and_zero_for_none(linear):
    images, labels = torch.rand(3, 3, 4, 4), torch.tensor([0, 1, 2])

    def opposite(inputs):
        exact = linear(inputs)
        return exact.detach() - (exact - exact.detach())

    def flat(inputs):
        return linear(inputs).detach() + 0 * inputs.sum()

    gradients = {"true": linear, "opposite": opposite, "flat": flat}
    found = finite_difference_correlations(Trial(linear, images, labels, EPS, seed=0), gradients)
    assert found["true"] == pytest.approx(1, abs=1e-3)
    assert found["opposite"] == pytest.approx(-1, abs=1e-3)
    assert found["flat"] == 0


def test_an_unrelated_gradient_is_near_zero(linear):
    torch.manual_seed(1)
    other = torch.randn(3 * 4 * 4, 5)
    images, labels = torch.rand(40, 3, 4, 4), torch.randint(5, (40,))
    gradients = {"other": lambda inputs: inputs.flatten(1) @ other}
    found = finite_difference_correlations(Trial(linear, images, labels, EPS, seed=0), gradients)
    assert abs(found["other"]) < 0.2


def test_views_that_draw_noise_give_the_same_figure_each_time_whatever_stands_beside_them(linear):
    class Bent(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return linear(images).tanh()

    bent = Bent()

    averaged = averaged_view(bent, samples=2, noise=0.5)
    trial = Trial(bent, torch.rand(5, 3, 4, 4), torch.randint(5, (5,)), EPS, seed=3)
    torch.manual_seed(1)
    first = finite_difference_correlations(trial, {"averaged": averaged})
    torch.manual_seed(2)
    second = finite_difference_correlations(trial, {"plain": bent, "another": averaged, "averaged": averaged})
    assert first["averaged"] == second["averaged"] == second["another"] != second["plain"]


def test_zero_gradients_are_counted_on_rightly_classified_pictures_alone(linear):
    images = torch.rand(6, 3, 4, 4)
    labels = linear(images).argmax(dim=1)
    assert zero_gradient_share(linear, images, labels) == 0
    assert zero_gradient_share(lambda inputs: 1e6 * linear(inputs), images, labels, cross_entropy) == 1
    assert zero_gradient_share(lambda inputs: 1e6 * linear(inputs), images, labels, margin) == 0
    assert zero_gradient_share(lambda inputs: 1e6 * linear(inputs), images, (labels + 1) % 5) == 0


def test_gradients_that_are_nan_count_as_leading_nowhere(linear):
    images = torch.rand(4, 3, 4, 4)
    labels = linear(images).argmax(dim=1)

    def view(pictures):
        root = (pictures[:, :, :1] * 0).sqrt().sum(dim=(1, 2, 3))  # 0, and its gradient is 0 times infinity
        return linear(pictures) + root[:, None] * torch.arange(linear(pictures).shape[1])

    assert zero_gradient_share(view, images, labels, margin) == 1.0


def test_pictures_that_are_answered_with_nan_are_not_withstood(linear):
    def network(pictures, self_gradient=True):
        return torch.full((len(pictures), 5), float("nan"))

    trial = Trial(network, torch.rand(4, 3, 4, 4), torch.zeros(4, dtype=torch.long), eps=0.1, seed=0)
    (clean,) = build_attacks(["clean"], Context(eps=0.1, has_block=False, classes=5))
    assert not withstood(trial, clean).any()


def test_answers_that_depend_on_the_batch_or_on_chance_are_measured(linear):
    images = torch.rand(4, 3, 4, 4)

    def alone(inputs, self_gradient=True):
        return linear(inputs)

    def together(inputs, self_gradient=True):
        return linear(inputs - inputs.mean(dim=0))

    def chance(inputs, self_gradient=True):
        return linear(inputs + 0.01 * torch.randn_like(inputs))

    assert batch_dependence(alone, images) < 1e-5
    assert batch_dependence(together, images) > 0.01
    assert randomness(alone, images) == 0
    assert randomness(chance, images) > 1e-4


def test_the_rounding_of_tf32_is_no_dependence_on_the_batch(linear):
    """A GPU's convolutions round to TF32 by default, for each size of the batch otherwise."""
    images = torch.rand(4, 3, 4, 4)
    products = products_on_a_gpu()
    before = [kind.fp32_precision for kind in products]

    def rounded(inputs, self_gradient=True):
        rounding = any(kind.fp32_precision != "ieee" for kind in products)
        return linear(inputs) * (1 + 0.001 * len(inputs) * rounding)

    assert batch_dependence(rounded, images) < 1e-5
    assert [kind.fp32_precision for kind in products] == before
