"""PGD and self-gradient training: cross-entropy after the attack's steps, against a reference written out anew."""

import pytest

from tests.training.methods.reference import (
    EPS,
    PRECISIONS,
    answers,
    assert_same_step,
    configured,
    made_step,
    pgd_by_hand,
    smoothed_cross_entropy,
    unmoved,
)
from training.attacks import views
from training.methods import build_method


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", ["pgd", "self-gradient"])
@pytest.mark.parametrize("attack", [(1, "uniform", 0.0), (3, "uniform", 0.2), (1, "image", 0.2), (3, "image", 0.0)])
def test_self_gradient_and_pgd_are_cross_entropy_after_k_steps(network, batch, method, attack, precision):
    images, labels = batch
    steps, start, smoothing = attack
    options = {"attack_steps": steps, "attack_step_size": 4 / 255, "attack_start": start}
    model = network(scale=EPS, block=method == "self-gradient")
    made = made_step(model, build_method(configured(method, label_smoothing=smoothing, **options)), batch, precision)
    reference = unmoved(model).train()
    seen = answers(reference if method == "pgd" else views.held_view(reference), precision)
    attacked = pgd_by_hand(seen, images, labels, steps, 4 / 255, start)
    assert (attacked - images).abs().max() <= EPS + 1e-6
    expected = smoothed_cross_entropy(answers(reference, precision)(attacked), labels, smoothing)
    assert_same_step(made, expected, reference, precision)
