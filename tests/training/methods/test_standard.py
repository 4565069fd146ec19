"""Standard training: cross-entropy."""

import copy

import pytest

from tests.training.methods.reference import (
    PRECISIONS,
    answers,
    assert_same_gradients,
    assert_same_loss,
    configured,
    smoothed_cross_entropy,
    trained,
)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_standard_is_cross_entropy(network, batch, smoothing, precision):
    images, labels = batch
    model = network(block=False)
    loss, found = trained(model, configured("standard", label_smoothing=smoothing), images, labels, precision)
    reference = copy.deepcopy(model).train()
    expected = smoothed_cross_entropy(answers(reference, precision)(images), labels, smoothing)
    expected.backward()
    assert_same_loss(loss, expected, precision)
    assert_same_gradients(found, reference, precision)
