"""FGSM-PGI's regulariser against a reference written out anew, in float64 and under bf16 autocast."""

from dataclasses import replace

import pytest
import torch

from tests.training.methods.reference import (
    EPS,
    EXACT_OR_BF16,
    answers,
    assert_same_attack,
    assert_same_step,
    configured,
    in_type,
    loss_gradient,
    made_step,
    sign_step,
    smoothed_cross_entropy,
    unmoved,
)
from training.methods import StepContext, build_method
from training.methods.start_consistency import StartConsistencyTraining

OPTIONS = {
    "uniform": {"attack_start": "uniform"},
    "prior": {"attack_start": "prior"},
    "noise": {"attack": "n-fgsm"},
}


@pytest.mark.parametrize("precision", EXACT_OR_BF16)
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("start", OPTIONS)
def test_it_adds_the_squared_difference_to_the_start(network, batch, start, keep, precision):
    labels = batch[1]
    model, images = in_type(precision, network(block=False).train(), batch[0])
    options = {"attack_steps": 1, "attack_step_size": EPS, "start_consistency": 10.0, "label_smoothing": 0.1}
    method = build_method(configured("pgd", **options, **OPTIONS[start]))
    assert isinstance(method, StartConsistencyTraining)
    method = replace(method, keep_start_pass=keep)
    last = EPS * torch.rand(images.shape, dtype=images.dtype).sub(0.5).sign()
    context = StepContext(prior=last if start == "prior" else None)
    made = made_step(model, method, (images, labels), precision, context)

    torch.manual_seed(0)
    if start == "noise":
        first = images + torch.empty_like(images).uniform_(-2 * EPS, 2 * EPS)
    else:
        drawn = last if start == "prior" else torch.empty_like(images).uniform_(-EPS, EPS)
        first = (images + drawn).clamp(0, 1)
    reference = unmoved(model).train()
    seen = answers(reference, precision)
    move = EPS * loss_gradient(seen, first, labels).sign()
    # N-FGSM may leave the ball.
    attacked = (first + move).clamp(0, 1) if start == "noise" else sign_step(images, first, move)
    assert_same_attack(made.batch.attacked, attacked, precision, exact=1e-12)
    before, after = seen(first), seen(attacked)
    expected = smoothed_cross_entropy(after, labels, 0.1) + 10 * ((after - before) ** 2).mean()
    assert_same_step(made, expected, reference, precision, exact=1e-10, gradients=1e-10)


def test_the_attack_is_that_of_plain_training(network, batch):
    images, labels = batch
    made = []
    for weight in (0.0, 10.0):
        method = build_method(configured("pgd", attack_steps=1, start_consistency=weight))
        torch.manual_seed(0)
        made.append(method.attack(network(block=False).train(), images, labels))
    assert torch.equal(made[0].attacked, made[1].attacked)
