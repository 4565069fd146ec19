"""MD and PMA, against the same written down for one picture."""

import math

import pytest
import torch

from tests.training.attacks.tiny_classifiers import Counted, pictures, smooth_classifier
from training.attacks.margin_decomposition import TwoStageAscent, TwoStageMargin, logit_terms
from training.attacks.probability_margin import probability_terms
from training.attacks.registry import Context, build_attacks
from training.evaluate.measuring import Trial, withstood
from training.networks.self_gradient import SelfGradientNetwork

EPS = 0.03
STEPS = 9
TERMS = {"md": logit_terms, "pma": probability_terms}


def by_hand(model, image, label, start, family, first):
    """One run on one picture in float64: MD's with logits, PMA's with probabilities."""
    x = start
    for step in range(STEPS + 1):
        x = x.clone().requires_grad_()
        z = model(x[None])[0]
        if z.argmax().item() != label:
            return x.detach(), True
        if step == STEPS:
            return x.detach(), False
        if family == "pma":
            z = z.exp() / z.exp().sum()
        right = z[label]
        wrong = max((z[other] for other in range(len(z)) if other != label), key=torch.Tensor.item)
        half = STEPS // 2
        if step < half:
            loss = wrong if first == "wrong" else -right
            size = 2 * EPS * (1 + math.cos(math.pi * step / half)) / 2
        else:
            loss = wrong - right
            size = 2 * EPS * (1 + math.cos(math.pi * (step - half) / (STEPS - half))) / 2
        (gradient,) = torch.autograd.grad(loss, x)
        x = x.detach() + size * gradient.sign()
        x = torch.max(torch.min(x, image + EPS), image - EPS).clamp(0, 1)
    raise AssertionError("the last step returns")


@pytest.mark.parametrize("family", ["md", "pma"])
@pytest.mark.parametrize("first", ["right", "wrong"])
def test_a_run_is_what_it_is_for_one_picture(family, first):
    model = smooth_classifier()
    images, labels = pictures(model, 24)
    torch.manual_seed(3)
    starts = (images + torch.empty_like(images).uniform_(-EPS, EPS)).clamp(images - EPS, images + EPS).clamp(0, 1)
    torch.manual_seed(3)
    attacked, fooled = TwoStageAscent(EPS, STEPS, TERMS[family], first).perturb(model, images, labels)
    for index in range(24):
        expected, fell = by_hand(model, images[index], int(labels[index]), starts[index], family, first)
        assert bool(fooled[index]) == fell
        torch.testing.assert_close(attacked[index], expected, rtol=0, atol=1e-9)
    assert 3 <= fooled.sum() <= 21


def test_the_probability_margins_gradient_is_two_cross_entropies_weighted_by_probabilities():
    logits = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.arange(6) % 5
    wrong, right = probability_terms(logits, labels)
    (gradient,) = torch.autograd.grad((wrong - right).sum(), logits)
    logarithms = torch.log_softmax(logits, dim=1)
    nearest = logits.detach().scatter(1, labels[:, None], float("-inf")).argmax(dim=1)
    untargeted = -logarithms.gather(1, labels[:, None]).sum(dim=1)
    targeted = logarithms.gather(1, nearest[:, None]).sum(dim=1)
    (expected,) = torch.autograd.grad((right.detach() * untargeted + wrong.detach() * targeted).sum(), logits)
    torch.testing.assert_close(gradient, expected)


def test_what_falls_in_the_first_run_costs_no_second_one():
    model = smooth_classifier()
    images, labels = pictures(model)

    def asked(eps):
        network = SelfGradientNetwork(Counted(model), None, mean=(0.0,) * 3, std=(1.0,) * 3)
        TwoStageMargin("md", steps=6, block=False).perturb(network, images, labels, eps)
        return network.backbone.asked

    assert asked(1e-6) == 12 * 2 * (6 + 1)
    assert asked(0.5) <= 12 * 6


@pytest.mark.parametrize("family", ["md", "pma"])
def test_each_attack_takes_pictures_of_a_network_in_every_state(network, family):
    model = network().requires_grad_(False)
    images = torch.rand(12, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    attacks = build_attacks([family], Context(eps=1 / 255, has_block=True, classes=5))[2:]
    assert [attack.id.label for attack in attacks] == [f"block {state}: {family.upper()}" for state in ("on", "off")]
    for attack in attacks:
        labels = model(images, self_gradient=attack.block).argmax(dim=1)
        right = withstood(Trial(model, images, labels, 1 / 255, seed=0), TwoStageMargin(family, 6, attack.block))
        assert 0 < right.sum() < 12
        assert attack.network_calls(5) == 100
