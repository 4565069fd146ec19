"""The PyTorch operators against reference.py, on the CPU and, where there is one, on a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from export.kernels import reference
from export.kernels.operators import library_path
from tests.export.kernels.cases import DTYPES, FEATURE_SIZES, LAYOUTS, PICTURE_SIZES, assert_close, laid_out, normal
from training.networks.self_gradient import SelfGradientBlock

pytestmark = pytest.mark.usefixtures("kernels")

Sizes = tuple[int, int, int, int]
sgn = torch.ops.sgn


def block_inputs(sizes: Sizes, dtype: torch.dtype, layers: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    weights = reference.block_weights(SelfGradientBlock(channels=sizes[1], layers=layers))
    return torch.rand(sizes).to(dtype), normal(*sizes, scale=0.1).to(dtype), weights


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sizes", PICTURE_SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_self_gradient_block(device: torch.device, dtype: torch.dtype, sizes: Sizes, layout: str, rms: bool) -> None:
    image, gradient, weights = block_inputs(sizes, dtype)
    expected = reference.self_gradient_block(image, gradient, weights, 0.7, rms)
    found = sgn.self_gradient_block(
        laid_out(image.to(device), layout), laid_out(gradient.to(device), layout), weights.to(device), 0.7, rms
    )
    assert_close(found.cpu(), expected)
    if layout == "channels_last" and image.numel() > 0:
        assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sizes", FEATURE_SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_epilogue_and_way_back(device: torch.device, dtype: torch.dtype, sizes: Sizes, layout: str) -> None:
    features, gradient, residual = (normal(*sizes, seed=seed).to(dtype) for seed in (0, 1, 2))
    scale, shift = normal(sizes[1], seed=3), normal(sizes[1], seed=4)

    def there(tensor: Tensor) -> Tensor:
        return laid_out(tensor.to(device), layout)

    expected, expected_mask = reference.scale_shift_relu(features, scale, shift)
    found, mask = sgn.scale_shift_relu(there(features), scale.to(device), shift.to(device))
    assert_close(found.cpu(), expected)
    differing = reference.unpack_mask(mask.cpu() ^ expected_mask, sizes[1])
    # One step for product and sum may bring a number to the other side of zero, but only from right beside it.
    numbers = features.float() * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
    assert (numbers[differing].abs() < 1e-6).all()
    assert mask.shape == expected_mask.shape
    # Every bit that is nobody's is 0.
    assert torch.equal(mask.cpu(), reference.pack_mask(reference.unpack_mask(mask.cpu(), sizes[1])))

    for other in (residual, None):
        way_back = sgn.mask_scale_add(there(gradient), mask, scale.to(device), None if other is None else there(other))
        assert_close(way_back.cpu(), reference.mask_scale_add(gradient, mask.cpu(), scale, other))


def test_a_gradient_and_a_mask_may_lie_differently(device: torch.device) -> None:
    gradient, scale = normal(2, 13, 5, 7).to(device), normal(13).to(device)
    mask = torch.randint(0, 256, (2, 2, 5, 7), dtype=torch.uint8).to(device)
    expected = reference.mask_scale_add(gradient, mask, scale, gradient)
    last = torch.channels_last
    for found in (
        sgn.mask_scale_add(gradient, mask.contiguous(memory_format=last), scale, gradient),
        sgn.mask_scale_add(gradient, mask, scale, gradient.contiguous(memory_format=last)),
        sgn.mask_scale_add(gradient.contiguous(memory_format=last), mask, scale, gradient),
    ):
        assert_close(found, expected)


def test_tanh_is_accurate_for_small_and_large_numbers(device: torch.device) -> None:
    numbers = torch.cat([torch.logspace(-30, 1.5, 20000), torch.linspace(0, 12, 20000)]).repeat(2)
    numbers[: len(numbers) // 2] *= -1
    gradient = numbers.view(1, 1, 1, -1)
    one_layer = torch.ones(1, 1, 1).to(device)
    found = sgn.self_gradient_block(torch.zeros_like(gradient).to(device), gradient.to(device), one_layer, 1.0, False)
    expected = gradient.double().tanh()
    assert ((found.cpu() - expected).abs() <= 4.5e-7 * expected.abs()).all()


def test_no_gradient_no_correction_and_none_scaled_by_its_neighbours(device: torch.device) -> None:
    image, gradient, weights = (tensor.to(device) for tensor in block_inputs((4, 3, 9, 9), torch.float32))
    gradient[1] = 0
    gradient[2] *= 1e6
    together = sgn.self_gradient_block(image, gradient, weights, 1.0, True)
    assert torch.equal(together[1], image[1])
    alone = [sgn.self_gradient_block(image[[i]], gradient[[i]], weights, 1.0, True) for i in range(4)]
    assert torch.equal(together, torch.cat(alone))


def test_nan_is_not_hidden(device: torch.device) -> None:
    image, gradient, weights = (tensor.to(device) for tensor in block_inputs((1, 3, 4, 4), torch.float32))
    gradient[0, 0, 1, 1] = torch.nan
    corrected = sgn.self_gradient_block(image, gradient, weights, 1.0, False)
    assert corrected.isnan().sum() == 3  # that pixel's channels
    features, mask = sgn.scale_shift_relu(gradient, weights[0, 0], weights[0, 1])
    assert features[0, 0, 1, 1].isnan()
    assert mask[0, 0, 1, 1] & 1 == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_number_is_read_and_rounded_as_pytorch_does(device: torch.device, dtype: torch.dtype) -> None:
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype).view(1, 1, 256, 256)
    mask = torch.ones(1, 1, 256, 256, dtype=torch.uint8)
    for scale in (1.0, 3.14159, 2.0**-9 * 1.0001, 700.0):
        found = sgn.mask_scale_add(every.to(device), mask.to(device), torch.tensor([scale]).to(device), None).cpu()
        expected = (every.float() * scale + 0.0).to(dtype)
        assert torch.equal(found.isnan(), expected.isnan())
        assert torch.equal(found.nan_to_num(0.0), expected.nan_to_num(0.0))


def test_threads_change_nothing() -> None:
    image, gradient, weights = block_inputs((3, 3, 61, 67), torch.float32)
    features, scale = normal(2, 67, 19, 11), normal(67)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            results.append(
                (
                    sgn.self_gradient_block(image, gradient, weights, 1.0, True),
                    *sgn.scale_shift_relu(features, scale, scale),
                )
            )
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(one, three) for one, three in zip(*results, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pytorch_finds_nothing_wrong_with_the_operators(device: torch.device, layout: str) -> None:
    image, gradient, weights = (tensor.to(device) for tensor in block_inputs((2, 3, 5, 7), torch.float32))
    features, scale = laid_out(normal(2, 13, 5, 7).to(device), layout), normal(13).to(device)
    mask = laid_out(torch.zeros(2, 2, 5, 7), "contiguous").to(device, torch.uint8)
    pictures = (laid_out(image, layout), laid_out(gradient, layout), weights, 0.5, True)
    for operator, arguments in (
        (sgn.self_gradient_block.default, pictures),
        (sgn.scale_shift_relu.default, (features, scale, scale)),
        (sgn.mask_scale_add.default, (features, mask, scale, features)),
        (sgn.mask_scale_add.default, (features, mask, scale, None)),
    ):
        torch.library.opcheck(operator, arguments)


def test_meta_tensors_tell_shapes() -> None:
    features = torch.empty(5, 17, 3, 2, device="meta", dtype=torch.bfloat16)
    scale = torch.empty(17, device="meta")
    result, mask = sgn.scale_shift_relu(features, scale, scale)
    assert (result.shape, result.dtype) == ((5, 17, 3, 2), torch.bfloat16)
    assert (mask.shape, mask.dtype) == ((5, 3, 3, 2), torch.uint8)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_a_torchscript_file_needs_the_library_alone(tmp_path: Path) -> None:
    def corrected(image: Tensor, gradient: Tensor, weights: Tensor) -> Tensor:
        return torch.ops.sgn.self_gradient_block(image, gradient, weights, 0.5, True)

    inputs = block_inputs((2, 3, 5, 7), torch.float32)
    torch.jit.trace(corrected, inputs).save(str(tmp_path / "traced.pt"))
    torch.save((*inputs, corrected(*inputs)), tmp_path / "inputs.pt")
    program = (
        "import sys, torch\n"
        "torch.ops.load_library(sys.argv[1])\n"
        "*inputs, expected = torch.load('inputs.pt')\n"
        "assert torch.equal(torch.jit.load('traced.pt')(*inputs), expected)\n"
        "assert 'export' not in sys.modules\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(library_path())],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.rand(3, 5, 7)}, r"image must be \(N, C, H, W\)"),
        ({"image": torch.rand(2, 3, 5, 7).double()}, "image must be float32, float16 or bfloat16, not Double"),
        ({"gradient": torch.rand(2, 3, 5, 8)}, "gradient must have the shape, dtype and device of image"),
        ({"image": torch.rand(2, 5, 5, 7), "gradient": torch.rand(2, 5, 5, 7)}, "1 to 4 channels, not 5"),
        ({"weights": torch.rand(5, 3, 4)}, r"weights must be float32 \[5, 3, 3\]"),
        ({"weights": torch.rand(65, 3, 3)}, "1 to 64 layers"),
        ({"weights": torch.rand(5, 3, 3).half()}, "weights must be float32"),
    ],
)
def test_unfit_tensors_are_refused(change: dict[str, Tensor], message: str) -> None:
    image, gradient, weights = block_inputs((2, 3, 5, 7), torch.float32)
    arguments = {"image": image, "gradient": gradient, "weights": weights} | change
    with pytest.raises(RuntimeError, match=message):
        sgn.self_gradient_block(**arguments, scale=1.0, rms=False)


def test_an_unfit_mask_is_refused() -> None:
    gradient = normal(2, 9, 3, 3)
    with pytest.raises(RuntimeError, match=r"mask must be uint8 \[2, 2, 3, 3\]"):
        sgn.mask_scale_add(gradient, torch.zeros(2, 9, 3, 3, dtype=torch.uint8), torch.ones(9), None)
