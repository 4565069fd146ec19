"""Standard training: cross-entropy."""

import copy

import pytest

from tests.training.methods.reference import (
    PRECISIONS,
    answers,
    assert_same_step,
    configured,
    made_step,
    smoothed_cross_entropy,
)
from training.methods import build_method


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_standard_is_cross_entropy(network, batch, smoothing, precision):
    images, labels = batch
    model = network(block=False)
    made = made_step(model, build_method(configured("standard", label_smoothing=smoothing)), batch, precision)
    reference = copy.deepcopy(model).train()
    expected = smoothed_cross_entropy(answers(reference, precision)(images), labels, smoothing)
    assert_same_step(made, expected, reference, precision, gradients=1e-5)
