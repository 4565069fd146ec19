"""Compare the PyTorch operator with reference.py, on the CPU and, where there is one, on a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from export.kernels import reference
from export.kernels.operators import library_path
from tests.export.kernels.cases import DTYPES, LAYOUTS, PICTURE_SIZES, assert_close, laid_out, normal
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_number_is_read_and_rounded_as_pytorch_does(device: torch.device, dtype: torch.dtype) -> None:
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype).view(1, 1, 256, 256)
    saturated, one_layer = torch.full_like(every, 100.0), torch.ones(1, 1, 1)

    def plus(image: Tensor, number: float) -> Tensor:
        """Add a number in the kernel: the correction is tanh(100), which is 1 in float32."""
        arguments = (tensor.to(device) for tensor in (image, saturated.to(image.dtype), one_layer))
        return sgn.self_gradient_block(*arguments, number, False).cpu()

    assert (plus(torch.zeros(every.shape), 1.0) == 1).all()
    for number in (0.0, 3.14159, 2.0**-9 * 1.0001, 2.0**-24 * 0.7, 700.0, -1.0):
        found, expected = plus(every, number), (every.float() + number).to(dtype)
        assert torch.equal(found.isnan(), expected.isnan())
        assert torch.equal(found.nan_to_num(0.0), expected.nan_to_num(0.0))


def test_threads_change_nothing() -> None:
    image, gradient, weights = block_inputs((3, 3, 61, 67), torch.float32)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            results.append(sgn.self_gradient_block(image, gradient, weights, 1.0, True))
        finally:
            torch.set_num_threads(before)
    assert torch.equal(*results)


def test_image_and_gradient_may_be_laid_out_differently(device: torch.device) -> None:
    image, gradient, weights = (tensor.to(device) for tensor in block_inputs((2, 3, 5, 7), torch.float32))
    expected = reference.self_gradient_block(image, gradient, weights, 0.7, True)
    for one, other in (("contiguous", "channels_last"), ("channels_last", "contiguous"), ("strided", "channels_last")):
        found = sgn.self_gradient_block(laid_out(image, one), laid_out(gradient, other), weights, 0.7, True)
        assert_close(found, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pytorch_finds_nothing_wrong_with_the_operator(device: torch.device, layout: str) -> None:
    image, gradient, weights = (tensor.to(device) for tensor in block_inputs((2, 3, 5, 7), torch.float32))
    torch.library.opcheck(
        sgn.self_gradient_block.default, (laid_out(image, layout), laid_out(gradient, layout), weights, 0.5, True)
    )


def test_meta_tensors_tell_shapes() -> None:
    image = torch.empty(5, 3, 7, 2, device="meta", dtype=torch.bfloat16)
    corrected = sgn.self_gradient_block(image, image, torch.empty(5, 3, 3, device="meta"), 1.0, True)
    assert (corrected.shape, corrected.dtype) == (image.shape, torch.bfloat16)


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
