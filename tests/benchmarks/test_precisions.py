"""The benchmark of reduced precisions: a real run, engines that are not there, and its table."""

import hashlib
import json
from pathlib import Path

import pytest

from benchmarks import precisions
from benchmarks.engines.files import write_checkpoint
from export.formats.openvino import OpenVinoError
from release.bundle import bf16_figures


@pytest.mark.thorough
def test_a_real_run(
    tmp_path: Path, project_root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, output = tmp_path / "model.safetensors", tmp_path / "precisions.json"
    write_checkpoint("wrn-10-1", checkpoint)
    monkeypatch.setattr(precisions, "ROWS", (("torchscript", "bf16"),))
    options = ["--pictures", str(project_root / "examples"), "--count", "50", "--ckpt", str(checkpoint)]
    assert precisions.main([*options, "--out", str(output)]) == 0
    (row,) = json.loads(output.read_text())["rows"].values()
    shares = [row["agreement"][name][kind] for name in ("logits", "plain_logits") for kind in ("clean", "attacked")]
    assert all(0.5 < share <= 1 for share in shares), shares
    assert row["agreement"]["logits"]["pictures"] == 50
    shown = " | ".join(f"{100 * share:.1f}" for share in shares)
    assert f"| torchscript, bf16 | {shown} |" in capsys.readouterr().out


def test_too_few_pictures(tmp_path: Path, project_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--pictures", str(project_root / "examples"), "--out", str(tmp_path / "precisions.json")]
    assert precisions.main(options) == 2
    assert "pictures" in capsys.readouterr().err


def test_an_engine_that_is_not_there_costs_its_row_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*arguments: object) -> None:
        raise OpenVinoError("OpenVINO is not installed")

    monkeypatch.setattr(precisions, "export_reduced", refuse)
    row = precisions.measure(tmp_path / "model.safetensors", tmp_path, ("openvino", "bf16"), 50)
    assert row == {"error": "OpenVINO is not installed"}
    assert "| openvino, bf16 | not measured: OpenVINO is not installed |  |  |  |" in precisions.table(
        {"openvino, bf16": row}
    )


def test_the_graph_as_it_is_served_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--served keeps the other rows, and names the graph that it is of."""
    checkpoint, output = tmp_path / "model.safetensors", tmp_path / "precisions.json"
    checkpoint.touch()
    (tmp_path / "model.onnx").write_bytes(b"a graph")
    other = {"error": "OpenVINO is not installed"}
    output.write_text(json.dumps({"rows": {"openvino, bf16": other}}))
    shares = [{"output": name, "clean": 0.999, "attacked": 0.997} for name in ("logits", "plain_logits")]

    def measure(graph: Path, checkpoint: Path, pictures: Path, count: int) -> dict[str, object]:
        return {"agreement": 0.997, "pictures": count, "outputs": shares, "openvino": "1.0"}

    monkeypatch.setattr(precisions, "measure_bf16", measure)
    options = ["--served", "--pictures", str(tmp_path), "--count", "50", "--ckpt", str(checkpoint)]
    assert precisions.main([*options, "--out", str(output)]) == 0
    rows = json.loads(output.read_text())["rows"]
    assert rows["openvino, bf16"] == other
    row = rows[precisions.SERVED]
    assert (row["lowest"], row["pictures"], row["agreement"]["logits"]["attacked"]) == (0.997, 50, 0.997)
    assert row["graph_sha256"] == hashlib.sha256(b"a graph").hexdigest()
    figures = bf16_figures(row)
    assert (figures["agreement"], figures["graph_sha256"]) == (0.997, row["graph_sha256"])


def test_a_machine_without_openvino_serves_nothing_in_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OpenVinoError("OpenVINO is not installed")

    monkeypatch.setattr(precisions, "measure_bf16", refuse)
    row = precisions.measure_served(tmp_path / "model.safetensors", tmp_path / "model.onnx", tmp_path, 50)
    assert row == {"error": "OpenVINO is not installed"}
