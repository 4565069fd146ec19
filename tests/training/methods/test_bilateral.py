"""Bilateral training against the authors' formulas, written out anew."""

import copy

import pytest
import torch
import torch.nn.functional as F

from tests.training.methods.reference import (
    EPS,
    PRECISIONS,
    answers,
    assert_same_attack,
    assert_same_step,
    configured,
    made_step,
    sign_step,
)
from training.methods import build_method
from training.methods.bilateral import most_confusing, perturbed_labels, random_wrong_class


@pytest.mark.parametrize("beta", [9.0, 11.0])
def test_perturbed_labels_are_the_authors_formula(beta):
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(4, 10), torch.tensor([1, 0, 9, 4])
    perturbed = perturbed_labels(logits, labels, beta)
    torch.testing.assert_close(perturbed.sum(dim=1), torch.ones(4))
    for row, right, result in zip(logits.tolist(), labels.tolist(), perturbed.tolist(), strict=True):
        value = (-torch.tensor(row).log_softmax(dim=0)).tolist()
        wrong = [k for k in range(10) if k != right]
        lowest = min(value[k] for k in wrong)
        total = sum(value[k] - lowest + 0.01 for k in wrong)
        largest = max((value[k] - lowest + 0.01) / total for k in wrong)
        epsilon = 1 / (1 + beta * largest)
        assert result[right] == pytest.approx(1 - epsilon, abs=1e-5)
        for k in wrong:
            assert result[k] == pytest.approx(epsilon * (value[k] - lowest + 0.01) / total, abs=1e-5)
        assert result[right] == pytest.approx(beta * max(result[k] for k in wrong), rel=1e-4)
        assert 1 / (1 + beta) < epsilon <= 1 / (1 + beta / 9)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bilateral_moves_pictures_towards_the_most_confusing_class(network, batch, precision):
    images, labels = batch
    model = network(block=False)
    made = made_step(model, build_method(configured("bilateral")), batch, precision)
    frozen = answers(copy.deepcopy(model).eval(), precision)
    aims = frozen(images).scatter(1, labels[:, None], float("-inf")).argmax(dim=1)
    torch.manual_seed(0)
    start = (images + torch.empty_like(images).uniform_(-EPS, EPS)).clamp(0, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(frozen(start), aims), start)
    expected = sign_step(images, start, -EPS * gradient.sign())
    assert_same_attack(made.batch.attacked, expected, precision)
    reference = copy.deepcopy(model).train()
    logits = answers(reference, precision)(expected)
    shares = perturbed_labels(frozen(images).detach(), labels, 9.0)
    by_hand = -(shares * logits.log_softmax(dim=1)).sum(dim=1).mean()
    assert_same_step(made, by_hand, reference, precision)


def test_the_classes_that_bilateral_aims_at_are_wrong_ones():
    logits = torch.tensor([[5.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    assert most_confusing(logits, torch.tensor([0, 1])).tolist() == [2, 2]
    labels = torch.arange(3).repeat(50)
    drawn = random_wrong_class(labels, 3)
    assert not (drawn == labels).any()
    assert set(drawn.tolist()) == {0, 1, 2}
