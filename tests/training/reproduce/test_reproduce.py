"""Tables and figures of the paper, each with one command."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.archives import write_cifar, write_svhn
from training import command as train
from training import options
from training.evaluate import command as evaluate
from training.evaluate.report import FORMAT
from training.reproduce import command as reproduce
from training.reproduce.experiment import DataSource, Experiment, ReproductionError
from training.reproduce.paper import ATTACKS, TABLES
from training.reproduce.systems import BUDGETS, SYSTEMS
from training.reproduce.tables import LOWEST, columns, line, lines_of


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Runs what would be processes of their own here, where small archives pass torchvision's check; returns them."""
    mains = {"training": train.main, "training.evaluate": evaluate.main}
    commands = []

    def run(self: Experiment, arguments: list[str]) -> int:
        commands.append(arguments)
        return mains[arguments[1]]([*arguments[2:], "--device=cpu"])

    monkeypatch.setattr(Experiment, "_python", run)
    return commands


def result(target: str) -> dict:
    return json.loads(Path(f"results/reproduce/smoke/{target}.json").read_text())


def smoke(target: str, *more: str) -> int:
    return reproduce.main([target, "--budget", "smoke", "--threads", "1", *more])


def test_a_table_from_pictures_to_the_papers_column(picture_folder, tmp_path, monkeypatch, capsys):
    """With the processes that users get; a second time, nothing is trained or measured again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    data = ("--dataset", "image-folder", "--dataset-name", "three colours", "--data-root", str(picture_folder))
    assert smoke("table1", *data) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\| PGD-10 with the true gradient\* \| measured \| \d+\.\d \| \d+\.\d \| - \|", printed)
    assert "| | paper | 92.1 | 82.4 | - |" in printed
    assert "| | paper | 85.7 | 45.1 | - |" in printed
    assert "is told the true label of every picture" in printed
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
    assert smoke("table1", *data) == 0
    assert [file.stat().st_mtime_ns for file in files] == before
    assert result("table1")["rows"][1]["measured"] == plain["measured"]


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
    assert "CW-20, smooth surrogate, beta 20" in rows[-1]["measured"]


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
    assert "CW-20, smooth surrogate, beta 20" in on["measured"].keys() - off["measured"].keys()
    capsys.readouterr()
    assert smoke("figure2", "--data-root", str(tmp_path / "data")) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"^\| \d+ \|", printed, flags=re.MULTILINE)) == 10
    changes = result("figure2")["iterations"]["block"]["gradient_change"]
    assert f"| 1 | {changes[0]:.3g} | {changes[0]:.3g} |" in printed
    assert Path("results/reproduce/smoke/figure2.png").read_bytes().startswith(b"\x89PNG")


def test_missing_pictures_are_named_before_anything_is_trained(tmp_path, monkeypatch, in_this_process, capsys):
    """Even where the first data set of several is there."""
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


@pytest.fixture
def finished(picture_folder, tmp_path, monkeypatch, in_this_process) -> Experiment:
    """A run that is trained, and that says so."""
    monkeypatch.chdir(tmp_path)
    source = DataSource("cifar10", "image-folder", picture_folder, "")
    run = Experiment("standard", source, "smoke", BUDGETS["smoke"], threads=None)
    run.train()
    assert run.trained()
    assert in_this_process == [run.training_command(resume=False)]
    return run


def change_state(run: Experiment, change: Callable[[dict], None]) -> None:
    state = torch.load(run.directory / "state.pt", weights_only=True)
    change(state)
    torch.save(state, run.directory / "state.pt")


def test_a_run_of_other_settings_is_not_taken_for_the_tables(finished, picture_folder, capsys, in_this_process):
    data = ("--dataset", "image-folder", "--data-root", str(picture_folder))
    assert smoke("table2", *data, "--dataset-name", "others") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"error: {finished.directory} was trained with other settings: dataset_name (was , now others); " in error
    assert f"move {finished.directory} away to train it anew" in error
    change_state(finished, lambda state: state["config"].update(method="pgd", seed=3))
    assert smoke("table2", *data) == 2
    assert "method (was pgd, now standard), seed (was 3, now 0); " in capsys.readouterr().err
    change_state(finished, lambda state: state["config"].pop("cutmix"))
    assert smoke("table2", *data) == 2
    assert "(other options than this version's: cutmix); move " in capsys.readouterr().err
    (finished.directory / "state.pt").write_bytes(b"")
    assert smoke("table2", *data) == 2
    assert re.search(r"error: .*state.pt: not a saved training state .* away to train it anew", capsys.readouterr().err)
    assert len(in_this_process) == 1, "something was trained or judged all the same"


def test_a_run_on_other_pictures_is_not_taken_for_the_tables(finished, picture_folder, tmp_path):
    moved = replace(finished, source=replace(finished.source, data_root=tmp_path / "moved"))
    assert moved.trained(), "without its pictures"
    shutil.copytree(picture_folder, tmp_path / "copied")
    copied = replace(finished, source=replace(finished.source, data_root=tmp_path / "copied"))
    assert copied.trained()
    shutil.copytree(picture_folder, tmp_path / "fewer")
    (tmp_path / "fewer" / "train" / "red" / "000.png").unlink()
    fewer = replace(finished, source=replace(finished.source, data_root=tmp_path / "fewer"))
    message = r"was trained on other pictures \(120 of 3 classes, now 119 of 3\); give what it was"
    with pytest.raises(ReproductionError, match=message):
        fewer.trained()


def test_a_run_from_a_machine_of_another_precision_is_taken(finished):
    def change(state: dict) -> None:
        state["config"]["precision"] = "float32" if state["config"]["precision"] == "bf16" else "bf16"

    change_state(finished, change)
    assert finished.trained()


def test_the_checklists_verdict_stands_beside_the_state_that_it_judged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    states = ("block on", "block off")
    rows = [{"id": {"state": state, "family": "clean"}, "title": "clean", "accuracy": 0.5} for state in states]
    report = {"format": FORMAT, "rows": rows, "robustness_likely_overestimated": True}
    notes = {}
    for table in ("table2", "table5"):
        for row in lines_of(table, ["cifar10"]):
            run = Experiment(
                row.system, DataSource("cifar10", "cifar10", tmp_path, ""), "smoke", BUDGETS["smoke"], None
            )
            made = line(table, row, run, report)
            notes[made.title] = made.note
    assert "likely too high" not in notes.pop("self-gradient, block off")
    assert all("likely too high" in note for note in notes.values())


def test_every_row_is_a_method_that_trains():
    for table, rows in TABLES.items():
        datasets = list({row.dataset for row in rows})
        for row in lines_of(table, datasets):
            for name, budget in BUDGETS.items():
                flags = ["--dataset", row.dataset, "--data-root", "x", "--arch", budget.arch]
                arguments = options.build_parser().parse_args([*flags, *budget.flags, *SYSTEMS[row.system].flags])
                config = options.configure(arguments, torch.device("cpu"))
                if name == "paper":
                    assert config.epochs == 200
            assert row.figures.keys() <= set(columns(table))
