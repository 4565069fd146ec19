"""The benchmark of backbone families: its rows, refusals, and how it goes on after an interruption."""

import json
from pathlib import Path

import pytest

from benchmarks import families
from export.errors import CaptureError
from tests.needs_timm import NEEDS_TIMM


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Small pictures and single calls; returns the file to write."""
    monkeypatch.setattr(families, "timm_input_size", lambda _: 32)
    monkeypatch.setattr(families, "LEAST_SECONDS", 0.0)
    return tmp_path / "families.json"


@pytest.mark.thorough
@NEEDS_TIMM
def test_a_family_is_exported_and_timed(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert families.main(["test_resnet", "--out", str(small)]) == 0
    row = json.loads(small.read_text())["families"]["test_resnet"]
    assert row["image_size"] == 32
    assert 0 < row["logits_error"] < 1e-4
    assert set(row["cost"]) == {"1", "8"}
    for cost in row["cost"].values():
        assert cost["plain_ms"] > 0
        assert cost["lowest_ratio"] <= cost["ratio"] <= cost["highest_ratio"]
    assert "| `test_resnet` | 32" in capsys.readouterr().out


@NEEDS_TIMM
def test_a_refusal_is_a_row_and_what_is_there_is_not_measured_again(
    small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def refuse(checkpoint: Path, target: Path) -> None:
        calls.append(target)
        raise CaptureError("layer backbone.1 (Mine): no operator")

    monkeypatch.setattr(families, "export_onnx", refuse)
    for _ in range(2):
        assert families.main(["test_resnet", "--out", str(small)]) == 0
    assert len(calls) == 1
    assert json.loads(small.read_text())["families"]["test_resnet"]["refused"] == "layer backbone.1 (Mine): no operator"
    assert "refused: layer backbone.1 (Mine): no operator" in capsys.readouterr().out
    assert families.main(["test_resnet", "--again", "--out", str(small)]) == 0
    assert len(calls) == 2


def test_a_network_that_timm_does_not_describe_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "timm_input_size", lambda _: None)
    assert families.main(["no_such_network", "--out", str(tmp_path / "families.json")]) == 2
    assert "which pictures no_such_network takes" in capsys.readouterr().err
    assert not (tmp_path / "families.json").exists()
