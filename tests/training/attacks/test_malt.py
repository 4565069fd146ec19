"""MALT's ranking, against distances written down for one picture, and the attack on a whole network."""

import pytest
import torch

from tests.training.attacks.tiny_classifiers import CLASSES, linear_classifier, pictures, smooth_classifier
from training.attacks.auto_attack import GradientStage
from training.attacks.auto_pgd import TargetedAutoPGD
from training.attacks.malt import Malt, ranked_targets
from training.attacks.names import AttackError
from training.attacks.registry import Context, build_attacks
from training.evaluate.measuring import Trial, withstood
from training.networks.self_gradient import SelfGradientNetwork


def distance(model, image, label, other):
    """Return how far the border with a class is if the network is linear: logits' difference over its slope's L1 norm.

    The slope is taken by central differences, pixel by pixel.
    """

    def difference(x):
        logits = model(x[None])[0]
        return (logits[label] - logits[other]).item()

    step, norm = 1e-5, 0.0
    for pixel in range(image.numel()):
        moved = torch.zeros(image.numel(), dtype=image.dtype)
        moved[pixel] = step
        moved = moved.reshape(image.shape)
        norm += abs(difference(image + moved) - difference(image - moved)) / (2 * step)
    return difference(image) / norm


def test_classes_are_ranked_by_their_distance():
    model = smooth_classifier()
    images, labels = pictures(model)
    ranked = ranked_targets(model, images, labels)
    by_logit = []
    for image, label, order in zip(images, labels.tolist(), ranked.tolist(), strict=True):
        others = [other for other in range(CLASSES) if other != label]
        assert order == sorted(others, key=lambda other: distance(model, image, label, other))
        by_logit.append(sorted(others, key=lambda other: -model(image[None])[0, other].item()))
    assert by_logit != ranked.tolist(), "the order of the logits would have done"


def test_few_candidates_are_those_of_the_largest_logits():
    model = smooth_classifier()
    images, labels = pictures(model)
    ranked = ranked_targets(model, images, labels, candidates=2)
    largest = model(images).scatter(1, labels[:, None], float("-inf")).topk(2, dim=1).indices
    assert torch.equal(ranked.sort(dim=1).values, largest.sort(dim=1).values)


@pytest.fixture
def steep():
    """A linear network whose second-largest logit hardly moves. A smaller logit is near, because it moves fast."""
    torch.manual_seed(0)
    weights = 0.01 * torch.randn(5, 27)
    weights[2] = 1.0
    bias = torch.tensor([3.0, 2.8, 2.5, 0.0, -1.0])
    bias -= weights @ torch.full((27,), 0.5)
    model = SelfGradientNetwork(linear_classifier(weights, bias), None, mean=(0.0,) * 3, std=(1.0,) * 3)
    return model, torch.full((4, 3, 3, 3), 0.5), torch.zeros(4, dtype=torch.long)


def test_the_nearest_class_falls_where_the_largest_logit_does_not(steep):
    model, images, labels = steep
    eps = 0.04  # 27 pixels of slope 1 make up for 0.5 from 0.0186 on; 0.2 at slopes near 0.01 would take 0.5
    assert ranked_targets(model, images, labels)[:, 0].tolist() == [2] * 4
    trial = Trial(model, images, labels, eps, seed=0)
    assert not withstood(trial, Malt(targets=1, block=False, steps=10)).any()
    assert not withstood(trial, Malt(targets=3, block=False, steps=10)).any()
    assert withstood(trial, Malt(targets=3, skip=3, block=False, steps=10)).all(), "no class is left"
    largest = torch.ones(4, dtype=torch.long)
    assert not TargetedAutoPGD(eps, 10).perturb(model, images, labels, largest)[1].any()


def test_it_finds_what_the_packages_apgd_t_finds_on_a_network(network):
    model = network(block=False).requires_grad_(False)
    images = torch.rand(24, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    labels = model(images).argmax(dim=1)
    trial = Trial(model, images, labels, 1.5 / 255, seed=0)
    package = withstood(trial, GradientStage("apgd-t", block=False, iterations=20))
    ours = withstood(trial, Malt(targets=4, block=False, steps=20))
    assert 0 < package.sum() < len(images)
    assert (package != ours).sum() <= 1


def test_its_calls_are_a_gradient_for_each_ranked_class_and_the_steps():
    assert Malt().network_calls(10) == 9 + 3 * 100
    assert Malt(targets=9, skip=3, steps=50).network_calls(10) == 9 + 6 * 50
    assert Malt().network_calls(4) == 3 + 3 * 100
    assert Malt().network_calls(1000) == 100 + 3 * 100


def test_it_needs_four_classes_and_attacks_every_state():
    context = Context(eps=0.1, has_block=True, classes=4)
    rows = [attack.id.label for attack in build_attacks(["malt"], context)]
    assert rows[2:] == ["block on: MALT, nearest 3", "block off: MALT, nearest 3"]
    with pytest.raises(AttackError, match="at least 4 classes"):
        build_attacks(["malt"], Context(eps=0.1, has_block=True, classes=3))


@pytest.mark.parametrize("block", [True, False])
def test_its_pictures_are_inside_the_ball_and_those_that_withstood_are_the_images(network, block):
    model = network()
    images = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = model(images, self_gradient=block).argmax(dim=1)
    torch.manual_seed(0)
    attacked = Malt(targets=2, block=block, steps=4).perturb(model, images, labels, 1 / 255)
    with torch.no_grad():
        right = model(attacked, self_gradient=block).argmax(dim=1) == labels
    assert torch.equal(attacked[right], images[right])
    assert 0 < right.sum() < 6
    assert (attacked - images).abs().max() <= 1 / 255 + 1e-6
    assert not attacked.requires_grad
