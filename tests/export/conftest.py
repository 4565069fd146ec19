"""Small networks that are hard to export wrongly without noticing, and one exported file for all tests to read."""

from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
import torch

from export.exporter import export_onnx
from tests.export.networks import checkpoint_info, randomise
from training.checkpoint import CheckpointInfo, build_model, load_checkpoint, save_checkpoint
from training.networks.self_gradient import SelfGradientNetwork


@dataclass(frozen=True)
class Exported:
    checkpoint: Path
    graph: Path
    network: SelfGradientNetwork
    info: CheckpointInfo

    def model(self) -> onnx.ModelProto:
        """A fresh copy, to be spoilt at will."""
        return onnx.load(self.graph)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    info = checkpoint_info(gradient_scaling="rms", scale=1.0)
    save_checkpoint(path, randomise(build_model(info)).state_dict(), info)
    return path


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_onnx(checkpoint, path)
    return Exported(checkpoint, path, *load_checkpoint(checkpoint))
