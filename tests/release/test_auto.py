"""The figures of auto: each attack on what the others left, and what is published beside the graph."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from release import auto
from release.auto import attack_auto, judged_before, on_pictures
from release.bundle import auto_figures
from sgn_serve.common.graph_format import AUTO_KEY, file_sha256
from sgn_serve.inference.graph import checked_measured
from training.attacks.rows import RowId
from training.data.loading import choose_pictures
from training.data.picture_set import PictureSet
from training.evaluate.measuring import Trial
from training.evaluate.report import Report
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork, probability_margin

EPS = 0.02


@pytest.fixture
def trial():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5)]
    model = SelfGradientNetwork(nn.Sequential(*layers), SelfGradientBlock(gradient_scaling="rms", scale=0.1))
    model.eval().requires_grad_(False)
    images = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.auto_margin = probability_margin(model(images, self_gradient=False)).median().item()
    labels = model(images, self_gradient="auto").argmax(dim=1)
    return Trial(model, images, labels, EPS, 0, batch_size=8)


def test_accuracies_and_agreement_are_those_of_the_three_modes(trial):
    labels = torch.arange(16) % 5
    found = on_pictures(trial.model, trial.images, labels)
    with torch.no_grad():
        answers = {
            name: trial.model(trial.images, self_gradient=state).argmax(dim=1)
            for name, state in (("auto", "auto"), ("block on", True), ("block off", False))
        }
    for name, answer in answers.items():
        assert found["accuracy"][name] == pytest.approx((answer == labels).float().mean().item(), abs=1e-4)
    agreement = (answers["auto"] == answers["block on"]).float().mean().item()
    assert found["agreement"] == pytest.approx(agreement, abs=1e-4)
    assert found["second_pass"] == pytest.approx(7 / 16, abs=0.07)


def test_each_attack_is_run_on_what_the_others_left_and_goes_on_where_it_was_stopped(trial, tmp_path, monkeypatch):
    monkeypatch.setattr(auto, "ATTACKS", ("pgd-2", "cw-2", "gate"))
    path = tmp_path / "rows.json"
    setting = {"eps": EPS, "seed": 0, "pictures": 16}
    report = Report(setting=setting)
    steps = attack_auto(trial, report, path)
    left = next(steps)
    assert list(report.rows) == [RowId("auto", "clean")]
    assert left[0] == "PGD-2"
    again = Report(setting=setting)
    assert list(attack_auto(trial, again, path))[-1] == []
    assert {row.state for row in again.rows} == {"auto"}
    accuracies = [row.accuracy for row in again.rows.values()]
    assert accuracies == sorted(accuracies, reverse=True), "each row is what was left"
    assert again.lowest_of("auto") == accuracies[-1] < 1


def test_the_other_modes_are_judged_on_the_same_pictures(tmp_path):
    images = torch.arange(40 * 3).reshape(40, 3, 1, 1).to(torch.uint8)
    test = PictureSet(images, torch.arange(40) % 2, ("a", "b"))
    whole, chosen = choose_pictures(test, 20, 1), choose_pictures(test, 6, 1)
    marks = ["1" if picture.flatten()[0] % 4 == 0 else "0" for picture in whole.images]
    row = {
        "id": RowId("block on", "clean").as_dict(),
        "withstood": "".join(marks),
        "attack": {},
        "core_seconds": None,
        "not_finite": 0,
    }
    off = {**row, "id": RowId("block off", "clean").as_dict(), "withstood": "1" * 20}
    judged = {
        "setting": {"pictures": 20, "seed": 1, "pictures_sha256": whole.sha256()},
        "rows": [row, off],
    }
    expected = sum(int(picture.flatten()[0]) % 4 == 0 for picture in chosen.images) / 6
    assert judged_before(chosen, test, judged) == {"block on": pytest.approx(expected, abs=1e-4), "block off": 1.0}
    with pytest.raises(ValueError, match="other pictures"):
        judged_before(chosen, replace(test, images=images + 1), judged)


def test_the_saved_rows_name_the_size_of_a_batch_that_was_asked_for(trial, tmp_path, monkeypatch):
    """It is that of the command, not that with which block on and off were judged."""
    pictures = PictureSet((255 * trial.images).to(torch.uint8), trial.labels, tuple("abcde"))
    checkpoint, judged, out = tmp_path / "model", tmp_path / "judged.json", tmp_path / "auto.json"
    checkpoint.write_bytes(b"a network")
    setting = {"checkpoint_sha256": file_sha256(checkpoint), "eps": EPS, "seed": 0, "pictures": 16, "batch_size": 250}
    judged.write_text(json.dumps({"setting": setting}))
    info = type("Info", (), {"class_names": tuple("abcde"), "dataset": "tiny"})
    monkeypatch.setattr(auto, "ATTACKS", ("clean",))
    monkeypatch.setattr(auto, "CHECKPOINT", checkpoint)
    monkeypatch.setattr(auto, "JUDGED", judged)
    monkeypatch.setattr(auto, "load_checkpoint", lambda _: (trial.model, info))
    monkeypatch.setattr(auto, "load_pictures", lambda *_: pictures)
    monkeypatch.setattr(auto, "judged_before", lambda *_: {"block on": 1.0, "block off": 1.0})
    measured = {
        "margin": {"margin": trial.model.auto_margin},
        "pgd_20": {"pictures": 16},
        "slow_down": {"pictures": 16},
    }
    out.write_text(json.dumps({"checkpoint_sha256": setting["checkpoint_sha256"], **measured}))
    assert auto.main([f"--out={out}", "--batch=4", "--pictures=16", "--pgd-pictures=16"]) == 0
    saved = json.loads((tmp_path / "auto.rows.json").read_text())["setting"]
    assert (saved["batch_size"], saved["pictures"]) == (4, 16)
    assert saved["auto_margin"] == trial.model.auto_margin


def test_what_is_published_is_a_threshold_that_the_service_takes():
    result = json.loads(auto.RESULT.read_text())
    published = auto_figures(result)
    assert checked_measured(published, AUTO_KEY)["margin"] == result["margin"]["validation"]["margin"]
    assert published["asked_agreement"] == auto.AGREEMENT
    assert published["agreement"] >= auto.AGREEMENT


def test_the_committed_result_is_of_the_committed_checkpoint_and_goes_on():
    result = json.loads(auto.RESULT.read_text())
    counts = result["pgd_20"]["pictures"], result["attacked"]["pictures"]
    assert auto.usable(result, file_sha256(auto.CHECKPOINT), *counts) == result


def test_what_was_measured_on_another_network_or_on_other_counts_is_not_taken_over():
    figures = {"margin": {"margin": 0.1}, "pgd_20": {"pictures": 8}, "slow_down": {"pictures": 8}}
    result = {**figures, "checkpoint_sha256": "one", "attacked": {"pictures": 4}}
    assert auto.usable(result, "another", 8, 4) == {}
    assert auto.usable(figures, "one", 8, 4) == {}
    kept = auto.usable(result, "one", 16, 4)
    assert kept == {name: result[name] for name in ("margin", "checkpoint_sha256", "attacked")}
    with pytest.raises(auto.AutoError, match="4 pictures were attacked before; pass --pictures 4, or another --out"):
        auto.usable(result, "one", 8, 5)


def test_old_figures_never_stand_beside_a_new_digest(trial, tmp_path, monkeypatch):
    """The first part that is written is the new network's, with its digest and nothing else."""
    checkpoint, judged, out = tmp_path / "model", tmp_path / "judged.json", tmp_path / "auto.json"
    checkpoint.write_bytes(b"a new network")
    digest = file_sha256(checkpoint)
    judged.write_text(json.dumps({"setting": {"checkpoint_sha256": digest}}))
    out.write_text(json.dumps({"checkpoint_sha256": "old", "margin": {"margin": 0.5}, "attacked": {"pictures": 200}}))
    info = type("Info", (), {"class_names": ("a", "b"), "dataset": "tiny"})
    monkeypatch.setattr(auto, "CHECKPOINT", checkpoint)
    monkeypatch.setattr(auto, "JUDGED", judged)
    monkeypatch.setattr(auto, "load_checkpoint", lambda _: (trial.model, info))
    monkeypatch.setattr(auto, "load_pictures", lambda *_: range(500))
    monkeypatch.setattr(auto, "validation_pictures", lambda *_: None)
    monkeypatch.setattr(auto, "measure_margin", lambda *_: {"margin": 0.25})
    monkeypatch.setattr(auto, "current_versions", lambda: pytest.fail("stopped after the threshold"))
    with pytest.raises(pytest.fail.Exception):
        auto.main([f"--out={out}"])
    assert json.loads(out.read_text()) == {"margin": {"margin": 0.25}, "checkpoint_sha256": digest}


def test_a_judgement_of_another_network_is_refused(tmp_path, monkeypatch, capsys):
    judged = tmp_path / "judged.json"
    judged.write_text(json.dumps({"setting": {"checkpoint_sha256": "old"}}))
    monkeypatch.setattr(auto, "JUDGED", judged)
    monkeypatch.setattr(auto, "load_pictures", lambda *_: range(500))
    assert auto.main([f"--out={tmp_path / 'auto.json'}"]) == 2
    assert "judged.json is of another network than" in capsys.readouterr().err
    assert not (tmp_path / "auto.json").exists()
