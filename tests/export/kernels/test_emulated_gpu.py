"""Compare the CUDA grids with reference.py without a GPU: each GPU thread is a CPU thread.

emulated_gpu/cuda_runtime_api.h stands in for CUDA's header. These tests show that the grids write every element once
and that threads wait for each other where they must. The tests marked `gpu` show that they run on a GPU.
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
from tests.export.kernels.cases import PICTURE_SIZES, assert_close, laid_out, normal
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


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def layout_of(tensor: Tensor, layout: str) -> tuple[ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_bool]:
    batch, channels, height, width = (ctypes.c_int64(size) for size in tensor.shape)
    return batch, channels, ctypes.c_int64(height.value * width.value), ctypes.c_bool(layout == "channels_last")


def unwritten(like: Tensor) -> Tensor:
    """Return NaN everywhere, so that an element that nobody writes is seen."""
    return torch.full_like(like, torch.nan)


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


def test_more_channels_than_the_kernel_has_are_refused(grids: ctypes.CDLL) -> None:
    image, weights = torch.rand(1, 5, 2, 2), torch.rand(2, 5, 5)
    arguments = (pointer(image), pointer(image), pointer(torch.empty_like(image)), *layout_of(image, "contiguous"))
    rest = (pointer(weights), ctypes.c_int64(2), ctypes.c_float(1.0), ctypes.c_bool(True))
    assert grids.self_gradient_block(0, *arguments, *rest) != 0
