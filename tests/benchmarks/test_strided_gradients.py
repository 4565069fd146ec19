"""The trial of other ways to write stride-2 input gradients: each gives the exported graph's answers."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks import strided_gradients
from benchmarks.strided_gradients import WAYS, exported, main, rewritten


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    return exported(tmp_path_factory.mktemp("graph"))


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_same_answers(graph: onnx.ModelProto, way: str) -> None:
    images = np.random.default_rng(0).random((3, 3, 32, 32), dtype=np.float32)
    expected, found = (
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"image": images}
        )
        for model in (graph, rewritten(graph, WAYS[way]))
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5 * np.abs(theirs).max())


def test_a_real_run(graph: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strided_gradients, "exported", lambda folder: graph)
    output = tmp_path / "result.json"
    assert main(["--batches", "1", "--repeats", "1", "--threads", "1", "--output", str(output)]) == 0
    rows = json.loads(output.read_text())["batches"]["1"]
    assert list(rows) == ["ConvTranspose, as exported", *WAYS]
    assert rows["ConvTranspose, as exported"]["ratio_of_best"] == 1
    assert all(row["best_ms"] > 0 for row in rows.values())
