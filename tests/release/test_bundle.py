import json

import pytest

from release import bundle
from release.bundle import BundleError, copy_run, readme_table
from sgn_serve.common.graph_format import file_sha256
from training.attacks.rows import RowId
from training.evaluate.report import FORMAT


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def run(tmp_path):
    """A run directory with a report of its checkpoint."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "log.csv").write_text("epoch\n")
    write_report(folder / "evaluation.json", file_sha256(folder / "model.safetensors"))
    return folder


def write_report(path, checkpoint):
    content = {"format": FORMAT, "setting": {"checkpoint_sha256": checkpoint}, "file": path.parent.name}
    path.write_text(json.dumps(content))


def entry(row, accuracy):
    return {"id": row.as_dict(), "title": row.title, "accuracy": accuracy}


def figures(*rows):
    plain_clean = entry(RowId("block off", "clean"), 0.6)
    entries = [*(entry(row, 0.5) for row in (RowId("block on", "clean"), *rows)), plain_clean]
    plain = {"headline": {bundle.HEADLINE: 0.6}, "rows": [plain_clean], "auto_attack": {}}
    return {
        "headline": {bundle.HEADLINE: 0.5},
        "lowest": {"block off": 0.6},
        "rows": entries,
        "auto_attack": {},
        "baselines": {"longer": plain},
        "training_core_minutes": {"self-gradient": 1.0, "longer": 1.0},
    }


def test_a_report_comes_with_its_page_and_plots(run, results):
    copy_run("self-gradient", run)
    assert json.loads((results / "self-gradient.json").read_text())["file"] == "run"
    report = run / "report"
    report.mkdir()
    write_report(report / "evaluation.json", file_sha256(run / "model.safetensors"))
    for name in ("evaluation.md", "gallery.png", "evaluation.json.row", "pictures.csv"):
        (report / name).write_text(name)
    copy_run("self-gradient", run)
    assert json.loads((results / "self-gradient.json").read_text())["file"] == "report"
    assert {path.name for path in (results / "self-gradient").iterdir()} == {"evaluation.md", "gallery.png"}


def test_a_report_of_another_checkpoint_is_refused(run, results):
    write_report(run / "evaluation.json", "0" * 64)
    with pytest.raises(BundleError, match=r"evaluation\.json is of another checkpoint; run"):
        copy_run("self-gradient", run)
    assert not results.exists()


def test_a_report_of_another_form_is_refused(run, results):
    (run / "evaluation.json").write_text(json.dumps({"format": "self-gradient-evaluation/1", "setting": {}}))
    with pytest.raises(
        BundleError, match=r"evaluation\.json does not say format .*; run `python -m training\.evaluate`"
    ):
        copy_run("self-gradient", run)
    assert not results.exists()


def test_the_table_shows_some_rows_and_counts_the_others():
    table = readme_table(
        figures(
            RowId("block on", "cw", 20),
            RowId("block on", "apgd-t", view="smooth", beta=5.0),
            RowId("block on", "pgd", 100),
            RowId("block on", "cw", 20, restarts=(1, 10)),
        )
    )
    names = [line.split(" | ")[0].strip("| ") for line in table.splitlines() if line.startswith("|")]
    assert names[2:-2] == ["clean", "CW-20", "APGD-T, smooth surrogate, beta 5 †"]
    assert "The lowest figures count 2 more attacks, where they were run: [the whole report](results/bundled/" in table
    assert "† run only on the pictures that withstood the costly rows above" in table
    assert "| **60.0** * |" in table  # they were not run on the plain network


def test_the_table_says_nothing_of_what_is_not_there():
    table = readme_table(figures())
    assert all(mark not in table for mark in ("more attacks", "†", "** *", "dash"))
