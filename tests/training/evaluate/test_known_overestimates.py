"""The judge on modules whose robustness is known to be overestimated: it finds out, or says that it does not.

Each is a small network behind a trick that hides gradients. The obvious figure is of an attack that knows the trick.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.attacks.auto_attack import GradientStage, Square
from training.attacks.projected_gradient import ProjectedGradientAscent, ball, margin
from training.attacks.registry import build_attacks
from training.attacks.views import held_view
from training.evaluate import judge, judging
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork

pytestmark = pytest.mark.usefixtures("short_attacks", "short_autoattack")

EPS = 0.1
STEP = EPS / 4
PICTURES = 40


@pytest.fixture
def short_autoattack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give AutoAttack's stages a fifth of their steps: what these find, the whole ones find all the more.

    Square alone stays whole: it is what a test says does not get as far.
    """

    def shorter(attack):
        if isinstance(attack, GradientStage):
            return replace(attack, iterations=attack.iterations // 5)
        cascaded = isinstance(attack, Square) and attack.survivors_of
        return replace(attack, queries=attack.queries // 5) if cascaded else attack

    def a_fifth(*given):
        return [shorter(attack) for attack in build_attacks(*given)]

    monkeypatch.setattr(judging, "build_attacks", a_fifth)


def made_pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy pictures of five patterns, (count, 3, 4, 4), and their labels."""
    generator = torch.Generator().manual_seed(7)
    patterns = 0.5 + 0.15 * torch.randn(5, 3, 4, 4, generator=generator)
    generator.manual_seed(seed)
    labels = torch.arange(count) % 5
    noise = 0.1 * torch.randn(count, 3, 4, 4, generator=generator)
    return (patterns[labels] + noise).clamp(0, 1), labels


def trained(activation: nn.Module) -> nn.Module:
    """A network that has learnt the patterns, under noise of the attack's size."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 64), activation, nn.Linear(64, 5))
    images, labels = made_pictures(500, seed=1)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(150):
        noisy = images + EPS * torch.randn_like(images).sign()
        optimizer.zero_grad()
        F.cross_entropy(network(noisy), labels).backward()
        optimizer.step()
    return network.eval().requires_grad_(False)


class Scaled(nn.Module):
    """Logits times a constant: the answers stay, and a softmax of them saturates or is flat to the last bit."""

    def __init__(self, network: nn.Module, factor: float):
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images) * self.factor


class Quantised(nn.Module):
    """A network behind a rounding of its pictures, whose derivative is zero everywhere."""

    def __init__(self, network: nn.Module, levels: int, straight_through: bool = False):
        super().__init__()
        self.network, self.levels, self.straight_through = network, levels, straight_through

    def forward(self, images: Tensor) -> Tensor:
        rounded = torch.round(images * self.levels) / self.levels
        return self.network(images + (rounded - images).detach() if self.straight_through else rounded)


class WinnersTakeAll(nn.Module):
    """Keep the k largest features and set the others to zero: discontinuous wherever two features change places.

    Source: Xiao et al., Enhancing Adversarial Defense by k-Winners-Take-All (2020).
    """

    def __init__(self, k: int):
        super().__init__()
        self.k = k

    def forward(self, features: Tensor) -> Tensor:
        smallest = features.topk(self.k, dim=1).values[:, -1:]
        return features * (features >= smallest)


def withstood(logits, images: Tensor, labels: Tensor, attacked: Tensor) -> Tensor:
    assert (attacked - images).abs().max() <= EPS + 1e-6
    return (logits(images).argmax(1) == labels) & (logits(attacked).argmax(1) == labels)


def pgd(view, images: Tensor, labels: Tensor, loss=margin) -> Tensor:
    torch.manual_seed(0)
    return ProjectedGradientAscent(EPS, 50, STEP, loss=loss).perturb(view, images, labels)


def judged(module: nn.Module, attacks: str):
    images, labels = made_pictures(PICTURES, seed=2)
    return judge(module, images, labels, eps=EPS, attacks=attacks, progress=False)


@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_a_factor_on_the_logits_hides_nothing(factor):
    network = trained(nn.ReLU())
    images, labels = made_pictures(PICTURES, seed=2)
    obvious = withstood(network, images, labels, pgd(network, images, labels)).float().mean().item()
    report = judged(Scaled(network, factor), "autoattack")
    assert 0 < obvious < 1
    assert report.lowest <= obvious


def test_a_quantised_input_is_told_and_hides_nothing_from_a_straight_through_derivative():
    images, labels = made_pictures(PICTURES, seed=2)
    network = trained(nn.ReLU())
    module, seen = (Quantised(network, levels=8, straight_through=through) for through in (False, True))
    assert torch.equal(module(images), seen(images))
    obvious = withstood(module, images, labels, pgd(seen, images, labels)).float().mean().item()
    assert 0 < obvious < 1
    assert judged(seen, "cw-20,autoattack").lowest <= obvious
    # With a derivative of zero only black-box attacks are left, and they do not get as far. The judge says so.
    blind = judged(module, "pgd-20,square")
    assert blind.lowest > obvious
    assert blind.likely_overestimated
    raised = {finding.name for finding in blind.findings if finding.verdict == "raised"}
    assert {"zero gradients", "gradient correlation", "black-box attacks"} <= raised


def test_winners_that_take_all_hide_nothing():
    images, labels = made_pictures(PICTURES, seed=2)
    module = trained(WinnersTakeAll(6))

    def smoothed(inputs: Tensor) -> Tensor:
        noisy = inputs[None] + 0.5 * EPS * torch.randn(40, *inputs.shape)
        averaged = torch.stack([module(one) for one in noisy]).mean(dim=0)
        exact = module(inputs).detach()
        return exact + (averaged - averaged.detach())

    obvious = withstood(module, images, labels, pgd(smoothed, images, labels)).float().mean().item()
    blind = judged(module, "pgd-10")
    report = judged(module, "cw-20,averaged,autoattack")
    assert obvious < blind.lowest
    assert report.lowest <= obvious


def trained_with_a_strong_block() -> SelfGradientNetwork:
    """A network that has learnt to move its correction against attacks that take it for a constant."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 5))
    network = SelfGradientNetwork(backbone, SelfGradientBlock(scale=3 * EPS, gradient_scaling="rms")).train()
    images, labels = made_pictures(500, seed=1)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(100):
        attack = ProjectedGradientAscent(EPS, 5, EPS / 2, loss=margin)
        attacked = attack.perturb(held_view(network), images, labels)
        optimizer.zero_grad()
        F.cross_entropy(network(attacked), labels).backward()
        optimizer.step()
    return network.eval().requires_grad_(False)


@pytest.mark.thorough
def test_a_strong_block_hides_nothing_from_attacks_that_know_it():
    """Its honest derivative does not see the block, which differences over a distance do."""
    network = trained_with_a_strong_block()
    images, labels = made_pictures(PICTURES, seed=2)

    def with_differences(inputs: Tensor) -> Tensor:
        """The answers, with central differences over the whole budget for their derivative."""
        with torch.no_grad():
            steps = EPS * torch.eye(inputs[0].numel()).view(-1, 1, *inputs.shape[1:])
            ahead, behind = (network((inputs + side * steps).flatten(0, 1)) for side in (1, -1))
            slopes = ((ahead - behind) / (2 * EPS)).view(len(steps), len(inputs), -1)
        moved = (inputs - inputs.detach()).flatten(1)
        return network(inputs.detach()) + torch.einsum("dnc,nd->nc", slopes, moved)

    def lowest(report) -> float:
        """The share of pictures that withstands all attacks with the block on."""
        rows = [result.right for row, result in report.report.rows.items() if row.state == "block on"]
        return torch.stack(rows).all(dim=0).float().mean().item()

    obvious = withstood(network, images, labels, pgd(with_differences, images, labels)).float().mean().item()
    honest, report = judged(network, "pgd-20,cw-20"), judged(network, "quick,smooth-apgd-ce,smooth-apgd-t")
    assert lowest(honest) > 0.9
    assert obvious < 0.5
    assert lowest(report) <= obvious
    assert report.likely_overestimated, "the smooth surrogate is far below the honest attacks"


def test_the_pictures_are_learnt_and_the_ball_is_respected():
    network = trained(nn.ReLU())
    images, labels = made_pictures(PICTURES, seed=2)
    assert (network(images).argmax(1) == labels).float().mean() > 0.9
    low, high = ball(images, EPS)
    attacked = pgd(network, images, labels)
    assert ((attacked >= low) & (attacked <= high)).all()
