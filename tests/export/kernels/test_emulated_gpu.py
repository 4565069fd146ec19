"""The CUDA grids against reference.py without a GPU: each GPU thread is a CPU thread (emulated_gpu/cuda_runtime_api.h).

The tests marked `gpu` are what shows that they run on a GPU; these show that they reach every element, once, and wait
for each other where they must.
"""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from export.kernels import reference
from tests.export.kernels.cases import FEATURE_SIZES, PICTURE_SIZES, assert_close, laid_out, normal
from training.networks.self_gradient import SelfGradientBlock

Sizes = tuple[int, int, int, int]

SOURCE = Path(__file__).parent / "emulated_gpu" / "grids.cpp"
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
LAYOUTS = ("contiguous", "channels_last")
DTYPE_CASES = ((torch.float16, (2, 3, 7, 9)), (torch.bfloat16, (2, 4, 5, 13)))


@pytest.fixture(scope="module")
def grids(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler} to build the kernels")
    library = tmp_path_factory.mktemp("emulated") / "grids.so"
    folders = [f"-I{SOURCE.parent}", f"-I{project_root / 'export' / 'kernels' / 'csrc'}"]
    options = ["-std=c++20", "-O1", "-shared", "-fPIC", "-pthread"]
    subprocess.run([compiler, *options, *folders, str(SOURCE), "-o", str(library)], check=True, timeout=300)
    return ctypes.CDLL(str(library))


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def layout_of(tensor: Tensor, layout: str) -> tuple[ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_bool]:
    batch, channels, height, width = (ctypes.c_int64(size) for size in tensor.shape)
    return batch, channels, ctypes.c_int64(height.value * width.value), ctypes.c_bool(layout == "channels_last")


def unwritten(like: Tensor) -> Tensor:
    """NaN (or 0xff), so that an element which nobody writes shows."""
    return torch.full_like(like, 0xFF if like.dtype == torch.uint8 else torch.nan)


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "sizes"), [*((torch.float32, sizes) for sizes in PICTURE_SIZES), *DTYPE_CASES])
def test_self_gradient_block(grids: ctypes.CDLL, dtype: torch.dtype, sizes: Sizes, layout: str, rms: bool) -> None:
    torch.manual_seed(0)
    weights = reference.block_weights(SelfGradientBlock(channels=sizes[1]))
    image = laid_out(torch.rand(sizes).to(dtype), layout)
    gradient = laid_out(normal(*sizes, scale=0.1).to(dtype), layout)
    result = unwritten(image)
    status = grids.self_gradient_block(
        DTYPES[dtype],
        pointer(image),
        pointer(gradient),
        pointer(result),
        *layout_of(image, layout),
        pointer(weights),
        ctypes.c_int64(len(weights)),
        ctypes.c_float(0.7),
        ctypes.c_bool(rms),
    )
    assert status == 0
    assert_close(result, reference.self_gradient_block(image, gradient, weights, 0.7, rms))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "sizes"), [*((torch.float32, sizes) for sizes in FEATURE_SIZES), *DTYPE_CASES])
def test_epilogue_and_way_back(grids: ctypes.CDLL, dtype: torch.dtype, sizes: Sizes, layout: str) -> None:
    features, residual = (laid_out(normal(*sizes, seed=seed).to(dtype), layout) for seed in (0, 1))
    scale, shift = normal(sizes[1], seed=2), normal(sizes[1], seed=3)
    expected, expected_mask = reference.scale_shift_relu(features, scale, shift)
    expected_mask = laid_out(expected_mask, layout)
    result, mask = unwritten(features), unwritten(expected_mask)
    number, where = DTYPES[dtype], layout_of(features, layout)
    arguments = (pointer(scale), pointer(shift), pointer(result), pointer(mask), *where)
    assert grids.scale_shift_relu(number, pointer(features), *arguments) == 0
    assert_close(result, expected)
    assert torch.equal(mask, expected_mask)

    for other in (residual, None):
        result = unwritten(features)
        arguments = (pointer(mask), pointer(scale), pointer(other), pointer(result), *where)
        assert grids.mask_scale_add(number, pointer(features), *arguments) == 0
        assert_close(result, reference.mask_scale_add(features, mask, scale, other))


def test_more_channels_than_the_kernel_has_are_refused(grids: ctypes.CDLL) -> None:
    image, weights = torch.rand(1, 5, 2, 2), torch.rand(2, 5, 5)
    arguments = (pointer(image), pointer(image), pointer(torch.empty_like(image)), *layout_of(image, "contiguous"))
    rest = (pointer(weights), ctypes.c_int64(2), ctypes.c_float(1.0), ctypes.c_bool(True))
    assert grids.self_gradient_block(0, *arguments, *rest) != 0
