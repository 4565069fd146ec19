"""The options of training.evaluate: described once, checked, and a place for the report."""

import os
import shutil
from dataclasses import MISSING
from pathlib import Path

import pytest

from tests.training.evaluate.test_command import save_untrained
from training.attacks.names import AttackError
from training.common.command_line import OptionError
from training.common.described_options import described_options, given_options, option_rows
from training.evaluate.command import build_parser, main
from training.evaluate.options import ELSEWHERE, Options, default_folder

GIVEN = ["--ckpt", "a/model.safetensors", "--data-root", "x"]


def parsed(*flags: str) -> Options:
    return Options(**given_options(Options, build_parser().parse_args([*GIVEN, *flags])))


def test_what_is_given_is_taken_and_the_rest_has_defaults():
    assert parsed() == Options(Path("a/model.safetensors"), Path("x"))
    options = parsed("--attacks", "fgsm,pgd-2", "pgd-3", "--beta", "5", "1/2", "--eps=4/255")
    assert options.attacks == ("fgsm,pgd-2", "pgd-3")
    assert options.beta == (5.0, 0.5)
    assert options.eps == 4 / 255
    assert parsed("--beta").beta == ()
    for flags in (["--attacks"], ["--beta", "nan"], ["--split", "validation"], ["--dataset", "mnist"]):
        with pytest.raises(SystemExit):
            parsed(*flags)


def test_a_threshold_is_a_difference_of_probabilities_and_a_checkpoints():
    assert parsed("--auto-margin", "0.08").auto_margin == 0.08
    with pytest.raises(OptionError, match="--auto-margin"):
        Options(Path("a"), Path("x"), auto_margin=1.5)
    with pytest.raises(OptionError, match="--auto-margin is for --ckpt; leave it out"):
        Options(None, Path("x"), "cifar10", module="a.py:b", auto_margin=0.1)


def test_a_table_row_for_every_option(monkeypatch):
    rows = {row.name: row for row in option_rows(Options)}
    assert list(rows) == [text for text in build_parser()._option_string_actions if text in rows]
    assert rows["--eps"].default == "8/255"
    assert rows["--eps"].range == "in (0, 1]"
    assert rows["--attacks"].default == "quick"
    assert rows["--beta"].default == "5 20 100"
    assert rows["--split"].range == "test, train"
    assert (rows["--ray"].type, rows["--ray"].default) == ("text", "")
    monkeypatch.setenv("COLUMNS", "1000")
    text = build_parser().format_help()
    assert "pictures attacked at once (default: 250; at least 1)" in text


def test_every_default_is_allowed():
    for item in described_options(Options):
        if item.default is not MISSING:
            item.option.check(item.name, item.default)
    with pytest.raises(OptionError, match="--split: unknown split 'val'; known are: test, train"):
        Options(Path("a"), Path("x"), split="val")  # type: ignore[arg-type]


def test_no_report_lands_in_a_package_or_a_read_only_folder(tmp_path, monkeypatch, project_root):
    assert default_folder(Path("runs/a/model.safetensors")) == Path("runs/a")
    assert default_folder(project_root / "sgn_serve" / "bundled" / "model.safetensors") == ELSEWHERE / "bundled"
    packages = tmp_path / "site-packages" / "thing"
    packages.mkdir(parents=True)
    (packages / "__init__.py").touch()
    assert default_folder(packages / "models" / "new" / "model.safetensors") == ELSEWHERE / "new"
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    assert default_folder(tmp_path / "model.safetensors") == ELSEWHERE / tmp_path.name


def test_the_place_is_said(picture_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "package"
    (package / "bundled").mkdir(parents=True)
    (package / "__init__.py").touch()
    save_untrained(package / "bundled", block=False)
    flags = [f"--data-root={picture_folder}", "--pictures=3", "--attacks=clean", "--device=cpu"]
    before = sorted(package.rglob("*"))
    assert main(["--ckpt=package/bundled/model.safetensors", *flags]) == 0
    printed = capsys.readouterr()
    assert "the report goes to runs/evaluations/bundled/evaluation.json, because package/bundled belongs" in printed.err
    assert "wrote runs/evaluations/bundled/evaluation.json" in printed.out
    assert sorted(package.rglob("*")) == before
    shutil.rmtree("runs")
    assert main(["--ckpt=package/bundled/model.safetensors", "--report=mine.json", *flags]) == 0
    assert "the report goes to" not in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_report_is_a_json_file_or_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x.txt", "a/page.md", "w.pt", "x.JSON"):
        with pytest.raises(OptionError, match=f"--report {name}: a report is a .json file, or a folder; name "):
            parsed("--report", name)
    assert not list(tmp_path.iterdir())
    assert parsed("--report", "x.json").output_paths() == (Path("x.json"), None)
    for name in ("x", "runs/v1.2"):
        assert parsed("--report", name).output_paths() == (Path(name, "evaluation.json"), Path(name))
    Path("old.d").mkdir()
    assert parsed("--report", "old.d").output_paths()[1] == Path("old.d")


def test_the_steps_of_an_attack_are_bounded():
    for name in ("pgd-1000001", f"cw-{2**70}", "pgd-" + "9" * 5000):
        with pytest.raises(AttackError, match="--attacks: pgd-K and cw-K take at most 1,000,000 steps, not "):
            parsed("--attacks", "fgsm", name)
    assert parsed("--attacks", "pgd-1000000").attacks == ("pgd-1000000",)


def test_no_number_is_larger_than_float32_holds():
    for item in described_options(Options):
        if item.kind.startswith("number"):
            with pytest.raises(OptionError, match=f"--{item.name.replace('_', '-')} must be "):
                item.option.check(item.name, 1e300)
