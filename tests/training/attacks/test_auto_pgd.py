"""APGD on the targeted ratio, against the same written down for one picture."""

import torch

from tests.training.attacks.tiny_classifiers import Counted, pictures, smooth_classifier
from training.attacks.auto_pgd import TargetedAutoPGD, checks, targeted_ratio

EPS = 0.04
STEPS = 30


def ratio(logits, label, target):
    """Equation 7 of the source, for one picture."""
    z = sorted(logits.tolist(), reverse=True)
    return (logits[target] - logits[label]) / (z[0] - (z[2] + z[3]) / 2 + 1e-12)


def by_hand(model, image, label, target, start):
    """Algorithm 1 of the source, for one picture in float64, with its names: x, z, eta, w."""

    def look(x):
        x = x.clone().requires_grad_()
        logits = model(x[None])[0]
        # The differences under the line are differentiated too.
        ordered = logits.sort(descending=True).values
        loss = (logits[target] - logits[label]) / (ordered[0] - (ordered[2] + ordered[3]) / 2 + 1e-12)
        (gradient,) = torch.autograd.grad(loss, x)
        return logits.argmax().item() != label, loss.item(), gradient

    def project(x):
        return torch.max(torch.min(x, image + EPS), image - EPS).clamp(0, 1)

    w = [0]
    length = int(0.22 * STEPS)
    while w[-1] + length <= STEPS:
        w.append(w[-1] + length)
        length = max(length - max(int(0.03 * STEPS), 1), max(int(0.06 * STEPS), 1))
    x, before, eta = start, start, 2 * EPS
    wrong, loss, gradient = look(x)
    if wrong:
        return x, True
    best = (loss, x, gradient)
    losses, best_at_check, halved_before = [loss], loss, True
    for k in range(1, STEPS + 1):
        z = project(x + eta * gradient.sign())
        share = 1.0 if k == 1 else 0.75
        x, before = project(x + share * (z - x) + (1 - share) * (x - before)), x
        wrong, loss, gradient = look(x)
        if wrong:
            return x, True
        losses.append(loss)
        if loss > best[0]:
            best = (loss, x, gradient)
        if k in w:
            since = k - w[w.index(k) - 1]
            rises = sum(losses[i] > losses[i - 1] for i in range(k - since + 1, k + 1))
            halve = rises <= 0.75 * since or (not halved_before and best[0] == best_at_check)
            if halve:
                eta, x, gradient = eta / 2, best[1], best[2]
            halved_before, best_at_check = halve, best[0]
    return image, False


def test_it_does_what_the_source_does_with_one_picture():
    model = smooth_classifier()
    images, labels = pictures(model, 24)
    targets = (labels + 1 + torch.arange(24) % 5) % 6
    torch.manual_seed(3)
    starts = (images + torch.empty_like(images).uniform_(-EPS, EPS)).clamp(images - EPS, images + EPS).clamp(0, 1)
    torch.manual_seed(3)
    attacked, fooled = TargetedAutoPGD(EPS, STEPS).perturb(model, images, labels, targets)
    for index in range(24):
        label, target = int(labels[index]), int(targets[index])
        expected, fell = by_hand(model, images[index], label, target, starts[index])
        assert bool(fooled[index]) == fell
        torch.testing.assert_close(attacked[index], expected, rtol=0, atol=1e-9)
    assert 3 <= fooled.sum() <= 21
    assert torch.equal(model(attacked).argmax(dim=1) != labels, fooled)
    assert (attacked - images).abs().max() <= EPS + 1e-12


def test_the_loss_is_the_sources():
    logits = torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels, targets = torch.arange(8) % 6, (torch.arange(8) + 2) % 6
    expected = [ratio(one, label, target) for one, label, target in zip(logits, labels, targets, strict=True)]
    torch.testing.assert_close(targeted_ratio(logits, labels, targets), torch.stack(expected))
    torch.testing.assert_close(targeted_ratio(7 * logits, labels, targets), torch.stack(expected))


def test_checks_come_ever_more_often():
    assert checks(100) == (22, 41, 57, 70, 80, 87, 93, 99)
    assert checks(1) == (1,)


def test_checks_are_those_of_the_packages_loop():
    for steps in range(1, 201):
        until, shorter, shortest = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
        counted, expected = 0, []
        for step in range(1, steps + 1):
            counted += 1
            if counted == until:
                expected.append(step)
                counted, until = 0, max(until - shorter, shortest)
        assert checks(steps) == tuple(expected)


def test_a_picture_that_falls_costs_no_more_calls():
    model = smooth_classifier()
    images, labels = pictures(model)
    far, near = Counted(model), Counted(model)
    _, none = TargetedAutoPGD(1e-6, 10).perturb(far, images, labels, (labels + 1) % 6)
    assert not none.any()
    assert far.asked == 12 * 11
    _, fooled = TargetedAutoPGD(0.3, 10).perturb(near, images, labels, (labels + 1) % 6)
    assert fooled.any()
    assert near.asked <= far.asked - fooled.sum()
