"""The checklist on figures made up for it, on a network that masks its gradients, and on one that does not."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.attacks import gradient_attack
from training.attacks.auto_attack import GradientStage
from training.attacks.gradient_attack import Attack
from training.attacks.registry import Context, build_attacks
from training.attacks.rows import RowId, more_restarts_row, more_steps_row
from training.evaluate.checklist import checklist, likely_overestimated
from training.evaluate.measuring import Trial
from training.evaluate.page import summary, warning
from training.evaluate.report import Report, Row
from training.evaluate.run import Evaluation
from training.networks.self_gradient import SelfGradientNetwork

EPS = 8 / 255
CLASSES = 4


class TinyNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.classifier = nn.Linear(32, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.layers(images))


class Quantised(nn.Module):
    """Sees eight levels of intensity: hardly any less accurate, and its gradient is zero everywhere."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(torch.round(2 * images) / 2)


class Saturated(nn.Module):
    """The same answers, so confident that cross-entropy has no gradient left in float32."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return 1e4 * self.network(images)


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A plain network trained for a second on pictures whose class is a faint colour, and 24 pictures."""
    generator = torch.Generator().manual_seed(0)
    colours = 0.5 + 0.045 * torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1]])

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % CLASSES
        noise = 0.25 * torch.randn(count, 3, 10, 10, generator=generator)
        return (colours[labels][:, :, None, None] + noise).clamp(0, 1), labels

    torch.manual_seed(0)
    network = TinyNetwork()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    images, labels = draw(400)
    for _ in range(120):
        optimizer.zero_grad()
        # The model normalises its images: train on what it will see.
        nn.functional.cross_entropy(network((images - 0.5) / 0.25), labels).backward()
        optimizer.step()
    return network.eval().requires_grad_(False), *draw(24)


def judge(backbone: nn.Module, images: Tensor, labels: Tensor, path: Path, attacks: list[str]) -> tuple[Report, dict]:
    report = Report(setting={"eps": EPS, "seed": 0})
    model = SelfGradientNetwork(backbone, None).eval()
    trial = Trial(model, images, labels, EPS, seed=0)
    evaluation = Evaluation(trial, ("a", "b", "c", "d"), report, path / "evaluation.json", betas=())
    context = Context(eps=EPS, has_block=False, classes=CLASSES, queries=150)
    findings = evaluation.run(build_attacks(attacks, context))
    return report, {finding.name: finding for finding in findings}


def test_a_plain_network_raises_no_flag(trained, tmp_path):
    backbone, images, labels = trained
    report, findings = judge(backbone, images, labels, tmp_path, ["full"])
    assert report.rows[RowId("block off", "clean")].accuracy > 0.9
    assert report.headline() < 0.9
    bad = {name: finding for name, finding in findings.items() if finding.verdict in ("raised", "suspect")}
    assert bad == {}
    assert {finding.verdict for finding in findings.values()} <= {"ok", "does not apply", "not measured"}
    measured = {name for name, finding in findings.items() if finding.verdict == "ok"}
    assert {"gradient correlation", "zero gradients", "black-box attacks", "more steps", "more restarts"} <= measured
    assert report.likely_overestimated is False
    assert "likely overestimated" not in summary(report, [*findings.values()])


def test_quantised_input_raises_the_flags_of_masked_gradients(trained, tmp_path):
    network, images, labels = trained
    report, findings = judge(Quantised(network), images, labels, tmp_path, ["fgsm", "pgd-20", "noise", "square"])
    assert report.rows[RowId("block off", "clean")].accuracy > 0.8
    for name in ("gradient correlation", "zero gradients", "black-box attacks", "accuracy at eps 128/255"):
        assert findings[name].verdict == "raised", findings[name]
    assert findings["gradient correlation"].value == 0
    assert findings["zero gradients"].value == 1
    assert report.likely_overestimated is True
    assert "robustness likely overestimated: gradient correlation, zero gradients" in summary(
        report, [*findings.values()]
    )


def test_saturated_logits_raise_the_flag_of_zero_gradients(trained, tmp_path):
    network, images, labels = trained
    report, findings = judge(Saturated(network), images, labels, tmp_path, ["fgsm"])
    assert findings["zero gradients"].verdict == "raised"
    assert findings["gradient correlation"].verdict == "ok"
    assert report.likely_overestimated is True


def report_of(rows: dict[RowId, str], **fields) -> Report:
    return Report(setting={}, rows={row: Row(bits, {}) for row, bits in rows.items()}, **fields)


def on(family, *values, **fields) -> RowId:
    return RowId("block on", family, *values, **fields)


CLEAN = {on("clean"): "1" * 190 + "0" * 10}
FGSM = on("fgsm")
SMOOTH = on("cw", 20, "smooth", 5.0)
OTHER = on("cw", 100, to_the_end=True, source="other")
MORE_STEPS, MORE_RESTARTS = more_steps_row("block on"), more_restarts_row("block on")
AUTO_ATTACK = [on(family) for family in ("apgd-ce", "apgd-t", "fab-t", "square")]


def left(count: int) -> str:
    return "1" * count + "0" * (200 - count)


@pytest.mark.parametrize(
    ("item", "rows", "verdict"),
    [
        ("label leaking", {FGSM: left(191)}, "raised"),
        ("label leaking", {FGSM: left(190)}, "ok"),
        ("PGD weaker than FGSM", {FGSM: left(100), on("pgd", 10): left(90), on("pgd", 40): left(102)}, "raised"),
        ("PGD weaker than FGSM", {FGSM: left(100), on("pgd", 40): left(101)}, "ok"),
        ("more steps", {on("cw", 100): left(100), MORE_STEPS: "1" * 97 + "000" + "-" * 90 + "0" * 10}, "raised"),
        ("more steps", {on("cw", 100): left(100), MORE_STEPS: "1" * 98 + "00" + "-" * 90 + "0" * 10}, "ok"),
        ("more restarts", {MORE_RESTARTS: "1" * 97 + "000" + "-" * 90 + "0" * 10}, "raised"),
        ("black-box attacks", {on("cw", 20): left(100), on("square"): left(99)}, "raised"),
        ("black-box attacks", {on("cw", 20): left(100), on("square"): left(120)}, "ok"),
        ("transfer attacks", {on("cw", 20): left(100), OTHER: left(98)}, "raised"),
        ("transfer attacks", {on("cw", 20): left(100), OTHER: left(99)}, "ok"),
        (
            "smooth surrogate",
            {row: left(100) for row in AUTO_ATTACK} | {SMOOTH: left(97)},
            "raised",
        ),
        (
            "smooth surrogate",
            {row: left(100) for row in AUTO_ATTACK} | {SMOOTH: left(98)},
            "ok",
        ),
        ("smooth surrogate", {on("cw", 20): left(100)}, "not measured"),
    ],
)
def test_thresholds_of_the_items_that_compare_rows(item, rows, verdict):
    findings = {finding.name: finding for finding in checklist(report_of(CLEAN | rows))}
    assert findings[item].verdict == verdict


@pytest.mark.parametrize(
    ("correlations", "verdict", "overestimated"),
    [
        ({"plain": 0.98}, "ok", False),
        ({"plain": 0.95}, "suspect", False),
        ({"plain": 0.6, "smooth, beta 20": 0.7}, "raised", True),
        ({"plain": 0.6, "smooth, beta 20": 0.98}, "raised", False),
        ({"plain": 0.6, "smooth, beta 400, averaged": 0.98}, "raised", False),
        # No attack of the report follows these.
        ({"plain": 0.6, "smooth, beta 5": 0.98}, "raised", True),
        ({"plain": 0.6, "both passes": 0.98, "smooth, beta 20, averaged": 0.98}, "raised", True),
    ],
)
def test_masked_gradients_matter_unless_an_attack_of_the_report_has_sound_ones(correlations, verdict, overestimated):
    report = report_of(CLEAN, measured={"gradient_correlation": correlations})
    averaged = Attack("cw", steps=20, view="smooth", beta=400.0, noise_samples=8)
    for attack in (
        gradient_attack.clean_attack(),
        gradient_attack.smooth_cw_attack(20, 20),
        averaged,
        Attack("cw", steps=20, view="full", block=False),
    ):
        report.add(attack, torch.ones(200, dtype=torch.bool))
    findings = checklist(report)
    assert {finding.name: finding for finding in findings}["gradient correlation"].verdict == verdict
    assert likely_overestimated(findings) is overestimated
    assert (warning(findings) is not None) is overestimated


def test_gradients_that_no_attack_follows_are_shown_all_the_same():
    correlations = {"plain": 0.6, "smooth, beta 5": 0.98, "smooth, beta 20": 0.7}
    report = report_of(CLEAN, measured={"gradient_correlation": correlations})
    report.add(GradientStage("apgd-ce", view="smooth", beta=20.0), torch.ones(200, dtype=torch.bool))
    detail = checklist(report)[0].detail
    assert detail == "smooth, beta 5 0.980 (no attack here follows it), smooth, beta 20 0.700"


def test_a_block_that_changes_nothing_is_raised_but_flatters_nothing():
    effect = {"answers_changed": 0.0, "answers_changed_attacked": 0.0}
    findings = checklist(report_of(CLEAN, block_effect=effect))
    assert {finding.name: finding for finding in findings}["block relevance"].verdict == "raised"
    assert not likely_overestimated(findings)


@pytest.mark.parametrize(
    ("item", "measured"),
    [
        ("gradient correlation", {"gradient_correlation": {"plain": float("nan")}}),
        ("zero gradients", {"zero_gradients": {"cross-entropy": float("nan"), "margin": float("nan")}}),
        ("batch dependence", {"batch_dependence": float("nan")}),
        ("randomness", {"randomness": float("inf")}),
        ("accuracy at eps 128/255", {"accuracy_over_eps": {"128": float("nan")}}),
    ],
)
def test_a_value_that_is_not_finite_is_never_ok(item, measured):
    findings = checklist(report_of(CLEAN, measured=measured))
    (finding,) = [one for one in findings if one.name == item]
    assert (finding.verdict, finding.value, finding.consequence) == ("raised", None, True)
    assert "the measured value is" in finding.detail
    assert likely_overestimated(findings)


def test_what_was_not_measured_is_said():
    findings = checklist(report_of(CLEAN))
    assert {finding.verdict for finding in findings} == {"not measured"}


def test_every_item_is_explained(project_root):
    text = (project_root / "docs" / "explanation" / "checklist.md").read_text()
    for finding in checklist(report_of(CLEAN)):
        assert f"### {finding.name[0].upper()}{finding.name[1:]}\n" in text
