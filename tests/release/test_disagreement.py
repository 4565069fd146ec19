"""The disagreement's benchmark on a few pictures: its measure is the service's, and its attacker knows what he does."""

import json

import numpy as np
import pytest
import torch

from release import disagreement
from release.disagreement import KnowingAttack, answers, area_under_roc, detection, divergence_bits
from sgn_serve.inference.classifier import softmax
from sgn_serve.serving.answers import disagreement_bits
from training.attacks import gradient_attack
from training.checkpoint import load_checkpoint
from training.config import EPS


@pytest.fixture(scope="module")
def bundled(project_root):
    model, _ = load_checkpoint(project_root / "sgn_serve" / "bundled" / "model.safetensors")
    images, labels = disagreement.example_pictures()
    return model, images[::7], labels[::7]


def test_the_measure_is_the_services(bundled):
    model, images, _ = bundled
    corrected, plain = answers(model, images)
    served = [disagreement_bits(softmax(a), softmax(b)) for a, b in zip(corrected.numpy(), plain.numpy(), strict=True)]
    np.testing.assert_allclose(divergence_bits(corrected, plain).numpy(), served, atol=1e-6)


@pytest.mark.thorough
def test_an_attacker_who_knows_fools_the_network_with_less_disagreement(bundled):
    model, images, labels = bundled
    torch.manual_seed(0)
    unknowing = gradient_attack.pgd_attack(6).perturb(model, images, labels, EPS)
    knowing = KnowingAttack(steps=6, step_size=3 / 255).perturb(model, images, labels, EPS)
    assert (knowing - images).abs().max() <= EPS + 1e-6
    assert 0 <= knowing.min() <= knowing.max() <= 1

    def fooled(attacked):
        corrected, plain = answers(model, attacked)
        return corrected.argmax(dim=1) != labels, divergence_bits(corrected, plain)

    by_unknowing, their_bits = fooled(unknowing)
    by_knowing, bits = fooled(knowing)
    both = by_unknowing & by_knowing
    assert both.sum() >= 5
    assert bits[both].mean() < 0.7 * their_bits[both].mean()


def test_the_area_and_the_limits():
    assert area_under_roc(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0])) == 1
    assert area_under_roc(torch.tensor([1.0]), torch.tensor([1.0])) == 0.5
    clean = torch.linspace(0, 0.99, 100, dtype=torch.float64)
    told = detection(clean, torch.full((10,), 0.97, dtype=torch.float64))
    assert told["area_under_roc"] == pytest.approx(0.975)
    assert [(limit["false_alarms"], limit["caught"]) for limit in told["limits"]] == [(0.01, 0.0), (0.05, 1.0)]
    assert told["limits"][1]["limit_bits"] == pytest.approx(0.94, abs=0.01)
    assert detection(clean, clean[:0]) == {"pictures": 0}


@pytest.mark.thorough
def test_the_command_writes_a_row_for_every_attack(tmp_path, capsys):
    out = tmp_path / "result.json"
    options = ["--pictures", "2", "--iterations", "2", "--queries", "5", "--out", str(out)]
    assert disagreement.main(["--attacks", "pgd", "autoattack", "knowing", *options]) == 0
    result = json.loads(out.read_text())
    assert list(result["attacks"]) == ["PGD-20", "AutoAttack", "knowing attacker"]
    for row in result["attacks"].values():
        assert 0 <= row["area_under_roc"] <= 1
        assert row["accuracy_attacked"] <= row["accuracy_clean"]
        assert len(row["roc"]["caught"]) == 101
    assert "knowing attacker: area under ROC" in capsys.readouterr().out
