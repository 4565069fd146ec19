"""A whole report, every attack of it, on a tiny network with a block."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import nn

from training.attacks import gradient_attack
from training.attacks.auto_attack import GradientStage
from training.attacks.pgd import loss_gradient, margin
from training.attacks.registry import Context, Source, build_attacks
from training.attacks.rows import row_key
from training.attacks.views import full_view, held_view
from training.evaluate.report import Report
from training.evaluate.run import Evaluation
from training.networks.activations import with_activation
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork

EPS = 8 / 255


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
        checkpoint=Source(model, "the checkpoint", "0" * 64),
        graph_sha256="1" * 64,
        transfer=Source(tiny(1, block=False), "pgd tiny", "2" * 64),
        queries=20,
    )
    # A hundred iterations of each would find no more here and take a minute.
    attacks = [
        replace(attack, iterations=8) if isinstance(attack, GradientStage) else attack
        for attack in build_attacks(["full"], context)
    ]

    def graph(inputs, self_gradient=True):
        """Stands for the exported graph: the same answers, no derivatives."""
        return model(inputs.detach(), self_gradient=self_gradient).detach()

    path = tmp_path_factory.mktemp("report") / "evaluation.json"
    report = Report(setting={"eps": EPS, "seed": 0})
    evaluation = Evaluation(
        model=model,
        images=images,
        labels=labels,
        class_names=("a", "b", "c", "d"),
        report=report,
        path=path,
        betas=(20.0,),
        graph=cast(Any, graph),
    )
    return evaluation, attacks, evaluation.run(attacks)


def test_every_row_is_there_and_none_is_above_clean(full):
    evaluation, attacks, _ = full
    report = evaluation.report
    assert list(report.withstood) == [row_key(attack) for attack in attacks]
    assert {row.split(":")[0] for row in report.withstood} == {"block on", "block off", "exported graph"}
    for state in report.states():
        clean = report.accuracy(f"{state}: clean")
        assert all(report.accuracy(row) <= clean for row in report.withstood if row.startswith(state))
    assert report.withstood["exported graph: clean"] == report.withstood["block on: clean"]


def test_the_headline_is_no_higher_than_anything(full):
    report = full[0].report
    figures = [report.accuracy(row) for row in report.withstood if not row.startswith("block off")]
    assert report.headline() <= min([*figures, report.auto_attack("block on")])
    assert report.as_dict()["lowest"].keys() == {"block on", "block off", "exported graph"}


def test_every_gradient_in_use_is_checked(full):
    correlations = full[0].report.measured["gradient_correlation"]
    assert correlations.keys() == {"plain", "both passes", "smooth, beta 20", "smooth, beta 400, averaged"}


def test_everything_of_the_checklist_is_measured(full):
    assert {finding.verdict for finding in full[2]} <= {"ok", "suspect", "raised"}


def test_a_finished_report_runs_nothing_again(full, monkeypatch):
    evaluation, attacks, findings = full
    monkeypatch.setattr("training.evaluate.measuring.withstood", lambda *_, **__: pytest.fail("measured again"))
    again = Evaluation(
        model=evaluation.model,
        images=evaluation.images,
        labels=evaluation.labels,
        class_names=evaluation.class_names,
        report=Report(setting=evaluation.report.setting),
        path=evaluation.path,
        betas=evaluation.betas,
        graph=evaluation.graph,
    )
    assert again.run(attacks) == findings
    assert again.report.withstood == evaluation.report.withstood


def test_no_more_pictures_at_once_than_the_batch_size(tmp_path):
    """And no figure changes; in float64, where the order of sums cannot turn the sign of a gradient."""
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
        evaluation = Evaluation(
            model=model,
            images=images,
            labels=labels,
            class_names=("a", "b", "c", "d"),
            report=report,
            path=tmp_path / f"{batch_size}.json",
            betas=(20.0,),
            batch_size=batch_size,
        )
        evaluation.run(attacks)
        assert largest == [batch_size]
        reports[batch_size] = report
    assert reports[3].withstood == reports[8].withstood
    assert reports[3].block_effect == pytest.approx(reports[8].block_effect)
    for name in ("gradient_correlation", "zero_gradients", "accuracy_over_eps"):
        assert reports[3].measured[name] == pytest.approx(reports[8].measured[name])


@pytest.mark.parametrize(("activation", "view"), [("relu", held_view), ("silu", full_view)])
def test_the_plain_gradient_that_is_checked_is_the_one_that_plain_attacks_follow(activation, view, tmp_path):
    model = tiny(0, block=True)
    with_activation(model.backbone, activation)
    images, labels = torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.long)
    report = Report(setting={"eps": EPS, "seed": 0})
    evaluation = Evaluation(model, images, labels, ("a", "b", "c", "d"), report, tmp_path / "evaluation.json", (20.0,))
    name, first = next(iter(evaluation.gradient_views([]).items()))
    _, checked = loss_gradient(first, images, labels, margin)
    assert name == "plain"
    assert torch.equal(checked, loss_gradient(view(model), images, labels, margin)[1])
    followed = gradient_attack.cw(20).logits_function(model, images)
    assert torch.equal(checked, loss_gradient(followed, images, labels, margin)[1])


def test_gradients_of_rows_that_an_earlier_command_measured_stay_known(tmp_path):
    model = tiny(0, block=True)
    images, labels = torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.long)
    for beta in (5.0, 20.0):
        report = Report(setting={"eps": EPS, "seed": 0})
        names = ("a", "b", "c", "d")
        evaluation = Evaluation(model, images, labels, names, report, tmp_path / "evaluation.json", (beta,))
        evaluation.run(build_attacks(["smooth-cw"], Context(eps=EPS, has_block=True, classes=4, betas=(beta,))))
    known = {"plain", "both passes", "smooth, beta 5", "smooth, beta 20"}
    assert report.measured["gradient_correlation"].keys() == known
    assert report.checklist[0]["detail"].count("no attack here follows it") == 1  # both passes
