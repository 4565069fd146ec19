"""A whole report, every attack of it, on a tiny network with a block."""

import json
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import nn

from tests.short_attacks import shorten_gradient_attacks
from training.attacks import gradient_attack
from training.attacks.auto_attack import GradientStage
from training.attacks.black_box import SourceNetwork
from training.attacks.projected_gradient import loss_gradient, margin
from training.attacks.registry import Context, build_attacks
from training.attacks.rows import AUTO_ATTACK, STATES, RowFilter, RowId
from training.attacks.views import full_view, held_view
from training.evaluate.checks import gradient_views
from training.evaluate.measuring import Trial
from training.evaluate.page import page, summary
from training.evaluate.report import Report
from training.evaluate.run import Evaluation
from training.evaluate.saved_report import SavedReportError
from training.networks.activations import with_activation
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork, probability_margin

EPS = 8 / 255
NAMES = ("a", "b", "c", "d")


def tiny(seed: int, block: bool) -> SelfGradientNetwork:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4)]
    made = SelfGradientBlock(scale=EPS, gradient_scaling="rms") if block else None
    return SelfGradientNetwork(nn.Sequential(*layers), made).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    model = tiny(0, block=True)
    images = torch.rand(8, 3, 8, 8)
    labels = model(images).argmax(dim=1)
    labels[0] = (labels[0] + 1) % 4
    context = Context(
        eps=EPS,
        has_block=True,
        classes=4,
        betas=(20.0,),
        checkpoint=SourceNetwork(model, "the checkpoint", "0" * 64),
        graph_sha256="1" * 64,
        transfer=SourceNetwork(tiny(1, block=False), "pgd tiny", "2" * 64),
        queries=20,
    )
    # A hundred iterations of each would find no more here and take a minute, and so would as many steps.
    attacks = [
        replace(attack, iterations=8) if isinstance(attack, GradientStage) else attack
        for attack in build_attacks(["full"], context)
    ]

    def graph(inputs, self_gradient=True):
        """Stands for the exported graph: the same answers, no derivatives."""
        return model(inputs.detach(), self_gradient=self_gradient).detach()

    path = tmp_path_factory.mktemp("report") / "evaluation.json"
    evaluation = Evaluation(
        trial=Trial(model, images, labels, EPS, seed=0),
        class_names=NAMES,
        report=Report(setting={"eps": EPS, "seed": 0}),
        path=path,
        betas=(20.0,),
        graph=cast(Any, graph),
    )
    with pytest.MonkeyPatch.context() as patch:
        shorten_gradient_attacks(patch.setattr)
        return evaluation, attacks, evaluation.run(attacks)


def test_every_row_is_there_and_none_is_above_clean(full):
    evaluation, attacks, _ = full
    report = evaluation.report
    assert list(report.rows) == [attack.id for attack in attacks]
    assert report.states() == [state for state in STATES if state != "auto"], "there is no threshold"
    for state in report.states():
        clean = report.rows[RowId(state, "clean")].accuracy
        assert all(row.accuracy <= clean for row in report.in_state(state).values())
    on_graph, on_checkpoint = (report.rows[RowId(state, "clean")] for state in ("exported graph", "block on"))
    assert on_graph.withstood == on_checkpoint.withstood


def test_every_row_has_its_time(full):
    assert all(row.core_seconds is not None and row.core_seconds >= 0 for row in full[0].report.rows.values())


def test_autoattack_counts_its_four_rows_and_no_surrogate(full):
    report = full[0].report
    counted = [RowFilter.like(family="clean"), *(RowFilter.like(family=name, view="held") for name in AUTO_ATTACK)]
    for state in ("block on", "block off"):
        rows = report.in_state(state)
        bits = [row.withstood for one, row in rows.items() if any(filter.matches(one) for filter in counted)]
        assert len(bits) == 5
        left = sum(all(mark == "1" for mark in picture) for picture in zip(*bits, strict=True))
        assert report.auto_attack(state) == pytest.approx(left / 8)
    assert report.auto_attack("exported graph") is None


def test_the_headline_is_no_higher_than_anything(full):
    report = full[0].report
    figures = [row.accuracy for one, row in report.rows.items() if one.state != "block off"]
    assert report.headline() <= min([*figures, report.auto_attack("block on")])
    assert report.as_dict()["lowest"].keys() == {"block on", "block off", "exported graph"}


def test_every_gradient_in_use_is_checked(full):
    correlations = full[0].report.measured["gradient_correlation"]
    assert correlations.keys() == {"plain", "both passes", "smooth, beta 20", "smooth, beta 400, averaged"}


def test_everything_of_the_checklist_is_measured(full):
    assert {finding.verdict for finding in full[2]} <= {"ok", "suspect", "raised"}


def test_a_finished_report_runs_nothing_again(full, monkeypatch):
    evaluation, attacks, findings = full
    for name in ("withstood", "measure_batch"):
        monkeypatch.setattr(f"training.evaluate.measuring.{name}", lambda *_, **__: pytest.fail("measured again"))
    again = replace(evaluation, report=Report(setting=evaluation.report.setting))
    assert again.run(attacks) == findings
    assert again.report.rows == evaluation.report.rows


def test_no_more_pictures_at_once_than_the_batch_size(tmp_path):
    """No figure changes. In float64 the order of sums cannot turn the sign of a gradient."""
    model = tiny(0, block=True).double()
    images = torch.rand(8, 3, 8, 8, dtype=torch.double)
    labels = torch.tensor([0, 1, 2, 3]).repeat(2)
    attacks = build_attacks(["fgsm", "smooth-cw"], Context(eps=EPS, has_block=True, classes=4, betas=(20.0,)))
    largest = [0]
    model.backbone.register_forward_pre_hook(lambda _, inputs: largest.append(max(largest.pop(), len(inputs[0]))))
    reports = {}
    for batch_size in (8, 3):
        largest[0] = 0
        report = Report(setting={"eps": EPS, "seed": 0})
        trial = Trial(model, images, labels, EPS, seed=0, batch_size=batch_size)
        Evaluation(trial, NAMES, report, tmp_path / f"{batch_size}.json", (20.0,)).run(attacks)
        assert largest == [batch_size]
        reports[batch_size] = report
    bits = [{one: row.withstood for one, row in reports[size].rows.items()} for size in (3, 8)]
    assert bits[0] == bits[1]
    assert reports[3].block_effect == pytest.approx(reports[8].block_effect)
    for name in ("gradient_correlation", "zero_gradients", "accuracy_over_eps"):
        assert reports[3].measured[name] == pytest.approx(reports[8].measured[name])


@pytest.mark.parametrize(("activation", "view"), [("relu", held_view), ("silu", full_view)])
def test_the_plain_gradient_that_is_checked_is_the_one_that_plain_attacks_follow(activation, view, tmp_path):
    model = tiny(0, block=True)
    with_activation(model.backbone, activation)
    images, labels = torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.long)
    report = Report(setting={"eps": EPS, "seed": 0})
    trial = Trial(model, images, labels, EPS, seed=0)
    evaluation = Evaluation(trial, NAMES, report, tmp_path / "evaluation.json", (20.0,))
    name, first = next(iter(gradient_views(evaluation.trial, [], evaluation.betas).items()))
    _, checked = loss_gradient(first, images, labels, margin)
    assert name == "plain"
    assert torch.equal(checked, loss_gradient(view(model), images, labels, margin)[1])
    followed = gradient_attack.cw_attack(20).logits_function(model, images)
    assert torch.equal(checked, loss_gradient(followed, images, labels, margin)[1])


def test_gradients_of_rows_that_an_earlier_command_measured_stay_known(tmp_path):
    model = tiny(0, block=True)
    images, labels = torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.long)
    for beta in (5.0, 20.0):
        report = Report(setting={"eps": EPS, "seed": 0})
        trial = Trial(model, images, labels, EPS, seed=0)
        evaluation = Evaluation(trial, NAMES, report, tmp_path / "evaluation.json", (beta,))
        evaluation.run(build_attacks(["smooth-cw"], Context(eps=EPS, has_block=True, classes=4, betas=(beta,))))
    known = {"plain", "both passes", "smooth, beta 5", "smooth, beta 20"}
    assert report.measured["gradient_correlation"].keys() == known
    assert report.checklist[0]["detail"].count("no attack here follows it") == 1  # both passes


@pytest.fixture(scope="module")
def with_auto(tmp_path_factory):
    """A report of a network that has a threshold, at which half of the pictures need the second pass."""
    model = tiny(0, block=True)
    images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.auto_margin = probability_margin(model(images, self_gradient=False)).median().item() + 1e-6
        labels = model(images, self_gradient="auto").argmax(dim=1)
    context = Context(eps=EPS, has_block=True, classes=4, betas=(20.0,), auto=True)
    attacks = build_attacks(["pgd-2", "gate"], context)
    path = tmp_path_factory.mktemp("auto") / "evaluation.json"
    report = Report(setting={"eps": EPS, "seed": 0, "auto_margin": model.auto_margin})
    evaluation = Evaluation(Trial(model, images, labels, EPS, seed=0), NAMES, report, path, (20.0,), progress=False)
    return evaluation, evaluation.run(attacks)


def test_auto_is_a_column_of_its_own_and_its_lowest_is_compared(with_auto):
    evaluation, findings = with_auto
    report = evaluation.report
    assert report.states() == ["block on", "block off", "auto"]
    assert report.rows[RowId("auto", "clean")].accuracy == 1
    assert report.table().splitlines()[0].split("|")[-2].strip() == "auto"
    lows = {state: report.lowest_of(state) for state in report.states()}
    below = min(lows["block on"], lows["block off"]) - lows["auto"]
    assert report.as_dict()["auto_below_on_and_off"] == pytest.approx(below)
    assert report.headline() == lows["block on"], "the network in use is the one with its block on"
    text = summary(report, findings)
    place = "under" if below >= 0 else "over"
    assert f"auto: lowest accuracy {100 * abs(below):.1f} points {place} the lower of block on and off" in text
    assert ("MORE than" in text) == (below > 0.003)


def test_the_attack_on_the_saving_is_part_of_the_report(with_auto):
    evaluation, findings = with_auto
    slow = evaluation.report.measured["slow_down"]
    assert slow["second_pass"] == 0.5 <= slow["per_picture"]
    assert slow["margin"] == pytest.approx(evaluation.trial.model.auto_margin, abs=1e-4)
    assert "auto: second pass for 50.0% of the pictures" in page(evaluation.report, findings, [])
    saved = json.loads(evaluation.path.read_text())
    assert saved["measured"]["slow_down"] == slow


def test_a_report_of_another_threshold_is_not_continued(with_auto):
    evaluation, _ = with_auto
    other = replace(evaluation, report=Report(setting={**evaluation.report.setting, "auto_margin": 0.9}))
    with pytest.raises(SavedReportError, match="auto_margin"):
        other.run([])
