"""The comparison of cheap attacks with AutoAttack: it counts calls, saves as it goes, and refuses what is of others."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from release import fast_judge
from release.fast_judge import (
    AUTO_ATTACK,
    FAST,
    FastJudgeError,
    Row,
    compare,
    counted,
    fast_attacks,
    from_report,
    measure,
    parse,
    shown,
)
from release.saved_report import NoReportError
from tests.training.checkpoints import tiny_info
from training.attacks.auto_attack import GradientStage, Square
from training.attacks.registry import Context
from training.data.picture_set import PictureSet
from training.evaluate.measuring import withstood
from training.evaluate.report import Report
from training.networks.self_gradient import SelfGradientNetwork

CLASSES = ("a", "b", "c", "d", "e")
CONTEXT = Context(1 / 255, has_block=False, classes=5)
INFO = tiny_info(class_names=CLASSES, epsilon=1 / 255, block=None, image_size=(8, 8))


def short(attack):
    if isinstance(attack, GradientStage):
        return replace(attack, iterations=4)
    return replace(attack, queries=5) if isinstance(attack, Square) else attack


@pytest.fixture
def trial(tmp_path, monkeypatch):
    """A network and pictures, about half of which fall; AutoAttack takes few steps."""
    whole = fast_judge.auto_attack
    monkeypatch.setattr(fast_judge, "auto_attack", lambda context: {n: short(a) for n, a in whole(context).items()})
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5)]
    model = SelfGradientNetwork(nn.Sequential(*layers), None).eval().requires_grad_(False)
    images = torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8)
    labels = model(images.float() / 255).argmax(dim=1)
    labels[4] = (labels[4] + 1) % 5
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return model, PictureSet(images, labels, CLASSES)


def options(tmp_path, *more, out="mine.json"):
    return parse(["--ckpt", f"{tmp_path / 'model.safetensors'}", "--out", f"{tmp_path / out}", "--batch", "5", *more])


def test_calls_are_pictures_and_further_gradients():
    backbone = nn.Linear(3, 2)
    inputs = torch.rand(5, 3, requires_grad=True)
    with counted(backbone) as calls:
        backbone(inputs.detach())
        assert calls.count == 5
        torch.autograd.grad(backbone(inputs).sum(), inputs)
        assert calls.count == 10
        logits = backbone(inputs)
        for column in range(2):
            torch.autograd.grad(logits[:, column].sum(), inputs, retain_graph=True)
        assert calls.count == 20
    backbone(inputs)
    assert calls.count == 20


def test_an_attacks_calls_are_at_least_the_registrys_on_pictures_that_withstand():
    attacks = fast_attacks(["pma", "md", "malt-1", "malt-3"], CONTEXT)
    model = SelfGradientNetwork(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), None).requires_grad_(False)
    images = torch.full((3, 3, 2, 2), 0.5)
    labels = model(images).argmax(dim=1)
    extra = {"clean": 0, "pma": 2, "md": 2, "malt-1": 1, "malt-3": 2}  # the last look of each run
    for name, attack in attacks.items():
        with counted(model.backbone) as calls:
            attack.perturb(model, images, labels, 1e-7)
        if name != "clean":  # clean is measured by the look that follows
            assert calls.count == 3 * (attack.network_calls(5) + extra[name])


@pytest.mark.thorough
def test_it_goes_on_where_it_was_stopped(trial, tmp_path, monkeypatch):
    model, chosen = trial
    whole = measure(options(tmp_path), model, INFO, chosen)
    assert [list(rows) for rows in whole["rows"].values()] == [
        ["clean", "APGD-CE", "APGD-T", "FAB-T", "Square"],
        ["clean", "pma", "malt-1", "malt-3"],
    ]
    done = []

    def stopping(trial, attack):
        done.append(attack)
        if len(done) == 8:
            raise KeyboardInterrupt
        return withstood(trial, attack)

    monkeypatch.setattr(fast_judge, "withstood", stopping)
    with pytest.raises(KeyboardInterrupt):
        measure(options(tmp_path, out="stopped.json"), model, INFO, chosen)
    saved = json.loads((tmp_path / "stopped.json").read_text())
    assert saved["done"] == 0
    assert len(saved["rows"][AUTO_ATTACK]["Square"]["left"]) == 5
    monkeypatch.setattr(fast_judge, "withstood", withstood)
    again = measure(options(tmp_path, out="stopped.json"), model, INFO, chosen)
    assert again["rows"] == whole["rows"]
    assert again["compared"] == whole["compared"]
    assert json.loads((tmp_path / "stopped.json").read_text()) == json.loads(json.dumps(again))


def test_the_figures_are_those_of_the_rows(trial, tmp_path):
    model, chosen = trial
    result = measure(options(tmp_path, "--fast", "md", "malt-2"), model, INFO, chosen)
    assert result["done"] == 12
    rows = result["rows"]
    assert rows[FAST]["clean"]["left"] == rows[AUTO_ATTACK]["clean"]["left"] == "111101111111"
    for side in rows.values():
        counts = [row["left"].count("1") for row in side.values()]
        assert counts == sorted(counts, reverse=True)
    last = result["compared"][-1]
    assert (last["side"], last["attack"]) == (FAST, "malt-2")
    theirs, ours = rows[AUTO_ATTACK]["Square"]["left"], rows[FAST]["malt-2"]["left"]
    assert last["accuracy"] == pytest.approx(ours.count("1") / 12, abs=1e-4)
    assert 0 < last["accuracy"] < 11 / 12
    assert last["missed"] - last["found"] == ours.count("1") - theirs.count("1")
    assert last["calls_per_picture"] == pytest.approx(sum(row["calls"] for row in rows[FAST].values()) / 12, abs=0.1)
    assert "12 of 12 pictures\n" in shown(result)


def test_pairs_are_counted_on_the_pictures_that_both_sides_are_done_with():
    cascades = {
        AUTO_ATTACK: {"clean": Row("11111111", 8), "Square": Row("11010011", 800)},
        FAST: {"clean": Row("111111", 6), "pma": Row("100111", 60)},
    }
    clean, square, _, pma = compare(cascades)
    assert (clean["accuracy"], square["accuracy"], pma["accuracy"]) == (1.0, 0.5, 0.6667)
    assert (pma["missed"], pma["found"], pma["p"]) == (2, 1, 1.0)
    assert pma["calls_per_picture"] == 11.0
    assert pma["share_of_calls"] == pytest.approx(11 / 101, abs=1e-4)


def test_autoattacks_answers_may_come_from_a_report_of_the_same(trial, tmp_path):
    model, chosen = trial
    result = measure(options(tmp_path, "--fast", "pma"), model, INFO, chosen)
    path = tmp_path / "report.json"
    report = Report(setting={name: result["setting"][name] for name in fast_judge.SAME})
    attacks = fast_judge.auto_attack(CONTEXT)
    for name, attack in attacks.items():
        marks = result["rows"][AUTO_ATTACK][name]["left"]
        report.add(attack, torch.tensor([mark == "1" for mark in marks]))
    report.save(path)
    again = measure(options(tmp_path, "--fast", "pma", "--report", f"{path}", out="b.json"), model, INFO, chosen)
    assert again["rows"][FAST] == result["rows"][FAST]
    for name, row in result["rows"][AUTO_ATTACK].items():
        assert again["rows"][AUTO_ATTACK][name]["left"] == row["left"]
        assert again["rows"][AUTO_ATTACK][name]["calls"] <= row["calls"]
    assert "at least" in shown(again)
    report.setting["seed"] = 7
    report.save(path)
    with pytest.raises(FastJudgeError, match="differs from this run in seed; leave it out"):
        from_report(path, result["setting"], attacks)
    for content in ("[]", "{", '{"setting": {}}', '{"setting": {}, "about": {}, "rows": [{}]}'):
        path.write_text(content)
        with pytest.raises(NoReportError, match=r"no report of training.evaluate .*; leave it out"):
            from_report(path, result["setting"], attacks)


def test_what_was_saved_of_something_else_is_refused(trial, tmp_path):
    model, chosen = trial
    measure(options(tmp_path, "--fast", "pma"), model, INFO, chosen)
    with pytest.raises(FastJudgeError, match="differs from this run in attacks; pass another --out"):
        measure(options(tmp_path, "--fast", "md"), model, INFO, chosen)
    saved = json.loads((tmp_path / "mine.json").read_text())
    saved["rows"][FAST]["pma"]["calls"] = "many"
    for content in ("{}", "[", json.dumps({**saved, "rows": {}}), json.dumps(saved)):
        (tmp_path / "mine.json").write_text(content)
        with pytest.raises(FastJudgeError, match="is no result of this command"):
            measure(options(tmp_path, "--fast", "pma"), model, INFO, chosen)


def test_names_that_make_no_cascade_are_refused():
    with pytest.raises(FastJudgeError, match="malt-1 has no class left"):
        fast_attacks(["malt-3", "malt-1"], CONTEXT)
    with pytest.raises(FastJudgeError, match="it is 4 attacks and not one"):
        fast_attacks(["autoattack"], CONTEXT)
