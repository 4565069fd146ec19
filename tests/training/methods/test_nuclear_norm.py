"""NuAT against a reference written out anew, in float64 and under bf16 autocast."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.training.methods.reference import (
    EPS,
    EXACT_OR_BF16,
    answers,
    assert_same_attack,
    assert_same_loss,
    assert_same_step,
    autocast,
    configured,
    in_type,
    made_step,
    sign_step,
    smoothed_cross_entropy,
    unmoved,
)
from training.methods import StepContext, build_method
from training.methods.nuclear_norm import NuclearNormTraining, nuclear_norm


def norm_by_hand(one, other):
    """The sum of the roots of the eigenvalues of D^T D, over the number of pictures."""
    difference = (one - other).double()
    return torch.linalg.eigvalsh(difference.T @ difference).clamp(min=0).sqrt().sum() / len(difference)


def attack_by_hand(seen, images, labels, steps, weight, start):
    clean = seen(images).detach()
    current = start
    for nuclear in steps:
        current = current.detach().requires_grad_()
        logits = seen(current)
        raised = F.cross_entropy(logits, labels)
        if nuclear:
            raised = raised + weight * norm_by_hand(logits, clean)
        (gradient,) = torch.autograd.grad(raised, current)
        current = sign_step(images, current, EPS * gradient.sign())
    return current


@pytest.mark.parametrize("precision", EXACT_OR_BF16)
@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("turns", [(0, [False]), (1, [True]), (0, [True, False])])
def test_nuat_is_the_clean_loss_plus_the_ramped_norm(network, batch, turns, prior, precision):
    labels = batch[1]
    step, nuclear = turns
    steps = len(nuclear)
    model, images = in_type(precision, network(block=False).train(), batch[0])
    progress, weight, smoothing = 0.25, 8.0, 0.1
    method = build_method(configured("nuat", attack_steps=steps, nuclear_weight=weight, label_smoothing=smoothing))
    last = EPS * torch.rand(images.shape, dtype=images.dtype).sub(0.5).sign() if prior else None
    made = made_step(model, method, (images, labels), precision, StepContext(progress, step, last))

    torch.manual_seed(0)
    drawn = EPS * torch.empty_like(images).bernoulli_(0.5) - EPS / 2 if last is None else last
    start = (images + drawn).clamp(0, 1)
    attacked = attack_by_hand(
        answers(unmoved(model).train(), precision), images, labels, nuclear, progress * weight, start
    )
    # An attack without the norm, or with it in the wrong steps, has turned a quarter of the values and more.
    assert_same_attack(made.batch.attacked, attacked, precision, exact=1e-12, turned=0.15)
    seen = answers(model, precision)
    clean, moved = seen(images), seen(made.batch.attacked)
    expected = smoothed_cross_entropy(clean, labels, smoothing) + progress * weight * norm_by_hand(moved, clean)
    assert_same_step(made, expected, model, precision, exact=1e-10, gradients=1e-10)
    error = 1e-3 if precision == "bf16" else 1e-10
    for (name, one), other in zip(made.network.named_buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=error, atol=error, msg=name)


@pytest.mark.parametrize("steps", [1, 2])
def test_the_shared_pass_gives_what_two_passes_give(network, batch, steps):
    images, labels = batch
    shared = build_method(configured("nuat", attack_steps=steps))
    assert isinstance(shared, NuclearNormTraining)
    results, calls = [], []
    for method in (shared, replace(shared, keep_clean_pass=False)):
        model = network(block=False).train()
        model.backbone.register_forward_pre_hook(lambda *_: calls.append(1))
        torch.manual_seed(0)
        step = method.loss(model, method.attack(model, images, labels, StepContext(step=1)))
        step.backward()
        results.append([step.loss, *(value.grad for value in model.parameters()), *model.buffers()])
        calls.append(0)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*results, strict=True))
    first = calls.index(0)
    assert sum(calls[:first]) == steps + 2
    assert sum(calls[first:]) == steps + 3


@pytest.mark.parametrize("precision", EXACT_OR_BF16)
def test_one_pass_for_both_normalises_by_both(network, batch, precision):
    labels = batch[1]
    model, images = in_type(precision, network(block=False).train(), batch[0])
    for name in ("nuat", "trades"):
        method = build_method(configured(name, attack_steps=1, joint_pass=True))
        trained = copy.deepcopy(model)
        made = method.attack(trained, images, labels)
        assert made.kept is None
        with autocast(precision):
            loss = method.loss(trained, made).loss
        clean, attacked = answers(copy.deepcopy(model), precision)(torch.cat([images, made.attacked])).chunk(2)
        if name == "nuat":
            expected = F.cross_entropy(clean, labels) + 4 * norm_by_hand(attacked, clean)
        else:
            shares = clean.softmax(dim=1)
            moved = (shares * (shares.log() - attacked.log_softmax(dim=1))).sum(dim=1).mean()
            expected = F.cross_entropy(clean, labels) + 6 * moved
        assert_same_loss(loss, expected, precision, exact=1e-10)


def test_the_norm_of_the_same_logits_is_nothing_and_can_be_differentiated():
    logits = torch.randn(6, 5, requires_grad=True)
    norm = nuclear_norm(logits, logits.detach().clone())
    norm.backward()
    assert norm.item() == 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert nuclear_norm(logits.bfloat16(), logits.bfloat16()).dtype == torch.float32


def test_a_network_that_diverged_has_a_loss_that_is_not_finite(network, batch):
    images, labels = batch
    model = network(block=False).train()
    with torch.no_grad():
        next(model.backbone.parameters()).fill_(float("nan"))
    method = build_method(configured("nuat"))
    result = method.loss(model, method.attack(model, images, labels, StepContext(0.5, 1)))
    result.backward()
    assert result.loss.isnan()
