"""Judging any module from Python, and against the package pyautoattack called directly."""

import inspect
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pyautoattack import AutoAttack
from torch import Tensor, nn

from tests.training.checkpoints import tiny_info
from training.attacks.auto_attack import GradientStage, Square
from training.attacks.names import AttackError
from training.attacks.registry import Context, build_attacks
from training.checkpoint import CheckpointError, save_checkpoint
from training.evaluate import judge, judging
from training.evaluate.any_module import JudgeError, checked_images, checked_labels
from training.evaluate.options import Options
from training.evaluate.saved_report import SavedReportError
from training.networks.self_gradient import SelfGradientNetwork

pytestmark = pytest.mark.usefixtures("short_attacks")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalised(nn.Module):
    """A network as torchvision's and RobustBench's are used: it normalises by itself, and flattens with view()."""

    mean: Tensor
    std: Tensor

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))
        self.convolution = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(6 * 16, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.norm(self.convolution(images.sub_(self.mean).div_(self.std))))
        pooled = F.adaptive_avg_pool2d(features, 4)
        return self.linear(self.dropout(pooled.view(len(images), -1)))


@pytest.fixture
def module() -> Normalised:
    torch.manual_seed(0)
    return Normalised()


def some_pictures(module: nn.Module, count: int = 16) -> tuple[Tensor, Tensor]:
    """Pictures with the module's own answers as labels, but for the first one's."""
    images = torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    was = module.training
    with torch.no_grad():
        logits = module.eval()(images.clone())
    module.train(was)
    labels = logits.argmax(dim=1)
    labels[0] = (labels[0] + 1) % logits.shape[1]
    return images, labels


@pytest.mark.thorough
def test_the_same_pictures_fall_as_under_autoattack_called_directly(module, monkeypatch):
    images, labels = some_pictures(module)
    module.eval()
    # The package's check for dynamic defences switches tracing off for the whole process; it is not compared.
    monkeypatch.setattr(sys, "settrace", lambda _: None)
    driver = AutoAttack(lambda inputs: module(inputs.clone()), eps=2 / 255, seed=0, device="cpu", version="standard")
    standard = {"apgd-ce": driver.apgd.n_iter, "apgd-t": driver.apgd_targeted.n_iter, "fab-t": driver.fab.n_iter}
    standard["square"] = driver.square.n_queries
    # Both get a tenth of the standard version's steps, all of which take half a minute.
    for attack in (driver.apgd, driver.apgd_targeted):
        more = {"n_target_classes": attack.n_target_classes} if attack is driver.apgd_targeted else {}
        options = {"n_iter": attack.n_iter // 10, "n_restarts": attack.n_restarts, "eps": attack.eps, **more}
        attack.__init__(driver.model, seed=0, device="cpu", **options)
    driver.fab.n_iter //= 10
    driver.square.n_queries //= 10

    def a_tenth(names: list[str], context: Context) -> list[Any]:
        attacks: list[Any] = build_attacks(names, context)
        stages = [attack for attack in attacks if isinstance(attack, GradientStage)]
        squares = [attack for attack in attacks if isinstance(attack, Square)]
        assert len(attacks) == 1 + len(stages) + len(squares), "the clean row, and these"
        assert all(stage.iterations == standard[stage.algorithm] for stage in stages)
        assert all(square.queries == standard["square"] for square in squares)
        cheaper = [replace(stage, iterations=stage.iterations // 10) for stage in stages]
        return [*attacks[:1], *cheaper, *(replace(square, queries=square.queries // 10) for square in squares)]

    def withstood_theirs(names: list[str]) -> Tensor:
        driver.attacks_to_run = names
        attacked, _ = driver.run_standard_evaluation(images.clone(), labels)
        with torch.no_grad():
            return module(attacked.clone()).argmax(dim=1) == labels

    monkeypatch.setattr(judging, "build_attacks", a_tenth)
    names = list(driver.attacks_to_run)
    assert names == ["apgd-ce", "apgd-t", "fab-t", "square"]
    theirs = withstood_theirs(names)
    assert 0 < int(theirs.sum()) < len(images) - 1, "some fall and some do not"

    judged = judge(module, images, labels, eps=2 / 255, attacks="autoattack", progress=False)
    right = torch.stack([row.right for row in judged.rows.values()]).all(dim=0)
    assert right.tolist() == theirs.tolist()
    assert judged.lowest == pytest.approx(theirs.float().mean().item())
    assert list(judged.rows) == ["clean", "APGD-CE", "APGD-T", "FAB-T", "Square"]

    # Each attack alone: what one of them fells, the ones before it in the cascade would have felled.
    for name, title in zip(names, ("APGD-CE", "APGD-T", "FAB-T", "Square"), strict=True):
        alone = withstood_theirs([name])
        assert 0 < int(alone.sum()) < len(images) - 1, f"some fall to {name} and some do not"
        row = judge(module, images, labels, eps=2 / 255, attacks=name, progress=False).rows[title]
        assert row.right.tolist() == alone.tolist(), name


def test_the_module_stays_as_it_was(module):
    images, labels = some_pictures(module)
    module.train()
    module.norm.eval()
    module.linear.bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    torch.manual_seed(7)
    drawn = torch.rand(1)
    torch.manual_seed(7)
    kept = images.clone()
    judge(module, images, labels, attacks="fgsm", progress=False)
    assert torch.equal(torch.rand(1), drawn), "torch's generator"
    assert torch.equal(images, kept), "the module normalises in place"
    assert (module.training, module.norm.training, module.dropout.training) == (True, False, True)
    assert [parameter.requires_grad for parameter in module.linear.parameters()] == [True, False]
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert not module._forward_pre_hooks
    with pytest.raises(JudgeError):
        judge(module, images, labels + 10, attacks="fgsm", progress=False)
    assert module.training, "after an error too"


def test_what_forward_writes_into_buffers_is_taken_back(module, tmp_path):
    class Counted(Normalised):
        answered: Tensor

        def __init__(self):
            super().__init__()
            self.register_buffer("answered", torch.zeros((), dtype=torch.int64))

        def forward(self, inputs):
            self.answered += len(inputs)
            return super().forward(inputs)

    counted = Counted()
    images, labels = some_pictures(counted)
    counted.answered.zero_()
    for _ in range(2):  # the second continues the first, whose weights are the same
        judge(counted, images, labels, attacks="fgsm", save=tmp_path, progress=False)
        assert counted.answered == 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_the_caller_records_no_gradients(module, mode):
    images, labels = some_pictures(module)
    wanted = judge(module, images, labels, attacks="pgd-3", progress=False)
    with mode():
        found = judge(module, images + 0, labels, attacks="pgd-3", progress=False)
    assert found.rows == {**wanted.rows, **found.rows}
    assert [row.withstood for row in found.rows.values()] == [row.withstood for row in wanted.rows.values()]


def test_the_report_as_text_and_files(module, tmp_path, capsys):
    images, labels = some_pictures(module)
    judged = judge(module, images, labels, data="noise", class_names=list("abcdefghij"), progress=False)
    assert capsys.readouterr() == ("", "")
    text = str(judged)
    assert text.startswith("noise, 16 pictures, L-inf eps 0.0314\n\n| accuracy, % | block off |")
    assert f"**{100 * judged.lowest:.1f}**" in text
    assert "masking checklist:" in text
    judged.to_json(tmp_path / "deep" / "report.json")
    saved = json.loads((tmp_path / "deep" / "report.json").read_text())
    assert saved["headline"] == {"lowest accuracy per picture": round(judged.lowest, 4)}
    assert (
        [row["title"] for row in saved["rows"]] == list(judged.rows) == ["clean", "FGSM", "PGD-10", "PGD-20", "CW-20"]
    )
    assert saved["setting"]["architecture"] == "Normalised"
    assert judged.likely_overestimated == saved["robustness_likely_overestimated"]
    page = judged.page(tmp_path / "page")
    assert page.read_text().startswith(
        "# Robustness of Normalised\n\nnoise, 16 pictures, seed 0, L-inf epsilon 8/255.\n"
    )
    names = {path.name for path in page.parent.iterdir()}
    assert names == {
        "evaluation.md",
        "evaluation.json",
        "accuracy_over_eps.png",
        "accuracy_over_steps.png",
        "gallery.png",
    }
    weights = tmp_path / "w.json"
    weights.write_text("[1, 2]")
    with pytest.raises(SavedReportError, match=r"w.json: not a report of this kind .* pass another path"):
        judged.to_json(weights)
    weights = weights.rename(tmp_path / "w.pt")
    with pytest.raises(JudgeError, match=r"a report is a .json file; name one, such as report.json"):
        judged.to_json(weights)
    assert weights.read_text() == "[1, 2]"
    for write, what in ((judged.to_json, "to_json"), (judged.page, "page")):
        with pytest.raises(JudgeError, match=f"{what}: the path is empty; name a file or a folder"):
            write("")
    judge(module, images, labels, attacks="clean", progress=False).to_json(tmp_path / "other" / "evaluation.json")
    other = judge(module, images, labels, eps=0.01, attacks="clean", progress=False)
    with pytest.raises(SavedReportError, match=r"eps \(was .* pass another folder"):
        other.page(tmp_path / "other")
    other.to_json(tmp_path / "other" / "evaluation.json")
    assert json.loads((tmp_path / "other" / "evaluation.json").read_text())["setting"]["eps"] == 0.01


@pytest.mark.parametrize("options", [{}, {"progress": True}, {"progress": False}])
def test_progress_is_shown_unless_it_is_unwanted(module, options, capsys):
    images, labels = some_pictures(module, 4)
    judge(module, images, labels, attacks="fgsm,pgd-3", **options)
    out, shown = capsys.readouterr()
    assert out == ""
    if options == {"progress": False}:
        assert shown == ""
    else:
        names = ("block off: clean", "block off: FGSM", "block off: PGD-3")
        places = [shown.index(name) for name in names]
        assert places == sorted(places)
        assert "4/4" in shown


def test_a_saved_report_is_continued_and_no_other(module, tmp_path, monkeypatch, capsys):
    images, labels = some_pictures(module)
    save = tmp_path / "run"
    first = judge(module, images, labels, attacks="fgsm", save=save)
    assert (save / "evaluation.json").exists()
    calls = []
    forward = Normalised.forward

    def counted(self: Normalised, inputs: Tensor) -> Tensor:
        calls.append(inspect.stack()[2].function)
        return forward(self, inputs)

    both = judge(module, images, labels, attacks="fgsm,pgd-3", save=save / "evaluation.json")
    assert "continuing after 2 of 3 attacks" in capsys.readouterr().err
    assert both.rows["FGSM"] == first.rows["FGSM"]
    assert list(both.rows) == ["clean", "FGSM", "PGD-3"]
    monkeypatch.setattr(Normalised, "forward", counted)
    judge(module, images, labels, attacks="fgsm,pgd-3", save=save, progress=False)
    assert len(calls) <= 3, "the check alone"
    monkeypatch.setattr(Normalised, "forward", lambda self, inputs: forward(self, inputs).flip(1))
    with pytest.raises(
        SavedReportError, match=r"answers_sha256.*; give the same settings as then, or pass another save="
    ):
        judge(module, images, labels, attacks="fgsm", save=save, progress=False)
    monkeypatch.setattr(Normalised, "forward", forward)
    with torch.no_grad():
        module.linear.bias += 1
    with pytest.raises(SavedReportError, match="module_sha256"):
        judge(module, images, labels, attacks="fgsm", save=save, progress=False)


def test_a_network_with_a_block_has_both_columns(network):
    model: SelfGradientNetwork = network(scale=8 / 255)
    images = torch.rand(4, 3, 12, 12)
    judged = judge(model, images, model(images).argmax(dim=1).detach(), attacks="fgsm", beta=[20.0], progress=False)
    assert "| accuracy, % | block on | block off |" in str(judged)
    assert list(judged.rows) == ["block on: clean", "block off: clean", "block on: FGSM", "block off: FGSM"]


def test_grey_pictures_and_arrays(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    judged = judge(
        module, torch.rand(6, 1, 8, 8).numpy(), [0, 1, 2, 0, 1, 2], attacks=["fgsm", "noise"], progress=False
    )
    assert list(judged.rows) == ["clean", "FGSM", "random noise, 100 draws"]
    assert judged.page(tmp_path).exists()


def test_a_random_module_is_told(module):
    module.dropout = _AlwaysDropout()
    images, labels = some_pictures(module)
    text = str(judge(module, images, labels, attacks="fgsm", progress=False))
    assert "robustness likely overestimated: " in text
    assert "randomness" in text.splitlines()[-1]


def test_answers_that_are_not_finite_under_attack_are_told(module, tmp_path):
    images, labels = some_pictures(module)
    images = (255 * images).round() / 255
    weak = _OffTheGrid(module)
    judged = judge(weak, images, labels, attacks="fgsm,pgd-3", save=tmp_path, progress=False)
    fgsm, pgd = judged.rows["FGSM"], judged.rows["PGD-3"]
    assert (fgsm.not_finite, pgd.not_finite) == (0, 16)
    assert set(pgd.withstood) <= {"0", "-"}
    (line,) = (line for line in str(judged).splitlines() if " finite answers: " in line)
    assert line == (
        "        raised  finite answers: 1, raised above 0, share of pictures with a logit that is NaN or infinite, "
        "which counts as wrong (most: PGD-3)"
    )
    again = judge(weak, images, labels, attacks="fgsm,pgd-3", save=tmp_path, progress=False)
    assert again.rows == judged.rows
    assert " finite answers: " not in str(judge(module, images, labels, attacks="fgsm", progress=False))


def test_a_report_whose_rows_lack_a_field_is_refused(module, tmp_path):
    images, labels = some_pictures(module)
    judge(module, images, labels, attacks="fgsm", save=tmp_path, progress=False)
    (path,) = tmp_path.glob("*.json")
    saved = json.loads(path.read_text())
    for row in saved["rows"]:
        assert row.pop("not_finite") == 0
    path.write_text(json.dumps(saved))
    with pytest.raises(SavedReportError, match=r"rows cannot be read \(KeyError: 'not_finite'\); .*delete that file"):
        judge(module, images, labels, attacks="fgsm", save=tmp_path, progress=False)


def test_a_report_whose_answers_that_are_not_finite_nobody_counted_says_so(module, tmp_path):
    images, labels = some_pictures(module)
    judge(module, images, labels, attacks="fgsm,pgd-3", save=tmp_path, progress=False)
    (path,) = tmp_path.glob("*.json")
    saved = json.loads(path.read_text())
    for row in saved["rows"]:
        row["not_finite"] = None
    path.write_text(json.dumps(saved))
    resumed = judge(module, images, labels, attacks="fgsm,pgd-3,pgd-5", save=tmp_path, progress=False)
    assert [row.not_finite for row in resumed.rows.values()] == [None, None, None, 0]
    (line,) = (line for line in str(resumed).splitlines() if " finite answers: " in line)
    assert line.startswith("  not measured  finite answers: -, raised above 0, ")
    assert line.endswith(" (not counted: clean, FGSM, PGD-3)")


class _OffTheGrid(nn.Module):
    """A network that answers NaN to a picture with a value between whole 255ths."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        levels = 255 * images
        between = (levels - levels.round()).abs().amax((1, 2, 3)) > 0.01
        return torch.where(between[:, None], torch.nan, self.network(images))


class _AlwaysDropout(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return F.dropout(features, 0.5, training=True)


class _Around(nn.Module):
    """A network with something done to its answer."""

    def __init__(self, network: nn.Module, after: Any) -> None:
        super().__init__()
        self.network, self.after = network, after

    def forward(self, images: Tensor) -> Any:
        return self.after(self.network(images))


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (lambda logits: logits.softmax(1), "probabilities .* leave its softmax out, or return their logarithm"),
        (lambda logits: logits.softmax(1).half(), "probabilities"),
        (
            lambda logits: {"scores": logits, "more": logits},
            "returns a dict of scores .*, and which of them are the logits",
        ),
        (lambda logits: (logits, logits), "returns a tuple of .*, and which of them are the logits"),
        (lambda logits: logits.argmax(1), r"answers 16 pictures with \(16,\), not with logits .*; return them before"),
        (lambda logits: F.one_hot(logits.argmax(1), 10).float(), "0 and 1 alone, .*: return them before argmax"),
        (lambda logits: logits[:, :1], r"with \(16, 1\), .*; for one logit x of two classes, return torch\.stack"),
        (lambda logits: logits[:, 0], r"with \(16,\), .*; for one logit x of two classes, return torch\.stack"),
        (
            lambda logits: logits.squeeze(),
            r"answers 1 picture with \(10,\), .*; a squeeze\(\) without a dimension drops",
        ),
        (lambda logits: logits if len(logits) > 1 else logits @ logits, r"fails on float32 pictures \(1, 3, 12, 12\)"),
        (lambda logits: logits[:-1], r"with \(15, 10\)"),
        (lambda logits: (1000 * logits).long(), "in int64, not with logits"),
        (lambda logits: logits / 0, "NaN or infinite for each of the first 16 pictures"),
        (lambda logits: logits.detach(), "no gradient of the logits reaches the pictures"),
        (lambda logits: logits.detach().requires_grad_(), "no gradient of the logits reaches the pictures"),
        (lambda logits: logits[:, :5], "a label is [5-9], but the module answers for 5 classes, 0 to 4"),
        (lambda logits: logits @ logits, r"fails on float32 pictures \(16, 3, 12, 12\) on cpu \(RuntimeError: mat1"),
    ],
)
def test_answers_that_are_no_logits(module, after, message):
    images, labels = some_pictures(module)
    labels[5] = 9
    with pytest.raises(JudgeError, match=message) as caught:
        judge(_Around(module, after), images, labels, progress=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", [0, 15])
def test_one_picture_without_a_finite_answer_is_a_finding_wherever_it_stands(place, module):
    images, labels = some_pictures(module)
    images = (255 * images).round() / 255
    images[place, 0, 0, 0] = 0.5
    judged = judge(_OffTheGrid(module), images, labels, attacks="fgsm", batch_size=4, progress=False)
    assert judged.rows["clean"].not_finite == 1
    assert judged.rows["clean"].withstood[place] == "0"
    assert " finite answers: 0.0625, raised above 0" in str(judged)


def test_a_dict_with_logits_is_taken(module):
    images, labels = some_pictures(module)
    plain = judge(module, images, labels, attacks="pgd-3", progress=False)
    judged = judge(_Around(module, lambda logits: {"logits": logits}), images, labels, attacks="pgd-3", progress=False)
    assert {name: row.withstood for name, row in judged.rows.items()} == {
        name: row.withstood for name, row in plain.rows.items()
    }


def test_the_logarithm_of_probabilities_is_taken(module):
    images, labels = some_pictures(module)
    judged = judge(
        _Around(module, lambda logits: logits.log_softmax(1)), images, labels, attacks="fgsm", progress=False
    )
    assert judged.rows["clean"].accuracy == 15 / 16


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(4, 3, 8, 8, dtype=torch.uint8), r"not uint8: pass images.float\(\) / 255"),
        (torch.zeros(4, 3, 8, 8, dtype=torch.float64), "not float64"),
        (torch.zeros(4, 8, 8, 3), r"permute\(0, 3, 1, 2\)"),
        (torch.zeros(3, 8, 8), r"images\[None\]"),
        (torch.zeros(4, 2, 8, 8), r"not \(4, 2, 8, 8\)"),
        (torch.zeros(0, 3, 8, 8), r"not \(0, 3, 8, 8\)"),
        (torch.full((4, 3, 8, 8), 255.0), "from 255 to 255: divide them by 255"),
        (torch.full((4, 3, 8, 8), -1.0), "from -1 to -1: pass them as they are before normalisation"),
        (torch.full((4, 3, 8, 8), math.nan), "some of theirs are NaN; mend them or leave them out"),
        ("pictures", "must be a tensor, a NumPy array or a list of numbers, not a str"),
    ],
)
def test_images_that_cannot_be_judged(module, images, message):
    with pytest.raises(JudgeError, match=message):
        judge(module, images, [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2], r"must be \(4\), one for each picture, not \(3,\)"),
        (torch.eye(4), r"labels.argmax\(1\)"),
        ([[0], [1], [2], [3]], r"not \(4, 1\); pass labels\[:, 0\]$"),
        ([0.0, 1.0, 2.0, 3.0], "whole numbers, the indices of the classes, not float64"),
        ([True, False, True, True], "not bool"),
        ([0, 1, 2, -1], "0 or more, not -1"),
        (["a", "b", "c", "d"], "must be a tensor, a NumPy array or a list of numbers, not a list of str"),
        (np.array([0, 1, 2, None]), "must be a tensor, a NumPy array or a list of numbers, not an array of object"),
        ([0, 1, 2, 10], "a label is 10, but the module answers for 10 classes"),
    ],
)
def test_labels_that_cannot_be_judged(module, labels, message):
    with pytest.raises(JudgeError, match=message):
        judge(module, torch.rand(4, 3, 12, 12), labels)


def test_numbers_of_numpy_are_as_pythons(module, tmp_path):
    images, labels = some_pictures(module, 4)
    options: dict[str, Any] = {
        "eps": np.float32(2 / 255),
        "seed": np.int64(3),
        "batch_size": np.uint8(2),
        "beta": np.array([5.0]),
    }
    judge(module, images, labels, attacks="clean", save=tmp_path, progress=False, **options)
    setting = json.loads((tmp_path / "evaluation.json").read_text())["setting"]
    assert (setting["eps"], setting["seed"], setting["batch_size"]) == (pytest.approx(2 / 255), 3, 2)


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", ">i4", ">u2"])
def test_labels_of_any_whole_numbers_are_taken(dtype):
    labels = checked_labels(np.arange(4).astype(dtype), 4)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 1, 2, 3]


def test_pictures_of_another_byte_order_are_taken():
    images = np.linspace(0, 1, 4 * 3 * 2 * 2, dtype=">f4").reshape(4, 3, 2, 2)
    torch.testing.assert_close(checked_images(images), torch.from_numpy(images.astype(np.float32)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 8}, r"^eps must be in \(0, 1\], units of pixel intensity, not 8; write 8 of 255 levels as 8/255"),
        (
            {"eps": np.float32(8)},
            r"^eps must be in \(0, 1\], units of pixel intensity, not 8; write 8 of 255 levels as",
        ),
        ({"eps": torch.tensor(math.nan)}, r"^eps must be in \(0, 1\]"),
        ({"eps": "8/255"}, "^eps must be a number, not '8/255'"),
        ({"batch_size": 0}, "^batch_size must be at least 1, not 0"),
        ({"batch_size": 2.5}, "^batch_size must be a whole number, not '2.5'"),
        ({"restarts": True}, "^restarts must be a whole number, not 'True'"),
        ({"beta": ["a"]}, "^beta must be a number, not 'a'"),
        ({"seed": -1}, "^seed must be"),
        ({"beta": [0.0]}, "^beta must be above 0"),
        ({"save": ""}, "save: the path is empty; name a file or a folder"),
        ({"save": "x.txt"}, "save=x.txt: a report is a .json file, or a folder; name x.json, or x for the page"),
        ({"class_names": ["a", "b"]}, "answers for 10 classes, but there are 2 in class_names: give it"),
    ],
)
def test_options_out_of_range(module, options, message):
    with pytest.raises(JudgeError, match=message):
        judge(module, torch.rand(4, 3, 12, 12), [0, 1, 2, 3], **options)


def test_other_wrong_arguments(module):
    images, labels = some_pictures(module)
    with pytest.raises(TypeError, match="no argument 'epsilon'; it has seed, "):
        judge(module, images, labels, epsilon=0.1)  # type: ignore[call-arg]
    with pytest.raises(AttackError, match="unknown attack 'quickly'"):
        judge(module, images, labels, attacks="quickly", progress=False)
    for attacks in (None, 3, [], ["quick", 3], ""):
        with pytest.raises(JudgeError, match='attacks must be names of presets and attacks, such as "quick"'):
            judge(module, images, labels, attacks=attacks)  # type: ignore[arg-type]
    with pytest.raises(JudgeError, match=r"must be a torch\.nn\.Module, not function"):
        judge(lambda inputs: inputs, images, labels)  # type: ignore[arg-type]


def test_logits_that_are_all_zero_are_judged(module):
    """A classifier may start at zero."""
    images, labels = some_pictures(module)
    judged = judge(_Around(module, lambda logits: 0 * logits), images, labels, attacks="fgsm", progress=False)
    assert judged.rows["clean"].accuracy == (labels == 0).float().mean()


def test_a_module_of_another_precision_is_told_how(module):
    images, labels = some_pictures(module)
    with pytest.raises(JudgeError, match=r"fails on float32 pictures .*; its weights are float64: judge module\.float"):
        judge(module.double(), images, labels)


def test_a_lazy_layer_without_a_size(module, tmp_path):
    images, labels = some_pictures(module)
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(JudgeError, match=r"the module's 1\.weight belongs to a lazy layer that has seen no picture"):
        judge(lazy, images, labels)
    with pytest.raises(CheckpointError, match="belongs to a lazy layer that has seen no picture"):
        save_checkpoint(tmp_path / "model.safetensors", lazy.state_dict(), tiny_info())
    assert not (tmp_path / "model.safetensors").exists()


def test_a_module_on_two_devices(module):
    images, labels = some_pictures(module)
    module.linear.to("meta")
    with pytest.raises(JudgeError, match="on cpu and meta: move it to one device"):
        judge(module, images, labels)


def test_defaults_are_those_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signature writes two of them out, for the documentation; the others are read from the options."""
    signature = inspect.signature(judge).parameters
    assert signature["eps"].default == Options.eps
    assert (signature["attacks"].default,) == Options.attacks
    seen = []

    def stop(trial: Any, facts: Any, run: Any) -> None:
        seen.append((trial.seed, trial.batch_size, run.restarts, run.betas))
        raise KeyboardInterrupt

    monkeypatch.setattr(judging, "module_evaluation", stop)
    for name, value in {"seed": 7, "batch_size": 3, "restarts": 2, "beta": (4.0,)}.items():
        monkeypatch.setattr(Options, name, value)
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 3))
    with pytest.raises(KeyboardInterrupt):
        judge(module, torch.rand(2, 3, 4, 4), torch.tensor([0, 1]))
    assert seen == [(7, 3, 2, (4.0,))]


def test_importing_the_package_loads_no_pytorch(project_root: Path) -> None:
    """It gives `judge` all the same, as the import at the top of this file shows."""
    program = (
        "import sys, training.evaluate\nprint(sorted({'torch', 'training.evaluate.judging'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=project_root, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "[]\n"
