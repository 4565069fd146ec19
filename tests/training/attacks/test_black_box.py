import torch

from sgn_serve.common.confidence import interval_95
from training.attacks import gradient_attack
from training.attacks.black_box import RandomNoise, SourceNetwork, Transfer
from training.attacks.gradient_attack import Attack
from training.attacks.projected_gradient import best_of_restarts, margin
from training.attacks.rows import CLEAN, RowFilter, RowId
from training.evaluate import measuring
from training.evaluate.measuring import Trial
from training.evaluate.report import Report

EPS = 8 / 255


def test_random_noise_stays_in_the_ball_and_takes_pictures_near_the_boundary(network):
    model = network(block=False)
    images = torch.rand(16, 3, 12, 12)
    labels = model(images).argmax(dim=1)
    attack = RandomNoise(block=False, draws=10)
    torch.manual_seed(0)
    attacked = attack.perturb(model, images, labels, EPS)
    assert (attacked - images).abs().max() <= EPS + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    right = measuring.withstood(Trial(model, images, labels, eps=0.5, seed=0), RandomNoise(block=False, draws=40))
    assert right.float().mean() < 1


def test_transfer_shows_one_network_what_fools_another(network):
    model, source = network(block=False), network(block=False, seed=1)
    images = torch.rand(12, 3, 12, 12)
    labels = source(images).argmax(dim=1)
    attack = Attack("cw", steps=5, block=False, keep_best=False)
    transfer = Transfer(SourceNetwork(source, "another", "0" * 64), attack, block=False)
    torch.manual_seed(0)
    made = transfer.perturb(model, images, labels, EPS)
    torch.manual_seed(0)
    assert torch.equal(made, attack.perturb(source, images, labels, EPS))
    assert transfer.id.title == "CW-5 to the end, transfer from another"
    assert transfer.parameters()["source_sha256"] == "0" * 64
    assert transfer.parameters()["attack"]["keep_best"] is False


def test_more_restarts_never_raise_accuracy(network):
    model = network(block=False)
    images = torch.rand(24, 3, 12, 12)
    labels = model(images).argmax(dim=1)

    def attack(some, _):
        return (some + torch.empty_like(some).uniform_(-0.1, 0.1)).clamp(0, 1)

    margins = []
    for restarts in (1, 4, 16):
        torch.manual_seed(0)
        attacked = best_of_restarts(attack, model, images, labels, restarts)
        margins.append(margin(model(attacked), labels))
    assert (margins[1] >= margins[0] - 1e-5).all()
    assert margins[2].mean() > margins[0].mean()


def test_later_restarts_start_elsewhere(network):
    model = network(block=False)
    images, labels = torch.rand(4, 3, 12, 12), torch.zeros(4, dtype=torch.long)
    results = []
    for first in (1, 11, 1):
        torch.manual_seed(0)
        attack = Attack("pgd", steps=1, step_size=0.0, block=False, keep_best=False, first_restart=first)
        results.append(attack.perturb(model, images, labels, EPS))
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[1])


def test_costly_attacks_run_on_what_earlier_ones_left():
    report = Report(setting={})
    report.add(gradient_attack.clean_attack(), torch.tensor([True, True, True, False]))
    report.add(gradient_attack.cw_attack(100), torch.tensor([True, False, True, False]))
    costly = Attack("cw", steps=7, survivors_of=(CLEAN, RowFilter.like(family="cw")))
    chosen = report.survivors(costly, 4)
    assert chosen.tolist() == [True, False, True, False]
    assert report.survivors(Attack("cw", steps=8), 4).all()
    assert report.survivors(Attack("cw", steps=9, block=False, survivors_of=(RowFilter.like(),)), 4).all()
    report.add(costly, torch.tensor([False, False, True, False]), chosen)
    assert report.rows[RowId("block on", "cw", steps=7)].withstood == "0-10"
    assert report.headline() == 0.25
    assert "| CW-7 † | 25.0 |" in report.table()


def test_wilson_interval_of_known_counts():
    # Newcombe (1998), table I: 81 of 263 and 0 of 20.
    low, high = interval_95(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    low, high = interval_95(0, 20)
    assert (round(low, 4), round(high, 4)) == (0.0, 0.1611)
