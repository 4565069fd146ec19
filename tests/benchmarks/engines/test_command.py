"""The benchmark of engines: taking turns, ratios, and engines that cannot run."""

import importlib.util
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.engines import command, matrix_products
from benchmarks.engines.arithmetic_floor import arithmetic, floor
from benchmarks.engines.command import REFERENCE, Engine, Worker, main, measure, ratio_table, table
from benchmarks.engines.files import write_checkpoint


class Scripted:
    """A worker that takes the times it is given, and notes its turns."""

    def __init__(self, name: str, answers: list[dict[str, Any]], turns: list[str]):
        self.name, self.answers, self.turns = name, answers, turns

    def run(self, batch: int) -> dict[str, Any]:
        self.turns.append(self.name)
        return self.answers.pop(0)


def times(*milliseconds: float) -> list[dict[str, Any]]:
    return [{"ms": value, "peak_mb": 100.4} for value in milliseconds]


def test_engines_take_turns_and_are_compared_with_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "PAUSE_S", 0)
    turns: list[str] = []
    workers: Any = {
        REFERENCE: Scripted(REFERENCE, times(9, 9, 2, 4, 3), turns),
        "ours": Scripted("ours", times(1, 1, 6, 7, 12), turns),
        "broken": Scripted("broken", [{"error": "no such operator"}], turns),
    }
    figures = measure(workers, batch=8, repeats=3)

    assert turns == [REFERENCE, "ours", "broken", *[REFERENCE, "ours"] * 4]
    ours = {"peak_mb": 100, "best_ms": 6, "median_ms": 7, "ratio_of_best": 3, "ratio_of_medians": 2.333}
    assert figures["ours"] == ours  # the first two turns are not counted
    assert figures["broken"] == {"error": "no such operator"}
    assert "| broken | not measured: no such operator |  |" in table("wrn-16-2", 8, figures, {})
    assert "| ours | 6.00 | 7.00 | 3.0 | 100 |" in table("wrn-16-2", 8, figures, {})


@pytest.mark.thorough
def test_a_real_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "engines.json"
    monkeypatch.setattr(matrix_products, "peaks", partial(matrix_products.peaks, sizes=(64, 128), seconds=0.02))
    options = ["--architectures", "wrn-10-1", "--batches", "1", "--repeats", "2", "--threads", "1"]
    assert main([*options, "--engines", "plain export, OpenVINO f32", "--out", str(output)]) == 0
    result = json.loads(output.read_text())
    figures = result["architectures"]["wrn-10-1"]["batches"]["1"]
    assert figures[REFERENCE]["ratio_of_best"] == 1
    assert figures[REFERENCE]["peak_mb"] > 10
    if importlib.util.find_spec("openvino") is None:
        assert figures["plain export, OpenVINO f32"] == {"error": "No module named 'openvino'"}
    else:
        assert figures["plain export, OpenVINO f32"]["ratio_of_best"] > 1
    speeds = result["floor"]["matrix_product_gflop_per_s"]
    assert {dtype: set(libraries) for dtype, libraries in speeds.items()} == {
        "float32": {"PyTorch", "ONNX Runtime"},
        "bfloat16": {"PyTorch"},
    }
    fastest = max(speeds["float32"].values())
    floor_ms = result["architectures"]["wrn-10-1"]["floor"]["1"]["floor: one pass, float32"]["ms"]
    assert floor_ms == pytest.approx(
        1000 * result["architectures"]["wrn-10-1"]["gflop_per_picture"]["one pass"] / fastest, abs=1e-3
    )
    assert result["versions"]["onnxruntime"]
    assert result["architectures"]["wrn-10-1"]["floor"]["1"]["floor: one pass, float32"]["ratio_of_best"] > 0
    printed = capsys.readouterr().out
    assert "| plain export, OpenVINO f32 |" in printed
    assert "| floor: both passes, bfloat16 |" in printed

    peaks = {"float32": {"x": 1.0, "y": 2.0}, "bfloat16": {"x": 4.0}}
    monkeypatch.setattr(matrix_products, "peaks", lambda threads: peaks)
    assert main(["--floor", "--out", str(output)]) == 0
    again = json.loads(output.read_text())
    assert again["floor"]["matrix_product_gflop_per_s"] == peaks
    assert again["architectures"]["wrn-10-1"]["batches"] == result["architectures"]["wrn-10-1"]["batches"]
    floor_ms = again["architectures"]["wrn-10-1"]["floor"]["1"]["floor: one pass, float32"]["ms"]
    assert floor_ms == pytest.approx(
        1000 * result["architectures"]["wrn-10-1"]["gflop_per_picture"]["one pass"] / 2, abs=1e-3
    )


def test_counted_arithmetic(tmp_path: Path) -> None:
    write_checkpoint("wrn-10-1", tmp_path / "model.safetensors")
    counted = arithmetic(tmp_path / "model.safetensors")
    # A pass, its input gradient, another pass; the block and the image's own gradient are the difference.
    assert 2.9 < counted["both passes"] / counted["one pass"] < 3.1


def test_the_floor_is_counted_operations_at_the_measured_peak() -> None:
    peaks = {"float32": {"slower": 60.0, "fastest": 100.0}, "bfloat16": {"only": 300.0}}
    rows = floor({"one pass": 0.2, "both passes": 0.6}, peaks, batch=8, reference_ms=32)
    assert rows["floor: one pass, float32"] == {"ms": 16, "ratio_of_best": 0.5}
    assert rows["floor: both passes, float32"] == {"ms": 48, "ratio_of_best": 1.5}
    assert rows["floor: both passes, bfloat16"] == {"ms": 16, "ratio_of_best": 0.5}


def test_ratios_of_everything_in_one_table() -> None:
    measured = {
        "batches": {"1": {REFERENCE: {"ratio_of_best": 1.0}, "broken": {"error": "no"}}},
        "floor": {"1": {"floor: both passes, float32": {"ms": 3, "ratio_of_best": 2.5}}},
    }
    assert ratio_table({"wrn-16-2": measured}).splitlines() == [
        "| engine | wrn-16-2, 1 |",
        "| --- | ---: |",
        f"| {REFERENCE} | 1.00 |",
        "| broken | - |",
        "| floor: both passes, float32 | 2.50 |",
    ]


def test_an_engine_that_cannot_run_is_an_error_and_not_another_engine(tmp_path: Path) -> None:
    def nothing(checkpoint: Path, path: Path) -> None: ...

    (tmp_path / "model.onnx").touch()
    worker = Worker(Engine("x", "ort", nothing), tmp_path / "model.onnx", 1)
    assert "model.onnx" in worker.run(1)["error"]
    worker.close()
