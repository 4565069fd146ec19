"""Errors about a user's own network name the layer."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.capture.graph import capture
from export.capture.layers import layer_of_operator
from export.errors import CaptureError
from export.exporter import export_graph, export_onnx
from export.formats.onnx import to_onnx
from export.formats.table import AOT, TORCHSCRIPT, Format
from export.network_passes import passes_of
from tests.export.networks import SecondSmallest, checkpoint_info, network_around, randomise
from training.checkpoint import build_model, save_checkpoint


def unwritable_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), SecondSmallest(), nn.Flatten(), nn.Linear(784, 10))


def unwritable_checkpoint(folder: Path) -> Path:
    info = checkpoint_info(architecture="mine", image_size=(16, 16))
    network = randomise(build_model(info, unwritable_network()))
    save_checkpoint(folder / "model.safetensors", network.state_dict(), info)
    return folder / "model.safetensors"


def test_a_layer_that_onnx_cannot_express(tmp_path: Path) -> None:
    checkpoint = unwritable_checkpoint(tmp_path)
    expected = r"layer backbone\.1 \(SecondSmallest\): .* no operator for aten.kthvalue.*; use a layer"
    with pytest.raises(CaptureError, match=expected):
        export_onnx(checkpoint, tmp_path / "model.onnx", backbone=unwritable_network())
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


class Spectrum(nn.Module):
    """Amplitudes of a Fourier transform."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.fft.rfft2(features).abs()


def spectral_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), Spectrum(), nn.Flatten(), nn.Linear(448, 10))


def test_complex_numbers_are_laid_to_the_layer_that_makes_them() -> None:
    network = network_around(spectral_network())
    graph = capture(passes_of(network), (16, 16))
    with pytest.raises(CaptureError, match="no operators on complex numbers, which aten::_fft_r2c makes") as raised:
        to_onnx(graph, {})
    assert raised.value.operator is not None
    assert layer_of_operator(network, raised.value.operator, torch.zeros(1, 3, 16, 16)) == "backbone.1 (Spectrum)"


def test_a_network_that_fails_while_the_layer_is_looked_for_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("of the network's own")

    monkeypatch.setattr("export.exporter.layer_of_operator", fail)
    with pytest.raises(CaptureError, match=r"^the network cannot .* no operator for aten.kthvalue"):
        export_onnx(unwritable_checkpoint(tmp_path), tmp_path / "model.onnx", backbone=unwritable_network())


@pytest.mark.parametrize(
    ("file_format", "function"),
    [(TORCHSCRIPT, "torch.jit.trace"), (AOT, "torch._inductor.aoti_compile_and_package")],
    ids=["torchscript", "aot"],
)
def test_a_layer_that_another_format_cannot_express(
    file_format: Format, function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("not supported:\n  torch.ops.aten.kthvalue.default")

    monkeypatch.setattr(function, refuse)
    monkeypatch.setattr("export.formats.aot.require_compiler", lambda: None)
    checkpoint = unwritable_checkpoint(tmp_path)
    with pytest.raises(CaptureError, match=r"layer backbone\.1 \(SecondSmallest\): the network cannot be"):
        export_graph(
            replace(file_format, check=lambda: None), checkpoint, tmp_path / "graph", backbone=unwritable_network()
        )
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


class Branching(nn.Module):
    """Asks what a feature is, which no graph can."""

    def forward(self, features: Tensor) -> Tensor:
        return features if features.sum() > 0 else -features


def test_a_layer_that_cannot_be_captured() -> None:
    network = network_around(nn.Sequential(nn.Conv2d(3, 4, 3), Branching(), nn.Flatten(), nn.Linear(144, 10)))
    expected = r"at its layer backbone\.1 \(Branching\), calling torch\.Tensor\.__bool__: .*; choose with torch\.where"
    with pytest.raises(CaptureError, match=expected):
        capture(passes_of(network), (8, 8))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


class Nearest(nn.Module):
    """Samples the nearest pixel, whose gradient export does not know."""

    def forward(self, features: Tensor) -> Tensor:
        grid = features[:, :2].tanh().permute(0, 2, 3, 1)
        return F.grid_sample(features, grid, mode="nearest", align_corners=False)


class PooledOverTheEdge(nn.Module):
    """Pools along three axes and counts no padding."""

    def forward(self, features: Tensor) -> Tensor:
        return F.avg_pool3d(features, 3, 1, padding=1, count_include_pad=False)


class Randomised(nn.Module):
    """Draws slopes outside of training, too."""

    def forward(self, features: Tensor) -> Tensor:
        return F.rrelu(features, training=True)


@pytest.mark.parametrize(
    ("layer", "operator"),
    [
        (Nearest(), "aten::grid_sampler_2d_backward"),
        (PooledOverTheEdge(), "aten::avg_pool3d_backward"),
        (Randomised(), "aten::rrelu_with_noise"),
    ],
)
def test_a_call_that_export_has_no_rule_for_is_named_with_its_layer(layer: nn.Module, operator: str) -> None:
    network = network_around(nn.Sequential(nn.Conv2d(3, 4, 3), layer, nn.Flatten(), nn.Linear(144, 10)))
    expected = rf"at its layer backbone\.1 \({type(layer).__name__}\), calling {operator}: .*; mend that layer"
    with pytest.raises(CaptureError, match=expected) as raised:
        capture(passes_of(network), (8, 8))
    assert raised.value.operator == operator
    assert "\n" not in str(raised.value)


def test_an_operator_of_the_way_back_is_found_by_its_way_there() -> None:
    network, images = network_around(unwritable_network()), torch.zeros(1, 3, 16, 16)
    assert layer_of_operator(network, "aten::kthvalue_backward", images) == "backbone.1 (SecondSmallest)"
    assert layer_of_operator(network, "aten::fft_fft", images) is None
