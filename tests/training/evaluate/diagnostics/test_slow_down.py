import pytest
import torch

from training.evaluate.diagnostics.slow_down import measure_slow_down, needed, slow_all, slow_each
from training.evaluate.measuring import Trial
from training.networks.self_gradient import probability_margin

EPS = 0.1


@pytest.fixture
def trial(network):
    model = network().requires_grad_(False)
    images = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.auto_margin = probability_margin(model(images, self_gradient=False)).quantile(0.2).item()
    return Trial(model, images, torch.zeros(20, dtype=torch.long), EPS, 0, batch_size=8)


def test_pictures_are_made_to_need_the_second_pass(trial):
    before = needed(trial, trial.images)
    slowed = slow_each(trial.model, trial.images, EPS)
    assert (slowed - trial.images).abs().max() <= EPS + 1e-6
    assert torch.equal(slowed[before], trial.images[before]), "what needs it already is left alone"
    assert needed(trial, slowed).sum() > before.sum() + 5


def test_one_perturbation_for_all(trial):
    universal = slow_all(trial)
    assert universal.shape == (1, 3, 16, 16)
    assert universal.abs().max() <= EPS + 1e-6
    attacked = needed(trial, (trial.images + universal).clamp(0, 1))
    assert attacked.sum() > needed(trial, trial.images).sum()


def test_what_is_taken_is_a_share_of_the_saved_passes(trial):
    found = measure_slow_down(trial)
    assert found.second_pass == pytest.approx(0.2)
    assert found.per_picture_taken == pytest.approx((found.per_picture - 0.2) / 0.8)
    assert found.universal_pictures == 10
    assert found.per_picture >= found.universal_second_pass
    trial.model.auto_margin = 1.0
    assert measure_slow_down(trial).per_picture_taken == 0, "nothing is saved"
    trial.model.auto_margin = None
    with pytest.raises(ValueError, match="saves nothing"):
        measure_slow_down(trial)
