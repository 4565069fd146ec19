"""FGSM-PGI's regulariser against a reference written out anew, in float64."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.training.methods.reference import EPS, configured, unmoved
from training.methods import StepContext, build_method
from training.methods.start_consistency import StartConsistencyTraining

OPTIONS = {
    "uniform": {"attack_start": "uniform"},
    "prior": {"attack_start": "prior"},
    "noise": {"attack": "n-fgsm"},
}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("start", OPTIONS)
def test_it_adds_the_squared_difference_to_the_start(network, batch, start, keep):
    images, labels = batch[0].double(), batch[1]
    model = network(block=False).double().train()
    options = {"attack_steps": 1, "attack_step_size": EPS, "start_consistency": 10.0, "label_smoothing": 0.1}
    method = build_method(configured("pgd", **options, **OPTIONS[start]))
    assert isinstance(method, StartConsistencyTraining)
    method = replace(method, keep_start_pass=keep)
    last = EPS * torch.rand(images.shape, dtype=torch.double).sub(0.5).sign()
    trained = copy.deepcopy(model)
    torch.manual_seed(0)
    made = method.attack(trained, images, labels, StepContext(prior=last if start == "prior" else None))
    step = method.loss(trained, made)
    step.backward()

    torch.manual_seed(0)
    if start == "noise":
        first = images + torch.empty_like(images).uniform_(-2 * EPS, 2 * EPS)
    else:
        drawn = last if start == "prior" else torch.empty_like(images).uniform_(-EPS, EPS)
        first = (images + drawn).clamp(0, 1)
    seen = unmoved(model).train()
    leaf = first.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(seen(leaf), labels), leaf)
    attacked = (first + EPS * gradient.sign()).clamp(0, 1)
    if start != "noise":
        attacked = torch.minimum(torch.maximum(attacked, images - EPS), images + EPS)
    torch.testing.assert_close(made.attacked, attacked, rtol=0, atol=1e-12)
    before, after = seen(first), seen(attacked)
    smooth = 0.9 * F.one_hot(labels, 5).double() + 0.1 / 5
    expected = -(smooth * after.log_softmax(dim=1)).sum(dim=1).mean() + 10 * ((after - before) ** 2).mean()
    expected.backward()
    torch.testing.assert_close(step.loss, expected, rtol=0, atol=1e-10)
    for (name, one), other in zip(trained.named_parameters(), seen.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-10, msg=name)


def test_the_attack_is_that_of_plain_training(network, batch):
    images, labels = batch
    made = []
    for weight in (0.0, 10.0):
        method = build_method(configured("pgd", attack_steps=1, start_consistency=weight))
        torch.manual_seed(0)
        made.append(method.attack(network(block=False).train(), images, labels))
    assert torch.equal(made[0].attacked, made[1].attacked)
