"""Self-gradients that are zero, underflow or overflow when squared give the same answer in every engine."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from export.check.extreme_gradients import verify_extreme_gradients
from export.check.verify import TOLERANCES, UnusableGraphError, VerificationError
from export.formats.onnx import onnx_second_pass
from export.formats.table import TORCHSCRIPT, Format
from export.formats.torchscript import torchscript_second_pass
from sgn_serve.common.graph_format import LOGITS, PLAIN_LOGITS, SELF_GRADIENT
from sgn_serve.settings import BUNDLED_MODEL
from tests.export.engines import FORMATS, IMAGE_SIZE, InEveryEngine
from tests.export.extremes import BrightnessScaled, assert_equal_at_extremes, pictures_by_brightness
from training.checkpoint import load_checkpoint
from training.networks.self_gradient import rms_normalised


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> InEveryEngine:
    torch.manual_seed(0)
    return InEveryEngine(BrightnessScaled(), tmp_path_factory.mktemp("extreme"))


@pytest.fixture
def pictures() -> Tensor:
    return pictures_by_brightness(IMAGE_SIZE)


@pytest.mark.parametrize("file_format", FORMATS, ids=lambda file_format: file_format.name)
def test_every_engine_agrees_with_pytorch(exported: InEveryEngine, pictures: Tensor, file_format: Format) -> None:
    expected, found = exported.outputs(file_format, pictures)
    assert_equal_at_extremes(expected, found)


@pytest.mark.parametrize("file_format", FORMATS[:2], ids=lambda file_format: file_format.name)
def test_a_picture_with_nan_gets_nan_logits(exported: InEveryEngine, pictures: Tensor, file_format: Format) -> None:
    """OpenVINO is left out: its ReLU makes zero of NaN."""
    pictures = pictures[4:6]
    pictures[1, 0, 3, 3] = math.nan
    expected, found = exported.outputs(file_format, pictures)
    for name in (LOGITS, PLAIN_LOGITS):
        assert expected[name].isnan().tolist() == found[name].isnan().tolist() == [[False] * 10, [True] * 10]
    assert torch.equal(expected[SELF_GRADIENT].isnan(), found[SELF_GRADIENT].isnan())
    assert found[SELF_GRADIENT].isnan().flatten(1).any(dim=1).tolist() == [False, True]


@pytest.mark.thorough
@pytest.mark.parametrize("file_format", FORMATS, ids=lambda file_format: file_format.name)
def test_the_check_of_every_export_finds_an_unguarded_norm(
    exported: InEveryEngine, file_format: Format, tmp_path: Path
) -> None:
    network, picture = exported.passes.network, torch.full((1, 3, *IMAGE_SIZE), 0.5)
    assert file_format.second_pass is not None
    right = file_format.second_pass(exported.file(file_format))
    verify_extreme_gradients(right, network, picture, TOLERANCES[LOGITS])

    unguarded, path = copy.deepcopy(exported.graph), tmp_path / file_format.file_name
    (clamp,) = unguarded.graph.find_nodes(op="call_function", target=torch.ops.aten.clamp.default)
    clamp.replace_all_uses_with(clamp.args[0])
    unguarded.graph.eliminate_dead_code()
    unguarded.recompile()
    file_format.save(unguarded, {}, path)
    with pytest.raises(VerificationError, match=r"logits for a self-gradient of size 0 are off by (nan|inf)"):
        verify_extreme_gradients(file_format.second_pass(path), network, picture, TOLERANCES[LOGITS])


def test_the_second_pass_of_torchscript_is_that_of_the_file(
    exported: InEveryEngine, pictures: Tensor, tmp_path: Path
) -> None:
    """It gives the file's logits for the file's gradient, and others for another gradient."""
    path = exported.file(TORCHSCRIPT)
    outputs = TORCHSCRIPT.runner(path, exported.passes.output_names)(pictures)
    second_pass = torchscript_second_pass(path)
    torch.testing.assert_close(second_pass(pictures, outputs[SELF_GRADIENT]), outputs[LOGITS], rtol=1e-3, atol=0)
    assert not torch.equal(second_pass(pictures, -outputs[SELF_GRADIENT]), outputs[LOGITS])
    assert second_pass(pictures[:3], outputs[SELF_GRADIENT][:3]).shape == (3, 10)

    independent = copy.deepcopy(exported.graph)
    output = independent.graph.output_node()
    returned: Any = output.args[0]
    _, plain_logits, gradient = returned
    output.args = ((plain_logits, plain_logits, gradient),)
    independent.graph.eliminate_dead_code()
    independent.recompile()
    TORCHSCRIPT.save(independent, {}, tmp_path / "independent.pt")
    with pytest.raises(UnusableGraphError, match="logits do not depend on its self_gradient"):
        torchscript_second_pass(tmp_path / "independent.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_zero_gradient_stays_zero_and_has_a_finite_derivative(dtype: torch.dtype) -> None:
    gradient = torch.zeros(2, 3, 4, 4, dtype=dtype, requires_grad=True)
    normalised = rms_normalised(gradient)
    assert normalised.abs().max() == 0
    normalised.sum().backward()
    assert gradient.grad is not None
    assert gradient.grad.isfinite().all()


@pytest.mark.parametrize("size", [1e-11, 1e-6, 1.0, 1e18])
def test_other_gradients_get_a_root_mean_square_of_one(size: float) -> None:
    gradient = size * torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rms_normalised(gradient).square().mean(dim=(1, 2, 3)), torch.ones(2))


@pytest.mark.parametrize("size", [1e-16, 1e-14, 1e-12])
def test_the_derivative_of_a_small_gradient_does_not_overflow(size: float) -> None:
    gradient = (size * torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))).requires_grad_()
    rms_normalised(gradient).square().sum().backward()
    assert gradient.grad is not None
    assert gradient.grad.isfinite().all()


def test_the_bundled_graph_agrees_with_pytorch() -> None:
    network, info = load_checkpoint(BUNDLED_MODEL.with_suffix(".safetensors"))
    picture = torch.rand(1, 3, *info.image_size, generator=torch.Generator().manual_seed(1))
    verify_extreme_gradients(onnx_second_pass(BUNDLED_MODEL), network, picture, TOLERANCES[LOGITS])
