"""Graphs for OpenVINO: checked on it, in float32 or as their metadata say."""

import copy
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import fx

import export.formats.table
import export.reduced
from export.check.agreement import Agreement
from export.check.pictures import structured_pictures
from export.check.verify import UnusableGraphError
from export.command import main
from export.formats.openvino import OpenVinoError, openvino_runner, require_openvino
from export.formats.table import to_openvino
from export.rewrite import rewrite
from sgn_serve.common.graph_format import PRECISION_KEY
from tests.export.conftest import Exported
from tests.export.networks import IMAGE_SIZE, OUTPUTS

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install -e '.[openvino]'")
has_bfloat16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@cache
def translated(graph: fx.GraphModule) -> onnx.ModelProto:
    """Return the checkpoint's graph for OpenVINO, which the tests write with metadata of their own."""
    graph = copy.deepcopy(graph)
    rewrite(graph)
    return to_openvino(graph, {})


@pytest.fixture
def translated_once(monkeypatch: pytest.MonkeyPatch, captured_once: None, captured_graph: fx.GraphModule) -> None:
    """Spare the seconds of another translation of the same graph."""

    def to_openvino(graph: fx.GraphModule, metadata: Mapping[str, str]) -> onnx.ModelProto:
        model = copy.deepcopy(translated(captured_graph))
        onnx.helper.set_model_props(model, dict(metadata))
        return model

    monkeypatch.setattr(export.formats.table, "to_openvino", to_openvino)


@pytest.mark.usefixtures("translated_once")
def test_written_and_checked_on_openvino(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "model.onnx"
    assert main(["--ckpt", str(checkpoint), "--openvino", str(target)]) == 0
    assert "self_gradient" in capsys.readouterr().out
    nodes = [node.op_type for node in onnx.load(target).graph.node]
    assert nodes.count("Where") == nodes.count("Greater") == 7  # one a ReLU of wrn-10-1
    assert {"HardSigmoid", "Cast"}.isdisjoint(nodes)
    assert nodes.count("ConvTranspose") == 2 * 2  # the stride-2 ones of two blocks, not the image's


@pytest.mark.skipif(not has_bfloat16, reason="this processor has no bfloat16")
@pytest.mark.usefixtures("translated_once")
def test_bf16_is_computed_by_openvino_as_the_metadata_say(
    checkpoint: Path, project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: Exported
) -> None:
    seen: list[Any] = []

    def measure(run: object, network: object, pictures: torch.Tensor, eps: float) -> tuple[Agreement, ...]:
        seen.append(run)
        return (Agreement("logits", len(pictures), 1.0, 1.0, "an attack"),)

    monkeypatch.setattr(export.reduced, "measure_agreement", measure)
    target = tmp_path / "model.onnx"
    options = ["--precision", "bf16", "--pictures", str(project_root / "examples"), "--agreement-pictures", "28"]
    assert main(["--ckpt", str(checkpoint), "--openvino", str(target), *options]) == 0
    assert {item.key: item.value for item in onnx.load(target).metadata_props}[PRECISION_KEY] == "bf16"

    pictures = structured_pictures(4, 3, IMAGE_SIZE, seed=2)
    with torch.no_grad():
        expected = exported.network.plain_logits(pictures)
    for run in (*seen, openvino_runner(target, OUTPUTS)):
        error = (run(pictures)["plain_logits"] - expected).norm() / expected.norm()
        assert 1e-4 < error < 0.05  # float32's is 1e-6


def test_another_graph_is_refused(exported: Exported) -> None:
    with pytest.raises(UnusableGraphError, match="the graph's outputs are"):
        openvino_runner(exported.graph, ("logits",))


def test_without_openvino_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OpenVinoError, match=r"pip install -e '\.\[openvino\]'"):
        require_openvino()
