"""The inner maximisation that most methods share."""

import pytest
import torch

from tests.training.methods.reference import (
    EPS,
    PRECISIONS,
    answers,
    assert_same_attack,
    autocast,
    configured,
    loss_gradient,
)
from training.methods.training_attack import TrainingAttack


@pytest.mark.parametrize("precision", PRECISIONS)
def test_n_fgsm_is_one_step_from_a_noisier_picture(network, batch, precision):
    images, labels = batch
    model = network(block=False)
    attack = TrainingAttack.of(configured("pgd", attack="n-fgsm"))
    torch.manual_seed(0)
    with autocast(precision):
        attacked = attack(model, images, labels)
    torch.manual_seed(0)
    noisy = images + torch.empty_like(images).uniform_(-2 * EPS, 2 * EPS)
    gradient = loss_gradient(answers(model, precision), noisy, labels)
    assert_same_attack(attacked, (noisy + EPS * gradient.sign()).clamp(0, 1), precision)


def test_pgd_returns_its_last_iterate_and_not_the_best(network, batch):
    images, labels = batch
    model = network(block=False)
    attack = TrainingAttack.of(configured("pgd", attack_steps=3, attack_step_size=EPS, attack_start="image"))
    iterates = [images]
    one = TrainingAttack("pgd", 1.0, 1, EPS, "image")
    for _ in range(3):
        moved = one(model, iterates[-1], labels)
        iterates.append(torch.minimum(torch.maximum(moved, images - EPS), images + EPS).clamp(0, 1))
    torch.testing.assert_close(attack(model, images, labels), iterates[-1])
