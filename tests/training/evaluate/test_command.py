import csv
import json
import re
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sgn_serve.common.graph_format import METADATA_KEY
from tests.training import checkpoints
from training.attacks import gradient_attack
from training.attacks.rows import STATES, RowId
from training.data.loading import choose_pictures
from training.data.picture_set import PictureSet
from training.evaluate import measuring, prepare
from training.evaluate.command import main
from training.evaluate.diagnostics import accuracy_curve
from training.evaluate.report import Report

pytestmark = pytest.mark.usefixtures("short_attacks")


def save_untrained(folder: Path, block: bool, activation: str = "relu") -> Path:
    block_config = checkpoints.TINY.block if block else None
    return checkpoints.save_untrained(folder, checkpoints.tiny_info(block=block_config, activation=activation))


def labels(rows) -> list[str]:
    return [RowId.from_dict(row).label for row in rows]


def withstood(report) -> dict[str, str]:
    return {RowId.from_dict(row["id"]).label: row["withstood"] for row in report["rows"]}


def spoil(checkpoint: Path, **values: float) -> None:
    """Set every element of some tensors of a checkpoint, named with __ for a dot, to a value."""
    state = load_file(checkpoint)
    for name, value in values.items():
        state[name.replace("__", ".")].fill_(value)
    save_file(state, checkpoint, metadata={METADATA_KEY: load_checkpoint_text(checkpoint)})


def load_checkpoint_text(checkpoint: Path) -> str:
    with safe_open(checkpoint, framework="pt") as file:
        return file.metadata()[METADATA_KEY]


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"backbone__classifier__weight": float("nan")}, "its weights are not finite (backbone.classifier.weight"),
        # Each weight is finite, and their sum over the 64 channels is not.
        ({"backbone__norm__bias": 3e38, "backbone__classifier__weight": 3e38}, "its logits are NaN or infinite for 9"),
    ],
    ids=["weights", "logits"],
)
def test_a_network_that_answers_with_nan_is_not_judged(tmp_path, picture_folder, capsys, values, complaint):
    checkpoint = save_untrained(tmp_path, block=False)
    spoil(checkpoint, **values)
    argv = [f"--ckpt={checkpoint}", f"--data-root={picture_folder}", "--pictures=9", "--device=cpu"]
    assert main(argv) == 2
    printed, told = capsys.readouterr()
    (line,) = told.strip().splitlines()
    assert line.startswith(f"error: {checkpoint}: {complaint}")
    assert printed == ""
    assert not checkpoint.with_name("evaluation.json").exists()


def test_an_architecture_that_no_machine_can_build_is_not_judged(tmp_path, picture_folder, capsys):
    checkpoint = save_untrained(tmp_path, block=True)
    description = json.loads(load_checkpoint_text(checkpoint)) | {"architecture": "wrn-10-1000000"}
    save_file(load_file(checkpoint), checkpoint, metadata={METADATA_KEY: json.dumps(description)})
    assert main([f"--ckpt={checkpoint}", f"--data-root={picture_folder}", "--pictures=9", "--device=cpu"]) == 2
    printed, told = capsys.readouterr()
    (line,) = told.strip().splitlines()
    assert line.startswith(f"error: {checkpoint}: ")
    assert "wrn-10-1000000 has 64000000 channels, and the file's tensors at most 64" in line
    assert printed == ""
    assert sorted(tmp_path.iterdir()) == [checkpoint]


@pytest.fixture(params=[True, False], ids=["with block", "plain"])
def checkpoint(request, tmp_path):
    return save_untrained(tmp_path, block=request.param)


def test_report_of_a_checkpoint(checkpoint, picture_folder, capsys, monkeypatch):
    monkeypatch.setattr(prepare, "device_name", lambda device: f"the model of {device}")
    argv = [f"--ckpt={checkpoint}", f"--data-root={picture_folder}", "--pictures=9", "--beta", "20", "--device=cpu"]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    report = json.loads(checkpoint.with_name("evaluation.json").read_text())
    titles = {state: [row["title"] for row in report["rows"] if row["id"]["state"] == state] for state in STATES}
    has_block = bool(titles["block on"])
    assert titles["block off"] == ["clean", "FGSM", "PGD-10", "PGD-20", "CW-20"]
    if has_block:
        assert "CW-20, smooth surrogate, beta 20" in titles["block on"]
        assert "CW-20, transfer from block off" in titles["block on"]
        assert report["block_effect"]["correction_mean_abs"] > 0
        assert "answers change" in printed
    state = "block on" if has_block else "block off"
    headline = report["headline"]["lowest accuracy per picture"]
    assert headline == report["lowest"][state]
    strings = [row["withstood"] for row in report["rows"] if row["id"]["state"] == state]
    assert {len(bits) for bits in strings} == {9}
    recomputed = sum(all(column == "1" for column in picture) for picture in zip(*strings, strict=True)) / 9
    assert headline == pytest.approx(recomputed, abs=1e-4)
    assert report["setting"]["pictures"] == 9
    assert report["about"]["command"].startswith("python -m training.evaluate --ckpt=")
    assert report["about"]["device"] == "the model of cpu"
    assert f"lowest accuracy per picture: {headline:.1%}" in printed


def test_auto_is_judged_where_there_is_a_threshold(tmp_path, picture_folder, capsys):
    checkpoint, target = save_untrained(tmp_path, block=True), tmp_path / "auto.json"
    argv = [f"--data-root={picture_folder}", "--pictures=9", "--device=cpu", "--attacks=pgd-1", "--auto-margin=0.2"]
    assert main([f"--ckpt={checkpoint}", f"--report={target}", *argv]) == 0
    report = json.loads(target.read_text())
    assert report["setting"]["auto_margin"] == 0.2
    assert report["lowest"].keys() == {"block on", "block off", "auto"}
    assert report["measured"]["slow_down"]["pictures"] == 9
    assert "auto: lowest accuracy" in capsys.readouterr().out
    (tmp_path / "plain").mkdir()
    plain = save_untrained(tmp_path / "plain", block=False)
    assert main([f"--ckpt={plain}", *argv]) == 2
    assert "--auto-margin is for a network with a block" in capsys.readouterr().err


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
    argv += ["--batch-size=2", "--attacks=fgsm,pgd-2,cw-2"]
    original = measuring.measure_batch
    measured: list[str] = []
    half_done = checkpoint.with_name("evaluation.json.row")

    def interrupting(trial, attack, pictures):
        if measured and measured[-1].endswith("FGSM"):
            signal.raise_signal(number)
        measured.append(attack.id.label)
        return original(trial, attack, pictures)

    # This test counts rows alone, so the other measurements are left out.
    monkeypatch.setattr(accuracy_curve, "accuracy_over_eps", lambda *_, **__: {"128": 0.0})
    monkeypatch.setattr(measuring, "measure_batch", interrupting)
    assert main(argv) == status
    assert f"the same command continues in {measured[-1]}, after 2 of 6 pictures" in capsys.readouterr().err
    (row,) = json.loads(half_done.read_text())["rows"]
    assert [len(batch["withstood"]) for batch in row["batches"]] == [2]

    def recording(trial, attack, pictures):
        measured.append(attack.id.label)
        return original(trial, attack, pictures)

    monkeypatch.setattr(measuring, "measure_batch", recording)
    assert main(argv) == 0
    assert re.search(r"2/\d+ \[00:0", capsys.readouterr().err)
    report = json.loads(checkpoint.with_name("evaluation.json").read_text())
    assert set(Counter(measured).values()) == {3}  # each batch of each row once
    assert len(set(measured)) == len(report["rows"])
    assert not half_done.exists()
    # Another setting overwrites nothing.
    saved = checkpoint.with_name("evaluation.json").read_bytes()
    capsys.readouterr()
    assert main([*argv, "--seed=1"]) == 2
    error = capsys.readouterr().err
    assert "evaluation.json is a report of another setting: seed (was 0, now 1)" in error
    assert error.count("\n") == 1
    assert len(measured) == 3 * len(report["rows"])
    assert checkpoint.with_name("evaluation.json").read_bytes() == saved
    assert main([*argv, "--seed=1", f"--report={checkpoint.with_name('other.json')}"]) == 0
    assert len(measured) == 6 * len(report["rows"])


def test_mistakes_get_one_line(checkpoint, picture_folder, tmp_path, capsys):
    assert main([f"--ckpt={tmp_path / 'none.safetensors'}", f"--data-root={picture_folder}"]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main([f"--ckpt={checkpoint}", f"--data-root={tmp_path}"]) == 2
    assert "--data-root" in capsys.readouterr().err


def test_too_little_memory_gets_one_line(checkpoint, picture_folder, capsys, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.\nAnd much more.")

    monkeypatch.setattr(measuring, "measure_batch", full)
    assert main([f"--ckpt={checkpoint}", f"--data-root={picture_folder}", "--pictures=3", "--device=cpu"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "error: out of memory on cpu (CUDA out of memory.); pass a smaller --batch-size"


def test_table_shows_block_on_and_off_side_by_side():
    report = Report(setting={})
    for block, bits in ((True, [True, True, False, True]), (False, [True, False, False, True])):
        report.add(gradient_attack.clean_attack(block), torch.tensor(bits))
    report.add(gradient_attack.smooth_cw_attack(20, 5), torch.tensor([True, False, False, False]))
    assert report.table().splitlines() == [
        "| accuracy, % | block on | block off |",
        "| --- | ---: | ---: |",
        "| clean | 75.0 | 50.0 |",
        "| CW-20, smooth surrogate, beta 5 | 25.0 | - |",
        "| **lowest, per picture** | **25.0** | **50.0** |",
    ]
    assert report.headline() == 0.25


@pytest.mark.thorough
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
    with (folder / "pictures.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len({row["path"] for row in table}) == 6
    assert all(Path(row["path"]).is_relative_to(picture_folder / "test" / row["label"]) for row in table)
    for number, row in enumerate(table):
        given = {name: value for name, value in row.items() if name not in ("path", "label", "robust")}
        assert given == {
            f"{entry['id']['state']}: {entry['title']}": entry["withstood"][number] for entry in report["rows"]
        }
    assert sum(row["robust"] == "1" for row in table) / 6 == pytest.approx(
        report["headline"]["lowest accuracy per picture"]
    )
    # Asking for less later loses nothing.
    assert main([*argv, "--attacks", "fgsm", f"--report={folder}"]) == 0
    assert json.loads((folder / "evaluation.json").read_text())["rows"] == report["rows"]
    assert "masking checklist" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--eps=8"], "--eps must be in (0, 1], units of pixel intensity, not 8; write 8 of 255 levels as 8/255"),
        (["--eps=0"], "not 0; without a budget there is only clean accuracy"),
        (["--pictures=0"], "--pictures must be at least 1"),
        (["--restarts=0"], "--restarts must be at least 1"),
        (["--batch-size=0"], "--batch-size must be at least 1"),
        (["--threads=0"], "--threads must be at least 1"),
        (["--threads=-1"], "--threads must be at least 1"),
        (["--device=gpu"], "--device gpu: no such device here"),
        (["--device=cuda:99"], "pass --device cpu"),
        (["--beta", "0"], "--beta must be above 0, not 0; 5, 20 and 100 are the usual three"),
        (["--seed=-1"], "--seed must be in [0, 4294967296), not -1"),
        (["--seed=99999999999999999999"], "--seed must be in [0, 4294967296)"),
        (["--attacks", "pgd"], "unknown attack 'pgd'; did you mean pgd-20 or "),
        (["--attacks", "apgd-t"], "at least 4 classes"),
        (["--attacks", "transfer-from"], "--transfer-from"),
        (["--onnx", "none.onnx"], "python -m export"),
        (["--transfer-from", "none.safetensors"], "no such file"),
    ],
)
def test_impossible_requests_are_refused_before_any_work(checkpoint, tmp_path, capsys, flags, message):
    # The folder is empty: whoever got as far as reading pictures would say so.
    (tmp_path / "none").mkdir()
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


@pytest.fixture
def rows_alone(monkeypatch):
    """Leave out the other measurements, which take longer than one row does."""
    monkeypatch.setattr(accuracy_curve, "accuracy_over_eps", lambda *_, **__: {"128": 0.0})


@pytest.mark.usefixtures("rows_alone")
def test_only_a_smooth_networks_report_says_that_plain_attacks_go_through_both_passes(picture_folder, tmp_path, capsys):
    flags = [f"--data-root={picture_folder}", "--pictures=6", "--attacks=fgsm", "--device=cpu"]
    settings = {}
    for activation in ("relu", "silu"):
        (tmp_path / activation).mkdir()
        path = save_untrained(tmp_path / activation, block=True, activation=activation)
        assert main([f"--ckpt={path}", *flags]) == 0
        settings[activation] = json.loads(path.with_name("evaluation.json").read_text())["setting"]
    assert "plain_gradient" not in settings["relu"]
    assert settings["silu"]["plain_gradient"] == "both passes"
    # A report that does not say so has other figures under the same titles.
    report = path.with_name("evaluation.json")
    saved = json.loads(report.read_text())
    del saved["setting"]["plain_gradient"]
    report.write_text(json.dumps(saved))
    assert main([f"--ckpt={path}", *flags]) == 2
    assert 'plain_gradient (was not named, now "both passes")' in capsys.readouterr().err


@pytest.mark.usefixtures("rows_alone")
def test_other_pictures_and_another_order_of_them_are_another_setting(picture_folder, tmp_path, capsys):
    path = save_untrained(tmp_path, block=True)
    mine = tmp_path / "mine"
    shutil.copytree(picture_folder / "test", mine / "test")
    flags = [f"--ckpt={path}", f"--data-root={mine}", "--attacks=fgsm", "--device=cpu"]
    assert main([*flags, "--pictures=24"]) == 0
    report = path.with_name("evaluation.json")
    saved = json.loads(report.read_text())
    assert saved["setting"]["reader"] == "image-folder"
    assert main([*flags, "--pictures=1000"]) == 0
    # The same pictures in another order: batches, and so the draws of random starts, fall on others.
    assert main([*flags, "--pictures=24", "--seed=3", f"--report={tmp_path / 'other.json'}"]) == 0
    other = json.loads((tmp_path / "other.json").read_text())
    assert other["setting"]["pictures_sha256"] != saved["setting"]["pictures_sha256"]
    shutil.copy(mine / "test" / "red" / "000.png", mine / "test" / "red" / "001.png")
    assert main([*flags, "--pictures=24"]) == 2
    assert "pictures_sha256 (was " in capsys.readouterr().err


def test_the_first_pictures_are_of_every_class_even_where_all_are_taken():
    labels = torch.arange(3).repeat_interleave(40)
    pictures = PictureSet(labels[:, None, None, None].expand(-1, 3, 2, 2).to(torch.uint8), labels, ("a", "b", "c"))
    for count in (120, 1000):
        chosen = choose_pictures(pictures, count, seed=0)
        assert torch.equal(chosen.images[:, 0, 0, 0], chosen.labels)
        assert Counter(chosen.labels.tolist()) == {0: 40, 1: 40, 2: 40}
        assert min(Counter(chosen.labels[:60].tolist()).values()) >= 10
        assert torch.equal(chosen.labels, choose_pictures(pictures, count, seed=0).labels)
        assert not torch.equal(chosen.labels, choose_pictures(pictures, count, seed=1).labels)
    assert Counter(choose_pictures(pictures, 30, seed=0).labels.tolist()) == {0: 10, 1: 10, 2: 10}
