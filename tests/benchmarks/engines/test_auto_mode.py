"""The benchmark of self_gradient=auto: a real run on few pictures, taking turns, and what is compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.engines import auto_mode
from benchmarks.engines.auto_mode import ALWAYS_ON, CONTENDERS, REFERENCE, auto_table, compare, time_in_turns
from benchmarks.engines.auto_worker import answer_all
from benchmarks.engines.command import main
from benchmarks.errors import BenchmarkError
from sgn_serve.inference.classifier import Classifier, needs_second_pass
from sgn_serve.inference.graph import read_graph
from tests.sgn_serve.tiny_graph import save_tiny_graph

AUTO = "auto: ONNX Runtime, float32"
TWICE = "auto, every picture both ways: ONNX Runtime, float32"


@pytest.mark.thorough
def test_a_real_run(tmp_path: Path, project_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "engines.json"
    output.write_text(json.dumps({"threads": 7}))
    options = ["--data-root", str(project_root / "examples"), "--pictures", "16", "--attacked", "4", "--threads", "1"]
    assert main([*options, "--batches", "8", "--repeats", "1", "--out", str(output)]) == 0
    result = json.loads(output.read_text())
    assert result["threads"] == 7, "what was measured before is kept"
    auto = result["auto"]
    assert str(project_root) not in auto["command"]
    rows = auto["batches"]["8"]
    assert rows[REFERENCE]["ratio_of_best"] == rows[REFERENCE]["ratio_of_cpu"] == 1
    assert rows[AUTO]["ratio_of_cpu"] > 0
    for kind in ("clean", "attacked"):
        assert auto["answers"][ALWAYS_ON][kind] == {"agreement": 1, "second_pass": 1}
        assert auto["answers"][REFERENCE][kind]["second_pass"] == 0
        assert auto["answers"][AUTO][kind]["second_pass"] < 1
        assert auto["answers"][TWICE][kind] == auto["answers"][ALWAYS_ON][kind], "the dearest answer is the same one"
    assert rows[TWICE]["best_ms"] > 0
    assert f"| {AUTO} | {rows[AUTO]['ratio_of_best']:.2f} |" in capsys.readouterr().out


def test_too_few_pictures(tmp_path: Path, project_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data-root", str(project_root / "examples"), "--pictures", "101"]
    assert main([*options, "--out", str(tmp_path / "engines.json")]) == 2
    assert "100 pictures, but 101 are needed" in capsys.readouterr().err


class Scripted:
    """A worker that takes the times it is given."""

    def __init__(self, *milliseconds: float):
        self.answers = [
            {"ms": value, "cpu_ms": value / 2, "peak_mb": 100.4, "classes": [0] * 8, "second_pass": [False] * 8}
            for value in milliseconds
        ]

    def run(self, pictures: Path, batch: int) -> dict[str, Any]:
        return self.answers.pop(0) if self.answers else {"error": "no such operator"}


def test_contenders_take_turns_and_are_compared_with_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_mode, "PAUSE_S", 0)
    workers = {REFERENCE: Scripted(90, 20, 40, 30), AUTO: Scripted(10, 60, 70, 120), "broken": Scripted()}
    figures = time_in_turns(workers, Path("pictures.npy"), batch=4, repeats=3)
    assert figures[AUTO] == {
        "peak_mb": 100,
        "best_ms": 30,  # a batch of 4 among 8 pictures; the first turn is not counted
        "median_ms": 35,
        "best_cpu_ms": 15,
        "ratio_of_best": 3,
        "ratio_of_medians": 2.333,
        "ratio_of_cpu": 3,
    }
    assert figures["broken"] == {"error": "no such operator"}
    with pytest.raises(BenchmarkError, match="no such operator"):
        time_in_turns({REFERENCE: Scripted()}, Path("pictures.npy"), batch=4, repeats=3)


def test_answers_are_compared_with_those_of_the_block_always_on() -> None:
    rows = {
        ALWAYS_ON: {"classes": [1, 2, 3, 4], "second_pass": [True] * 4},
        AUTO: {"classes": [1, 2, 3, 0], "second_pass": [True, False, False, False]},
        "broken": {"error": "no such operator"},
    }
    answered = {"clean": rows}
    assert compare(answered, AUTO) == {"clean": {"agreement": 0.75, "second_pass": 0.25}}
    assert compare(answered, "broken") == {"error": "no such operator"}
    shown = auto_table({"batches": {"8": {}}, "answers": {"broken": {"error": "no"}}}).splitlines()[-1]
    assert shown == "| broken | - | - | - | - | - |"


def test_the_second_pass_runs_where_the_plain_answer_is_not_clear(tmp_path: Path) -> None:
    classifier = Classifier(read_graph(save_tiny_graph(tmp_path / "m.onnx")), ("cpu",), threads=1)
    images = np.random.default_rng(0).random((10, 3, 8, 8), np.float32)
    answers = {mode: answer_all(classifier, images, 4, mode, 0.3) for mode in ("on", "off", "auto")}
    both = classifier.logits(images, True)
    assert both.corrected is not None
    which = needs_second_pass(both.plain, 0.3)
    assert 0 < which.sum() < 10
    assert answers["auto"]["second_pass"] == which.tolist()
    assert answers["auto"]["classes"] == np.where(which, both.corrected.argmax(1), both.plain.argmax(1)).tolist()
    assert answers["on"]["classes"] == both.corrected.argmax(1).tolist()
    assert answers["off"]["classes"] == both.plain.argmax(1).tolist()


def test_rows_have_names_of_their_own() -> None:
    assert len({one.name for one in CONTENDERS}) == len(CONTENDERS)
    assert AUTO in {one.name for one in CONTENDERS}
