"""LIET against a reference written out anew, in float64 and under bf16 autocast."""

import copy
from dataclasses import replace

import pytest
import torch

from tests.training.methods.reference import (
    EPS,
    EXACT_OR_BF16,
    answers,
    assert_same_attack,
    assert_same_step,
    configured,
    in_type,
    loss_gradient,
    made_step,
    sign_step,
    smoothed_cross_entropy,
    unmoved,
)
from training.methods import StepContext, build_method
from training.methods.label_information import LabelInformationTraining, label_patterns


@pytest.mark.parametrize("precision", EXACT_OR_BF16)
@pytest.mark.parametrize("seed", [0, 1, 2])  # their signs differ
@pytest.mark.parametrize("keep", [True, False])
def test_liet_starts_at_the_labels_patterns_and_adds_the_ramped_divergence(network, batch, seed, keep, precision):
    labels = batch[1]
    model, images = in_type(precision, network(block=False).train(), batch[0])
    progress = 0.25
    method = build_method(configured("liet", label_smoothing=0.1))
    assert isinstance(method, LabelInformationTraining)
    method = replace(method, keep_start_pass=keep)
    made = made_step(model, method, (images, labels), precision, StepContext(progress), seed)

    grey = torch.full((5, 3, 8, 8), 0.5, dtype=images.dtype)
    frozen = answers(copy.deepcopy(model).eval(), precision)
    pattern = EPS * loss_gradient(frozen, grey, torch.arange(5)).sign()[labels]
    torch.manual_seed(seed)
    share = 0.1 + 0.4 * torch.rand(()).item()
    sign = 1 if torch.rand(()).item() < 0.5 else -1
    masked = torch.empty_like(images).uniform_(0, 1) < share
    pattern[masked] = torch.empty_like(images).uniform_(-EPS, EPS)[masked]
    first = (images + sign * pattern).clamp(0, 1)
    reference = unmoved(model).train()
    seen = answers(reference, precision)
    attacked = sign_step(images, first, EPS * loss_gradient(seen, first, labels).sign())
    assert_same_attack(made.batch.attacked, attacked, precision, exact=1e-12)
    p, logits = seen(first).softmax(dim=1), seen(attacked)
    q = logits.softmax(dim=1)
    middle = (p + q) / 2
    divergence = ((p * (p / middle).log()).sum() + (q * (q / middle).log()).sum()) / 2 / len(labels)
    expected = smoothed_cross_entropy(logits, labels, 0.1) + 100 * progress * divergence
    assert_same_step(made, expected, reference, precision, exact=1e-10, gradients=1e-10)


def test_patterns_are_made_anew_every_twenty_steps_and_at_the_start_of_an_epoch(network, batch):
    images, labels = batch
    model = network(block=False).train()
    method = build_method(configured("liet"))
    made = 0

    def count(module, inputs):
        nonlocal made
        made += len(inputs[0]) == 5 and not module.norm.training

    model.backbone.register_forward_pre_hook(count)
    for step in (0, 1, 19, 20, 21, 0):
        method.attack(model, images, labels, StepContext(step=step))
    assert made == 3


def test_no_more_classes_go_through_the_network_at_once_than_a_batch_has_pictures(network, batch):
    images = batch[0].double()
    model = network(block=False).double().train()
    sizes = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    pieces = label_patterns(model, images[:2], EPS)
    assert max(sizes) == 2
    assert pieces.shape == (5, *images.shape[1:])
    assert torch.equal(pieces, label_patterns(model, images, EPS))
