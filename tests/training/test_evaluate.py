import json
import signal
from dataclasses import replace

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


@pytest.fixture
def interruptible():
    """A shell starts what runs in its background deaf to Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_evaluation_goes_on(number, status, checkpoint, picture_folder, capsys, monkeypatch):
    argv = [f"--ckpt={checkpoint}", f"--data-root={picture_folder}", "--pictures=6", "--beta", "20", "--device=cpu"]
    original = robustness.withstood
    measured: list[str] = []

    def interrupting(model, images, labels, attack, **options):
        if len(measured) == 3:
            signal.raise_signal(number)
        measured.append(attack.name)
        return original(model, images, labels, attack, **options)

    # What is measured besides the rows is not what this test counts.
    monkeypatch.setattr(accuracy_curve, "accuracy_over_eps", lambda *_, **__: {"128": 0.0})
    monkeypatch.setattr(robustness, "withstood", interrupting)
    assert main(argv) == status
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


def test_too_little_memory_gets_one_line(checkpoint, picture_folder, capsys, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.\nAnd much more.")

    monkeypatch.setattr(robustness, "withstood", full)
    assert main([f"--ckpt={checkpoint}", f"--data-root={picture_folder}", "--pictures=3", "--device=cpu"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "error: out of memory on cpu (CUDA out of memory.); pass a smaller --batch-size"


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


def test_a_report_folder_gets_everything(checkpoint, picture_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(accuracy_curve, "LEVELS", (1, 8, 128))
    folder = tmp_path / "report"
    argv = [f"--ckpt={checkpoint}", f"--data-root={picture_folder}", "--pictures=6", "--device=cpu"]
    assert main([*argv, "--attacks", "fgsm,pgd-2", "pgd-3", f"--report={folder}"]) == 0
    report = json.loads((folder / "evaluation.json").read_text())
    assert set(report["measured"]["accuracy_over_eps"]) == {"1", "8", "128"}
    assert report["robustness_likely_overestimated"] in (True, False)
    low, high = report["headline_interval_95"]
    assert low <= report["headline"]["lowest accuracy per picture"] <= high
    page = (folder / "evaluation.md").read_text()
    assert "| PGD-3 |" in page
    for finding in report["checklist"]:
        assert f"| {finding['verdict']} | {finding['name']} |" in page
    plots = {"accuracy_over_eps.png", "accuracy_over_steps.png", "gallery.png"}
    if report["block_effect"] is not None:
        plots.add("convergence.png")
        assert "theorem 1" in page
        assert report["measured"]["convergence"]["block"]["gradient_change"]
    assert {path.name for path in folder.glob("*.png")} == plots
    assert all(f"]({name})" in page and (folder / name).stat().st_size > 2000 for name in plots)
    # Asking for less later loses nothing.
    assert main([*argv, "--attacks", "fgsm", f"--report={folder}"]) == 0
    assert json.loads((folder / "evaluation.json").read_text())["withstood"] == report["withstood"]
    assert "masking checklist" in capsys.readouterr().out


def test_a_row_of_other_parameters_is_measured_again(tmp_path):
    path = tmp_path / "evaluation.json"
    saved = Report(setting={"seed": 0})
    for attack in (robustness.clean(), robustness.pgd(10), robustness.cw(10)):
        saved.add(attack, torch.tensor([True, False]))
    saved.save(path)
    report = Report(setting={"seed": 0})
    changed = replace(robustness.pgd(10), step_size=0.1)
    assert report.take_over(path, [robustness.clean(), changed]) == 1
    assert set(report.withstood) == {"block on: clean", "block on: CW-10"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--eps=8"], "write --eps 8/255"),
        (["--eps=0"], "--eps must be above 0"),
        (["--pictures=0"], "--pictures must be at least 1"),
        (["--restarts=0"], "--restarts must be at least 1"),
        (["--batch-size=0"], "--batch-size must be at least 1"),
        (["--threads=0"], "--threads must be at least 1"),
        (["--threads=-1"], "--threads must be at least 1"),
        (["--device=gpu"], "--device gpu: no such device here"),
        (["--device=cuda:99"], "pass --device cpu"),
        (["--beta", "0"], "--beta must be above 0"),
        (["--attacks", "pgd"], "unknown attack 'pgd'; known are: quick, paper"),
        (["--attacks", "apgd-t"], "at least 4 classes"),
        (["--attacks", "transfer-from"], "--transfer-from"),
        (["--onnx", "none.onnx"], "python -m export"),
        (["--transfer-from", "none.safetensors"], "no such file"),
    ],
)
def test_impossible_requests_are_refused_before_any_work(checkpoint, tmp_path, capsys, flags, message):
    # The pictures are not there: whoever got as far as reading them would say so.
    assert main([f"--ckpt={checkpoint}", f"--data-root={tmp_path / 'none'}", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_data_set_of_another_class_count_is_refused(checkpoint, picture_folder, tmp_path, capsys):
    for name in ("blue", "green"):
        (tmp_path / "test" / name).mkdir(parents=True)
        first = next((picture_folder / "test" / name).iterdir())
        (tmp_path / "test" / name / first.name).symlink_to(first)
    assert main([f"--ckpt={checkpoint}", f"--data-root={tmp_path}"]) == 2
    assert "with 2 classes" in capsys.readouterr().err
