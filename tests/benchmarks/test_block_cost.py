"""The benchmark of the block's cost: its figures, and mistakes in one line."""

import json
from pathlib import Path

import onnx
import pytest

from benchmarks import block_cost
from tests.sgn_serve.tiny_graph import save_tiny_graph


def test_a_graph_that_onnx_runtime_does_not_serve_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_cost, "RESULT", tmp_path / "result.json")
    path = save_tiny_graph(tmp_path / "model.onnx")
    model = onnx.load(path)
    model.metadata_props.add(key="precision", value="bf16")
    onnx.save(model, path)
    assert block_cost.main(["--model", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith(f"error: {path} was exported for bf16")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_it_measures_the_loading_and_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_cost, "RESULT", tmp_path / "results" / "block_cost.json")
    path = save_tiny_graph(tmp_path / "model.onnx")
    assert block_cost.main(["--model", str(path), "--batches", "2", "--repeats", "3", "--threads", "1"]) == 0
    result = json.loads(block_cost.RESULT.read_text())
    assert set(result["load_ms"]) == {"best", "median", "first"}
    assert result["latency"]["2"]["block_on_ms"] > 0
