"""`python -m training.reproduce`: tables and figures of the paper, each with one command."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.archives import write_cifar, write_svhn
from tests.training.reproduce.conftest import IN_A_PROCESS
from tests.training.reproduce.smoke_runs import result, smoke
from training.reproduce.experiment import Experiment, image_folder, training_pictures
from training.reproduce.paper import ATTACKS
from training.reproduce.systems import BUDGETS
from training.reproduce.tables import LOWEST


@pytest.mark.thorough
def test_a_table_from_pictures_to_the_papers_column(picture_folder, tmp_path, monkeypatch, in_this_process, capsys):
    """One system with the processes that users get; a second time, nothing is trained or measured again."""
    here = Experiment._python

    def run(self: Experiment, arguments: list[str]) -> int:
        return (IN_A_PROCESS if self.system == "pgd" else here)(self, arguments)

    monkeypatch.setattr(Experiment, "_python", run)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    data = ("--dataset", "image-folder", "--dataset-name", "three colours", "--data-root", str(picture_folder))
    assert smoke("table1", *data) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\| PGD-10 with the true gradient\* \| measured \| \d+\.\d \| \d+\.\d \| - \|", printed)
    assert "|  | paper | 92.1 | 82.4 | - |" in printed
    assert "|  | paper | 85.7 | 45.1 | - |" in printed
    assert "is told the true label of every picture" in printed
    assert "\nMeasured on three colours in place of cifar10, which the paper's figures are of.\n" in printed
    oracle, plain = result("table1")["rows"]
    assert oracle["measured"].keys() >= {"clean", "PGD-10"}
    assert plain["measured"].keys() == {*ATTACKS, LOWEST}
    report = json.loads(Path("runs/reproduce/smoke/cifar10/pgd/evaluation.json").read_text())
    (pgd_10,) = [row for row in report["rows"] if row["id"] == {"state": "block off", "family": "pgd", "steps": 10}]
    assert plain["measured"]["PGD-10"] == pytest.approx(100 * pgd_10["accuracy"])
    assert plain["setting"]["data"] == "three colours"
    assert plain["training"].startswith("python -m training --dataset image-folder")
    files = [Path(f"runs/reproduce/smoke/cifar10/{name}/state.pt") for name in ("pgd", "gradient-oracle")]
    before = [file.stat().st_mtime_ns for file in files]
    monkeypatch.setattr(Experiment, "_python", here)
    in_this_process.clear()
    assert smoke("table1", *data) == 0
    assert [file.stat().st_mtime_ns for file in files] == before
    assert [command[1] for command in in_this_process] == ["training.evaluate"] * 2
    assert result("table1")["rows"][1]["measured"] == plain["measured"]


@pytest.mark.thorough
def test_a_table_of_cifar100_from_its_archive(tmp_path, monkeypatch, in_this_process):
    write_cifar(tmp_path / "data", monkeypatch, 100, per_class=2)
    monkeypatch.chdir(tmp_path)
    assert smoke("table3", "--data-root", str(tmp_path / "data")) == 0
    rows = result("table3")["rows"]
    assert [row["title"] for row in rows] == ["standard", "Madry PGD-10", "bilateral", "self-gradient"]
    for row in rows:
        assert row["measured"].keys() >= set(ATTACKS)
        assert row["setting"]["data"] == "cifar100"
        assert row["measured"][LOWEST] <= min(row["measured"][attack] for attack in ATTACKS)
    assert [row["title"] for row in rows[-1]["other_rows"]] == ["CW-20, smooth surrogate, beta 20"]


@pytest.mark.thorough
def test_the_block_switched_off_and_figure_2_on_svhn_and_cifar10(tmp_path, monkeypatch, in_this_process, capsys):
    """Table 5's two rows come from one network, and so does the figure."""
    write_svhn(tmp_path / "data", monkeypatch, per_class=12)
    write_cifar(tmp_path / "data", monkeypatch, 10, per_class=4)
    monkeypatch.chdir(tmp_path)
    assert smoke("table5", "--only", "svhn", "--data-root", str(tmp_path / "data")) == 0
    assert sum(command[1] == "training" for command in in_this_process) == 1
    off, on = result("table5")["rows"]
    assert (off["title"], on["title"]) == ("self-gradient, block off", "self-gradient, block on")
    assert off["paper"] == {"clean": 95.84, "PGD-10": 66.11}
    assert [row["title"] for row in on["other_rows"]] == ["CW-20, smooth surrogate, beta 20"]
    assert off["other_rows"] == []
    capsys.readouterr()
    assert smoke("figure2", "--data-root", str(tmp_path / "data")) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"^\| \d+ \|", printed, flags=re.MULTILINE)) == 10
    changes = result("figure2")["iterations"]["block"]["gradient_change"]
    assert f"| 1 | {changes[0]:.3g} | {changes[0]:.3g} |" in printed
    assert Path("results/reproduce/smoke/figure2.png").read_bytes().startswith(b"\x89PNG")


def test_missing_pictures_are_named_before_anything_is_trained(tmp_path, monkeypatch, in_this_process, capsys):
    """The first data set of several is there, and does not help."""
    write_cifar(tmp_path / "data", monkeypatch, 10, per_class=1)
    monkeypatch.chdir(tmp_path)
    assert smoke("table5", "--data-root", str(tmp_path / "data")) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: .*no complete cifar100 here.*; or do without: --only cifar10 or --only svhn\n", error)
    assert in_this_process == []
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("table3", "--only", "svhn"), "error: table3 is about cifar100, not svhn"),
        (("table5", "--dataset", "image-folder"), r"say which with --only cifar10"),
    ],
)
def test_bad_combinations(arguments, message, capsys):
    assert smoke(*arguments) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_failed_training_stops_with_its_name(tmp_path, monkeypatch, picture_folder, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Experiment, "_python", lambda self, arguments: 2)
    assert smoke("table2", "--dataset", "image-folder", "--data-root", str(picture_folder)) == 2
    assert "training reproduce/smoke/cifar10/standard failed" in capsys.readouterr().err


def test_a_small_folder_of_pictures_is_enough(picture_folder, tmp_path, monkeypatch, in_this_process):
    """The numbers of pictures follow from it, where the budget's are too many."""
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 10), ("test", 4)):
        for folder in (picture_folder / split).iterdir():
            (tmp_path / "small" / split / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[: count + (folder.name == "red")]:
                shutil.copy(file, tmp_path / "small" / split / folder.name)
    monkeypatch.setitem(BUDGETS, "smoke", replace(BUDGETS["smoke"], pictures=12))
    data = ("--dataset", "image-folder", "--data-root", str(tmp_path / "small"))
    assert smoke("figure2", *data) == 0
    assert smoke("table5", "--only", "cifar10", *data) == 0
    trained = next(command for command in in_this_process if command[1] == "training")
    judged = next(command for command in in_this_process if command[1] == "training.evaluate")
    given = [trained[index + 1] for index, item in enumerate(trained) if item == "--validation-pictures"]
    assert given == ["6"], "two of ten of each class"
    assert judged[judged.index("--pictures") + 1] == "9"
    # The network can still be judged as it was trained where the pictures are not.
    shutil.rmtree(tmp_path / "small" / "train")
    image_folder.cache_clear()
    training_pictures.cache_clear()
    assert smoke("table5", "--only", "cifar10", *data) == 0
    assert [command[1] for command in in_this_process].count("training") == 1
