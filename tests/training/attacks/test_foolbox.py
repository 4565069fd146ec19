"""Our PGD and CW against an independent implementation."""

import warnings

import eagerpy
import pytest
import torch

from training.attacks.projected_gradient import ProjectedGradientAscent, cross_entropy, margin

with warnings.catch_warnings():
    # It imports SciPy by names that will go in SciPy 2.
    warnings.simplefilter("ignore", DeprecationWarning)
    from foolbox import PyTorchModel
    from foolbox.attacks import LinfProjectedGradientDescentAttack

EPS = 8 / 255
STEP = 2 / 255
STEPS = 10


class CarliniWagner(LinfProjectedGradientDescentAttack):
    """Foolbox's PGD on the margin loss, written with its own tensors."""

    def get_loss_fn(self, model, labels):
        def loss(inputs):
            logits = model(inputs)
            rows = range(len(labels))
            right = logits[rows, labels]
            wrong = eagerpy.where(
                eagerpy.onehot_like(logits, labels) > 0, eagerpy.full_like(logits, -1e30), logits
            ).max(axis=-1)
            return (wrong - right).sum()

        return loss


@pytest.mark.parametrize(
    ("loss", "theirs"), [(cross_entropy, LinfProjectedGradientDescentAttack), (margin, CarliniWagner)]
)
def test_the_same_pictures_under_the_same_seed(network, loss, theirs):
    model = network(block=False)
    images = torch.rand(6, 3, 12, 12)
    images[:2] = images[:2].round()  # pixels at 0 and 1, where the image range binds
    labels = model(images).argmax(dim=1)
    torch.manual_seed(7)
    attack = ProjectedGradientAscent(eps=EPS, steps=STEPS, step_size=STEP, loss=loss, keep_best=False)
    ours = attack.perturb(model, images, labels)
    torch.manual_seed(7)
    attack = theirs(abs_stepsize=STEP, steps=STEPS, random_start=True)
    attacked = attack.run(PyTorchModel(model, bounds=(0, 1), device="cpu"), images, labels, epsilon=EPS)
    # They project the difference, we the picture: the last bit of a float32.
    torch.testing.assert_close(ours, attacked, rtol=0, atol=3e-7)
    assert (ours - images).abs().max() > 0.9 * EPS
