"""--bf16-agreement: how often bfloat16 on OpenVINO gives float32's answer is measured and travels in the graph."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from torch import Tensor

import export.bf16_agreement
from export.check.agreement import Agreement
from export.command import main, parse_arguments
from export.formats.openvino import OpenVinoError
from export.output import SystemRefusal
from sgn_serve.common.graph_format import AUTO_KEY
from sgn_serve.inference.classifier import Classifier
from sgn_serve.inference.graph import read_graph
from sgn_serve.process.processor import bfloat16_products

able = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None or not bfloat16_products(),
    reason="needs OpenVINO and a processor with bfloat16 products",
)


@pytest.fixture
def arguments(checkpoint: Path, project_root: Path, tmp_path: Path, ready_made: None) -> list[str]:
    """A command line that writes model.onnx into tmp_path."""
    command = ["--ckpt", str(checkpoint), "--onnx", str(tmp_path / "model.onnx")]
    return [*command, "--bf16-agreement", str(project_root / "examples"), "--agreement-pictures", "30"]


@able
def test_graph_carries_what_was_measured(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    graph = read_graph(tmp_path / "model.onnx")
    found = graph.description.bf16
    assert found is not None
    shares = [item[kind] for item in found["outputs"] for kind in ("clean", "attacked")]
    assert found["agreement"] == min(shares)
    assert found["agreement"] > 0.8
    assert found["pictures"] == 30
    assert f"gives float32's answer for {found['agreement']:.2%} of 30 pictures at least" in capsys.readouterr().out
    assert graph.description.precision is None, "the graph itself stays in float32"
    assert graph.description.auto is None
    assert AUTO_KEY not in found
    assert Classifier(graph, ("cpu",), threads=1).description.has_block


def test_too_low_a_share_is_stored_and_told(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(run: object, network: object, pictures: Tensor, eps: float) -> tuple[Agreement, ...]:
        return (Agreement("logits", len(pictures), 1.0, 0.9, "an attack"),)

    def runner(path: Path, names: tuple[str, ...]) -> Mapping[str, Tensor]:
        return {}

    monkeypatch.setattr(export.bf16_agreement, "measure_agreement", measure)
    monkeypatch.setattr(export.bf16_agreement, "_bf16_runner", runner)
    monkeypatch.setattr(export.bf16_agreement, "require_openvino", lambda: None)
    monkeypatch.setattr(export.bf16_agreement, "version", lambda name: "1.0")
    assert main(arguments) == 0
    assert read_graph(tmp_path / "model.onnx").description.bf16 == {
        "agreement": 0.9,
        "pictures": 30,
        "outputs": [{"output": "logits", "pictures": 30, "clean": 1.0, "attacked": 0.9, "attack": "an attack"}],
        "openvino": "1.0",
    }
    assert "SGN_ENGINE=auto needs 99.5%, and does not choose it" in capsys.readouterr().out


def test_a_machine_without_openvino_writes_nothing(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        raise OpenVinoError("OpenVINO is not installed; install it")

    monkeypatch.setattr("export.export.require_openvino", missing)
    assert main(arguments) == 2
    assert "OpenVINO is not installed" in capsys.readouterr().err
    assert not (tmp_path / "model.onnx").exists()


def test_a_failure_afterwards_says_that_the_graph_was_written(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def written(file_format: object, source: object, target: Path, *_: object, **__: object) -> Any:
        target.write_bytes(b"a graph")
        return SimpleNamespace(table=lambda: "a table")

    monkeypatch.setattr("export.export.export_graph", written)
    monkeypatch.setattr("export.export.require_openvino", lambda: None)
    path = tmp_path / "model.onnx"
    for error, told in (
        (OpenVinoError("it computes in f32"), "error: it computes in f32; "),
        (SystemRefusal(f"{path}: no space"), f"error: {path}: no space; "),
        (KeyboardInterrupt(), "error: interrupted; "),
    ):
        monkeypatch.setattr("export.export.store_bf16_agreement", Mock(side_effect=error))
        assert main(arguments) != 0
        assert f"{told}{path} itself was written" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [["--torchscript"], ["--onnx", "--fused"], ["--onnx", "--precision", "fp16", "--pictures", "d"]],
    ids=["no ONNX", "fused", "reduced"],
)
def test_what_cannot_carry_it_is_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--ckpt", "model.safetensors", "--bf16-agreement", "d", *options])
    assert "--bf16-agreement is for --onnx in fp32, without --fused; leave it out" in capsys.readouterr().err


def test_too_few_pictures_are_told_before_the_export(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("export.export.require_openvino", lambda: None)
    assert main([*arguments, "--agreement-pictures", "1000"]) == 2
    told = capsys.readouterr().err
    assert "pictures, but 1000 are needed" in told
    assert "--agreement-pictures, 28 at least" in told
    assert not (tmp_path / "model.onnx").exists()
