"""PGD and self-gradient training: cross-entropy after the attack's steps, against a reference written out anew."""

import pytest
import torch.nn.functional as F

from tests.training.methods.reference import EPS, configured, outcome, pgd_by_hand, unmoved
from training.attacks import views


@pytest.mark.parametrize(("steps", "start"), [(1, "uniform"), (3, "uniform"), (1, "image"), (3, "image")])
def test_self_gradient_and_pgd_are_cross_entropy_after_k_steps(network, batch, steps, start):
    images, labels = batch
    options = {"attack_steps": steps, "attack_step_size": 4 / 255, "attack_start": start}
    for method in ("pgd", "self-gradient"):
        model = network(scale=EPS, block=method == "self-gradient")
        loss, _ = outcome(model, configured(method, **options), images, labels)
        reference = unmoved(model).train()
        logits_of = reference if method == "pgd" else views.held_view(reference)
        attacked = pgd_by_hand(logits_of, images, labels, steps, 4 / 255, start)
        assert loss == pytest.approx(F.cross_entropy(reference(attacked), labels).item(), rel=1e-5)
        assert (attacked - images).abs().max() <= EPS + 1e-6
