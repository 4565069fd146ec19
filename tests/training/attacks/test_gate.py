"""Attacks on self_gradient="auto": views through the gate, and attacks that know it."""

from dataclasses import replace

import pytest
import torch

from training.attacks import views
from training.attacks.base import block_state
from training.attacks.gate import GateAttack
from training.attacks.gradient_attack import Attack, logits_function
from training.attacks.names import AttackError
from training.attacks.projected_gradient import margin
from training.attacks.registry import Context, build_attacks
from training.attacks.rows import RowId
from training.networks.self_gradient import probability_margin

EPS = 0.1


@pytest.fixture
def gated(network):
    """A network, pictures and labels; about half of the pictures are under the threshold."""
    model = network().requires_grad_(False)
    images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = model(images, self_gradient=False)
    model.auto_margin = probability_margin(plain).median().item() + 1e-6
    return model, images, model(images, self_gradient="auto").argmax(dim=1)


@pytest.mark.parametrize("view", ["held", "full", "smooth", "straight-through"])
def test_views_of_auto_have_its_exact_logits(gated, view):
    model, images, _ = gated
    beta = 20.0 if view in ("smooth", "straight-through") else None
    seen = logits_function(model, view, beta, "auto", images)
    exact = model(images, self_gradient="auto")
    torch.testing.assert_close(seen(images.clone().requires_grad_()).detach(), exact, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(seen(images), exact, rtol=1e-4, atol=1e-5)


def gradient_of(view, images, labels):
    inputs = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(margin(view(inputs), labels).sum(), inputs)
    return gradient


def test_the_hard_gate_has_the_derivatives_of_the_side_that_it_picks(gated):
    model, images, labels = gated
    chosen = model.auto_pass(images)[1]
    seen = gradient_of(logits_function(model, "held", None, "auto", images), images, labels)
    for rows, side in ((chosen, views.held_view(model)), (~chosen, views.first_pass_view(model))):
        torch.testing.assert_close(seen[rows], gradient_of(side, images, labels)[rows], rtol=1e-3, atol=1e-5)
    assert 0 < chosen.sum() < len(chosen)


def test_the_smooth_gate_sees_both_sides_and_the_threshold(gated):
    model, images, labels = gated
    smooth = gradient_of(views.smooth_gate_view(model, views.held_view(model)), images, labels)
    hard = gradient_of(views.gate_view(model, views.held_view(model)), images, labels)
    assert not torch.allclose(smooth, hard, rtol=0.05)

    def weighted(inputs):
        plain, both = model.plain_logits(inputs), views.held_view(model)(inputs)
        weight = torch.sigmoid((model.auto_margin - probability_margin(plain)) / views.GATE_WIDTH)[:, None]
        return weight * both + (1 - weight) * plain

    def right_and_wrong(inputs):
        """The margin loss's two logits stay those of the exact answer."""
        exact = model(images, self_gradient="auto")
        right = labels[:, None]
        wrong = exact.scatter(1, right, float("-inf")).argmax(dim=1, keepdim=True)
        mixture = weighted(inputs)
        return mixture.gather(1, wrong) - mixture.gather(1, right)

    inputs = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(right_and_wrong(inputs).sum(), inputs)
    torch.testing.assert_close(smooth, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("goal", ["gate-both", "gate-off", "gate-on"])
@pytest.mark.parametrize("beta", [None, 20.0])
def test_gate_attacks_stay_in_the_ball_and_fool_auto(gated, goal, beta):
    model, images, labels = gated
    torch.manual_seed(0)
    attacked = GateAttack(goal, steps=20, beta=beta).perturb(model, images, labels, EPS)
    assert (attacked - images).abs().max() <= EPS + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    fooled = model(attacked, self_gradient="auto").argmax(dim=1) != labels
    torch.manual_seed(0)
    noisy = (images + torch.empty_like(images).uniform_(-EPS, EPS)).clamp(0, 1)
    by_noise = model(noisy, self_gradient="auto").argmax(dim=1) != labels
    assert fooled.sum() > by_noise.sum(), "its gradient leads further than its start"


def test_gate_off_pushes_a_wrong_class_over_the_threshold_and_gate_on_keeps_pictures_under_it(gated):
    model, images, labels = gated
    torch.manual_seed(0)
    ran = {}
    for goal in ("gate-off", "gate-on"):
        attacked = GateAttack(goal, steps=20).perturb(model, images, labels, EPS)
        logits, chosen = model.auto_pass(attacked)
        fooled = logits.argmax(dim=1) != labels
        assert fooled.any()
        ran[goal] = chosen[fooled].float().mean().item()
    assert ran["gate-on"] > ran["gate-off"]


def test_auto_is_a_column_with_attacks_of_its_own():
    context = Context(eps=EPS, has_block=True, classes=10, betas=(20.0,), auto=True)
    rows = [
        attack.id for attack in build_attacks(["cw-20,block-off-cw,smooth-cw,gate,gate-transfer,autoattack"], context)
    ]
    auto = [row for row in rows if row.state == "auto"]
    for title in (
        "clean",
        "CW-20",
        "CW-20, transfer from block off",
        "CW-20, smooth surrogate, beta 20",
        "both sides of the threshold, 50 steps",
        "both sides of the threshold, 50 steps, smooth surrogate, beta 20",
        "wrong class first, over the threshold, 50 steps",
        "under the threshold, second pass wrong, 50 steps",
        "CW-100 to the end, transfer from block on",
        "CW-100 to the end, transfer from block off",
        "APGD-T",
        "Square",
    ):
        assert title in {row.title for row in auto}, title
    assert {row.kind for row in auto} == {"clean", "white-box", "transfer", "adaptive", "black-box"}
    assert all(row.needs_block for row in auto)
    assert all(RowId.from_dict(row.as_dict()) == row for row in auto)
    without = Context(eps=EPS, has_block=True, classes=10, betas=(20.0,))
    assert not any(attack.id.state == "auto" for attack in build_attacks(["full"], without))
    with pytest.raises(AttackError, match=r"attack 'gate' needs a threshold of self_gradient=auto"):
        build_attacks(["gate"], without)


def test_transfer_from_block_on_does_not_look_at_the_gate(gated):
    model, images, labels = gated
    made = Attack("cw", steps=3, step_size=0.02, keep_best=False, start="image")
    shown = replace(made, view="block-on", block="auto")
    assert torch.equal(shown.perturb(model, images, labels, EPS), made.perturb(model, images, labels, EPS))
    assert shown.id.state == block_state("auto") == "auto"
