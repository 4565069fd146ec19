"""A run that is killed and resumed writes the rows of one that was not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.command_line import ROOT
from release.kill_classify import Outcome, hostile_inputs, kill_runs, main, make_inputs


@pytest.mark.thorough
def test_kill_9_at_random_instants_and_resume_gives_the_rows_of_an_uninterrupted_run(tiny, tmp_path):
    outcome = kill_runs(tmp_path, tiny, 5, 1, make_inputs(tmp_path, 24), [".parquet"])
    assert outcome.kills == 5
    assert outcome.runs == outcome.equal
    assert outcome.formats == {".parquet": outcome.runs}
    assert outcome.rows == 24 + 17
    assert outcome.errors >= 9
    assert sum(outcome.states.values()) == 5


def test_hostile_files_are_those_that_fuzzing_has_left(tmp_path):
    (source,) = hostile_inputs(tmp_path)
    paths = [Path(line) for line in Path(source).read_text().splitlines()]
    assert len(paths) >= 40
    assert all(path.is_file() for path in paths)
    assert {path.name.partition("-")[0] for path in paths} >= {"png", "jpeg", "gif", "webp", "bmp", "tiff"}


def test_a_kill_before_any_access_to_a_file_and_resume_gives_the_rows_of_an_uninterrupted_run(tmp_path):
    command = [sys.executable, "-m", "tests.sgn_serve.classify.every_instant", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["different"] == []
    assert told["status"] == 0  # the last one came to its end before
    assert told["instants"] > 28  # the list, the manifest, three parts, putting them together, and cleaning up


def test_the_command_writes_what_the_kills_did(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("release.kill_classify.kill_runs", lambda *_: Outcome(3, 2, 1, states={"finished": 3}))
    assert main(["--kills", "3", "--model", str(tiny), "--out", str(tmp_path / "kills.json")]) == 1
    assert capsys.readouterr().out == "3 kills, 1 of 2 runs with the rows of an uninterrupted one\n"
    assert json.loads((tmp_path / "kills.json").read_text())["states"] == {"finished": 3}
