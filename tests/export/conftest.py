"""A small checkpoint and its exported file, made once for all tests to read."""

import contextlib
import copy
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
import torch
from torch import fx

import export.exporter
import export.reduced
from export.capture.graph import capture
from export.command import main
from export.exporter import export_onnx
from export.network_passes import Passes, passes_of
from tests.export.networks import IMAGE_SIZE, checkpoint_info, network_around, randomise, varied_backbone
from training.checkpoint import CheckpointInfo, build_model, load_checkpoint, save_checkpoint
from training.networks.self_gradient import SelfGradientNetwork


@dataclass(frozen=True)
class Exported:
    """A checkpoint, the ONNX file exported from it, and the network in PyTorch."""

    checkpoint: Path
    graph: Path
    network: SelfGradientNetwork
    info: CheckpointInfo

    def model(self) -> onnx.ModelProto:
        """Return a copy of the model, which a test may change."""
        return onnx.load(self.graph)

    @property
    def passes(self) -> Passes:
        """The passes that the file computes."""
        return passes_of(self.network)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    info = checkpoint_info(gradient_scaling="rms", scale=1.0)
    torch.manual_seed(0)  # in one network of many, a ReLU switches within the rounding of float32
    save_checkpoint(path, randomise(build_model(info)).state_dict(), info)
    return path


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_onnx(checkpoint, path)
    return Exported(checkpoint, path, *load_checkpoint(checkpoint))


@dataclass(frozen=True)
class Printed:
    """The ONNX file of a network without a block, and what the command line printed about it."""

    graph: Path
    lines: list[str]


@pytest.fixture(scope="session")
def exported_plain(tmp_path_factory: pytest.TempPathFactory) -> Printed:
    folder, info = tmp_path_factory.mktemp("plain"), checkpoint_info(block=False)
    save_checkpoint(folder / "plain.safetensors", randomise(build_model(info)).state_dict(), info)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["--ckpt", str(folder / "plain.safetensors"), "--onnx", str(folder / "plain.onnx")]) == 0
    return Printed(folder / "plain.onnx", printed.getvalue().splitlines())


@pytest.fixture(scope="session")
def varied() -> tuple[Passes, fx.GraphModule]:
    """Passes around varied_backbone and their captured graph; a test copies it before it changes it."""
    passes = passes_of(network_around(varied_backbone()))
    return passes, capture(passes, IMAGE_SIZE)


@pytest.fixture(scope="session")
def captured_graph(exported: Exported) -> fx.GraphModule:
    """The captured graph of the checkpoint; a test copies it before it changes it."""
    return capture(exported.passes, exported.info.image_size)


@pytest.fixture
def captured_once(monkeypatch: pytest.MonkeyPatch, captured_graph: fx.GraphModule) -> None:
    """Spare the seconds of another capture of the same checkpoint: every export gets a copy of its graph."""
    for module in (export.exporter, export.reduced):
        monkeypatch.setattr(module, "capture", lambda *_: copy.deepcopy(captured_graph))


@pytest.fixture
def ready_made(monkeypatch: pytest.MonkeyPatch, captured_once: None, exported: Exported) -> None:
    """Spare the seconds of another export of the same weights to ONNX; the file gets the metadata asked for."""

    def to_onnx(graph: fx.GraphModule, metadata: Mapping[str, str]) -> onnx.ModelProto:
        model = exported.model()
        onnx.helper.set_model_props(model, dict(metadata))
        return model

    monkeypatch.setattr("export.formats.table.to_onnx", to_onnx)
