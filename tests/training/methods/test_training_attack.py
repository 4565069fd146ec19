"""The inner maximisation that most methods share."""

import torch

from tests.training.methods.reference import EPS, configured
from training.attacks.pgd import noise_fgsm
from training.methods.training_attack import TrainingAttack


def test_n_fgsm_is_the_step_of_the_attacks(network, batch):
    images, labels = batch
    model = network(block=False)
    attack = TrainingAttack.of(configured("pgd", attack="n-fgsm"))
    torch.manual_seed(0)
    attacked = attack(model, images, labels)
    torch.manual_seed(0)
    assert torch.equal(attacked, noise_fgsm(model, images, labels, eps=EPS))


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
