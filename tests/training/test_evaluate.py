import json

import pytest
import torch

from training import accuracy_curve, robustness
from training.checkpoint import BlockConfig, CheckpointInfo, build_model, save_checkpoint
from training.evaluate import main
from training.report import Report


@pytest.fixture(params=[True, False], ids=["with block", "plain"])
def checkpoint(request, tmp_path):
    torch.manual_seed(0)
    info = CheckpointInfo(
        architecture="wrn-10-1",
        class_names=("blue", "green", "red"),
        image_size=(16, 16),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        dataset="colours",
        method="self-gradient",
        epsilon=8 / 255,
        block=BlockConfig(scale=8 / 255, gradient_scaling="rms") if request.param else None,
        seed=0,
        recipe={"dataset": "image-folder", "image_size": None},
    )
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, build_model(info).state_dict(), info)
    return path


def test_report_of_a_checkpoint(checkpoint, picture_folder, capsys):
    argv = [f"--ckpt={checkpoint}", f"--data-root={picture_folder}", "--pictures=9", "--beta", "20", "--device=cpu"]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    report = json.loads(checkpoint.with_name("evaluation.json").read_text())
    has_block = any(key.startswith("block on") for key in report["accuracy"])
    paper = ["clean", "FGSM", "PGD-10", "PGD-20", "CW-20"]
    assert [key for key in report["accuracy"] if "off: " in key] == [f"block off: {name}" for name in paper]
    if has_block:
        assert "block on: CW-20, smooth surrogate, beta 20" in report["accuracy"]
        assert "block on: CW-20, transfer from block off" in report["accuracy"]
        assert report["block_effect"]["correction_mean_abs"] > 0
        assert "answers change" in printed
    state = "block on" if has_block else "block off"
    headline = report["headline"]["lowest accuracy per picture"]
    assert headline == report["lowest"][state]
    strings = [bits for key, bits in report["withstood"].items() if key.startswith(state)]
    assert {len(bits) for bits in strings} == {9}
    recomputed = sum(all(column == "1" for column in picture) for picture in zip(*strings, strict=True)) / 9
    assert headline == pytest.approx(recomputed, abs=1e-4)
    assert report["setting"]["pictures"] == 9
    assert report["about"]["command"].startswith("python -m training.evaluate --ckpt=")
    assert f"lowest accuracy per picture: {headline:.1%}" in printed


def test_an_interrupted_evaluation_goes_on(checkpoint, picture_folder, capsys, monkeypatch):
    argv = [f"--ckpt={checkpoint}", f"--data-root={picture_folder}", "--pictures=6", "--beta", "20", "--device=cpu"]
    original = robustness.withstood
    measured: list[str] = []

    def interrupting(model, images, labels, attack, **options):
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(attack.name)
        return original(model, images, labels, attack, **options)

    # What is measured besides the rows is not what this test counts.
    monkeypatch.setattr(accuracy_curve, "accuracy_over_eps", lambda *_, **__: {"128": 0.0})
    monkeypatch.setattr(robustness, "withstood", interrupting)
    assert main(argv) == 130
    assert "goes on" in capsys.readouterr().err

    def recording(model, images, labels, attack, **options):
        measured.append(attack.name)
        return original(model, images, labels, attack, **options)

    monkeypatch.setattr(robustness, "withstood", recording)
    assert main(argv) == 0
    report = json.loads(checkpoint.with_name("evaluation.json").read_text())
    assert len(measured) == len(report["withstood"])
    # Another setting starts anew.
    assert main([*argv, "--seed=1"]) == 0
    assert len(measured) == 2 * len(report["withstood"])


def test_mistakes_get_one_line(checkpoint, picture_folder, tmp_path, capsys):
    assert main([f"--ckpt={tmp_path / 'none.safetensors'}", f"--data-root={picture_folder}"]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main([f"--ckpt={checkpoint}", f"--data-root={tmp_path}"]) == 2
    assert "--data-root" in capsys.readouterr().err


def test_table_shows_block_on_and_off_side_by_side():
    report = Report(setting={})
    for block, bits in ((True, [True, True, False, True]), (False, [True, False, False, True])):
        report.add(robustness.clean(block), torch.tensor(bits))
    report.add(robustness.smooth_cw(20, 5), torch.tensor([True, False, False, False]))
    assert report.table().splitlines() == [
        "| accuracy, % | block on | block off |",
        "| --- | ---: | ---: |",
        "| clean | 75.0 | 50.0 |",
        "| CW-20, smooth surrogate, beta 5 | 25.0 | - |",
        "| **lowest, per picture** | **25.0** | **50.0** |",
    ]
    assert report.headline() == 0.25
