"""Standard training: cross-entropy."""

import copy

import pytest
import torch.nn.functional as F

from tests.training.methods.reference import configured, outcome


def test_standard_is_cross_entropy(network, batch):
    images, labels = batch
    model = network(block=False)
    loss, _ = outcome(model, configured("standard"), images, labels)
    assert loss == pytest.approx(F.cross_entropy(copy.deepcopy(model).train()(images), labels).item())
