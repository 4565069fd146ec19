import json
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from export.command import main as export_main
from tests.training.checkpoints import tiny_info
from training.checkpoint import CheckpointError, build_model, load_checkpoint, save_checkpoint
from training.evaluate.command import main as evaluate_main
from training.evaluate.gradient_oracle import oracle_withstood
from training.evaluate.measuring import Trial
from training.networks.errors import ArchitectureError
from training.networks.gradient_oracle import GradientOracle, with_gradient_input
from training.networks.self_gradient import rms_normalised

INFO = tiny_info(method="gradient-oracle", block=None)


@pytest.fixture
def oracle():
    torch.manual_seed(0)
    model = build_model(INFO).eval()
    assert isinstance(model, GradientOracle)
    return model


@pytest.fixture
def saved(oracle, tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, oracle.state_dict(), INFO)
    return path


def test_the_second_pass_gets_the_gradient_of_the_true_loss(oracle):
    images, labels = torch.rand(3, 3, 16, 16), torch.tensor([0, 2, 1])
    inputs = images.clone().requires_grad_()
    normalised = (inputs - oracle.mean) / oracle.std
    first = oracle.backbone(torch.cat((normalised, torch.zeros_like(inputs)), dim=1))
    (gradient,) = torch.autograd.grad(F.cross_entropy(first, labels), inputs)
    with torch.no_grad():
        expected = oracle.backbone(torch.cat((normalised, rms_normalised(gradient)), dim=1))
        told = oracle.oracle_logits(images, labels)
        assert torch.equal(oracle(images), first)
    torch.testing.assert_close(told, expected)
    assert (told - first).abs().max() > 1e-3
    other = oracle.oracle_logits(images, torch.tensor([1, 2, 1]))
    assert not torch.allclose(other[0], told[0])  # another label, another answer
    torch.testing.assert_close(other[1:], told[1:])


def test_the_image_weights_stay_and_the_gradients_join(oracle):
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=True), nn.ReLU())
    weight, bias = (backbone.get_parameter(f"0.{name}").detach().clone() for name in ("weight", "bias"))
    wider: Any = with_gradient_input(backbone, 3).get_submodule("0")
    assert torch.equal(wider.weight[:, :3], weight)
    assert torch.equal(wider.bias, bias)
    assert 0.3 < wider.weight[:, 3:].std() / weight.std() < 3
    with pytest.raises(ArchitectureError, match="begins with a convolution"):
        with_gradient_input(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), 3)


def test_it_is_rebuilt_from_its_checkpoint_and_strictly(oracle, saved, tmp_path):
    loaded, info = load_checkpoint(saved)
    assert isinstance(loaded, GradientOracle)
    assert info == INFO
    images, labels = torch.rand(2, 3, 16, 16), torch.tensor([0, 1])
    assert torch.equal(loaded.oracle_logits(images, labels), oracle.oracle_logits(images, labels))
    plain = replace(INFO, method="pgd")
    save_checkpoint(tmp_path / "plain.safetensors", oracle.state_dict(), plain)
    with pytest.raises(CheckpointError, match="do not fit"):
        load_checkpoint(tmp_path / "plain.safetensors")


def test_export_refuses_it_in_one_line(saved, tmp_path, capsys):
    assert export_main(["--ckpt", str(saved), "--onnx", str(tmp_path / "model.onnx")]) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert "needs the true label" in error
    assert "another --method" in error
    assert not (tmp_path / "model.onnx").exists()


def test_evaluation_says_that_it_is_told_the_labels(saved, picture_folder, capsys):
    assert evaluate_main([f"--ckpt={saved}", f"--data-root={picture_folder}", "--pictures=9", "--device=cpu"]) == 0
    printed = capsys.readouterr().out
    report = json.loads(saved.with_name("evaluation.json").read_text())
    assert set(report["accuracy"]) == {"clean", "PGD-10", "clean, not told the labels"}
    assert "no measure of robustness" in report["warning"]
    assert report["warning"] in printed
    assert report["setting"]["method"] == "gradient-oracle"
    assert "headline" not in report


def test_its_figures_overwrite_no_foreign_file(saved, picture_folder, capsys):
    path = saved.with_name("package.json")
    path.write_text("{}")
    flags = [f"--ckpt={saved}", f"--data-root={picture_folder}", "--pictures=9", "--device=cpu", f"--report={path}"]
    assert evaluate_main(flags) == 2
    assert "not a report of this kind" in capsys.readouterr().err
    assert path.read_text() == "{}"


def test_the_attack_knows_what_the_network_knows(oracle):
    images, labels = torch.rand(6, 3, 16, 16), torch.tensor([0, 1, 2, 0, 1, 2])
    told = oracle.oracle_logits(images, labels).argmax(dim=1)
    clean = oracle_withstood(Trial(oracle, images, labels, eps=8 / 255, seed=0, batch_size=4), steps=0)
    assert torch.equal(clean, told == labels)
    attacked = oracle_withstood(Trial(oracle, images, labels, eps=0.3, seed=0, batch_size=4), steps=2)
    assert attacked.sum() <= clean.sum()
