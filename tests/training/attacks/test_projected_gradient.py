from dataclasses import replace

import pytest
import torch

from training.attacks import gradient_attack
from training.attacks.projected_gradient import ProjectedGradientAscent, cross_entropy, fgsm, margin, noise_fgsm
from training.attacks.views import held_view, smooth_view
from training.evaluate import measuring
from training.evaluate.measuring import Trial

EPS = 8 / 255


@pytest.fixture
def pictures(network):
    """A network, pictures, and its own answers as labels, so that clean accuracy is 1."""
    model = network(scale=EPS)
    images = torch.rand(24, 3, 16, 16)
    images[:4] = images[:4].round()  # pixels at 0 and 1, where the image range binds
    return model, images, model(images).argmax(dim=1)


@pytest.mark.parametrize("loss", [cross_entropy, margin])
@pytest.mark.parametrize("start", ["image", "uniform"])
@pytest.mark.parametrize("keep_best", [True, False])
def test_pgd_stays_inside_the_ball_and_the_image_range(pictures, loss, start, keep_best):
    model, images, labels = pictures
    attack = ProjectedGradientAscent(eps=EPS, steps=3, step_size=0.9 * EPS, loss=loss, start=start, keep_best=keep_best)
    attacked = attack.perturb(held_view(model), images, labels)
    assert (attacked - images).abs().max() <= EPS + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert not torch.equal(attacked, images)


def test_attacks_lower_accuracy_and_more_steps_never_raise_it(pictures):
    model, images, labels = pictures[0], *(part[:12] for part in pictures[1:])
    for view in (held_view(model), smooth_view(model, 20.0)):
        accuracies = []
        for steps in (1, 2, 4, 8, 16):
            torch.manual_seed(0)
            attack = ProjectedGradientAscent(eps=EPS, steps=steps, step_size=2 / 255)
            attacked = attack.perturb(view, images, labels)
            accuracies.append((model(attacked).argmax(dim=1) == labels).float().mean().item())
        assert accuracies == sorted(accuracies, reverse=True)
        assert accuracies[-1] < 0.9


def test_fgsm_is_one_step_of_size_eps_along_the_gradients_sign(pictures):
    model, images, labels = pictures
    inputs = images.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(model(inputs), labels)
    (gradient,) = torch.autograd.grad(loss, inputs)
    expected = (images + EPS * gradient.sign()).clamp(0, 1)
    torch.testing.assert_close(fgsm(held_view(model), images, labels, eps=EPS), expected)


def test_noise_fgsm_stays_within_its_wider_ball(pictures):
    model, images, labels = pictures
    attacked = noise_fgsm(held_view(model), images, labels, eps=EPS)
    moved = (attacked - images).abs().max()
    assert EPS < moved <= 3 * EPS + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1


def test_margin_is_positive_exactly_where_the_answer_is_wrong():
    logits = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    assert margin(logits, torch.tensor([0, 2])).tolist() == [-1.0, 2.0]


def test_withstood_is_judged_with_the_block_as_the_attack_says(pictures):
    model, images, labels = pictures
    on = measuring.withstood(Trial(model, images, labels, EPS, seed=0, batch_size=7), gradient_attack.clean_attack())
    off = measuring.withstood(Trial(model, images, labels, EPS, seed=0), gradient_attack.clean_attack(block=False))
    assert on.all()
    assert torch.equal(off, model.plain_logits(images).argmax(dim=1) == labels)


def test_withstood_repeats_under_its_seed_and_reports_progress(pictures):
    model, images, labels = pictures
    done: list[int] = []
    attack = gradient_attack.pgd_attack(3)
    trial = Trial(model, images, labels, EPS, seed=1, batch_size=10)
    first = measuring.withstood(replace(trial, on_batch=done.append), attack)
    torch.rand(5)
    again = measuring.withstood(trial, attack)
    assert torch.equal(first, again)
    assert done == [10, 10, 4]


def test_lowest_is_per_picture():
    results = [torch.tensor([True, True, False, True]), torch.tensor([True, False, True, True])]
    assert measuring.lowest(results).tolist() == [True, False, False, True]


def test_the_smooth_attack_without_beta_is_refused(network):
    with pytest.raises(ValueError, match="beta"):
        gradient_attack.Attack("pgd", steps=3, view="smooth").logits_function(network(), torch.empty(1, 3, 16, 16))


def test_a_fooled_image_is_left_alone_and_the_others_do_not_notice(pictures):
    model, images, labels = pictures
    calls: list[int] = []

    def counting(inputs):
        calls.append(len(inputs))
        return held_view(model)(inputs)

    attack = ProjectedGradientAscent(eps=EPS, steps=6, step_size=2 / 255, start="image")
    together = attack.perturb(counting, images, labels)
    assert calls == sorted(calls, reverse=True)
    assert calls[-1] < calls[0] == len(images)
    alone = torch.cat([attack.perturb(held_view(model), images[i : i + 1], labels[i : i + 1]) for i in range(6)])
    fooled = model(together[:6]).argmax(dim=1) != labels[:6]
    assert torch.equal(fooled, model(alone).argmax(dim=1) != labels[:6])
