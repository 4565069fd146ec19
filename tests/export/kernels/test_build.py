"""How the kernels are built, and what is said where they cannot be or have not been."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from export.kernels.operators import library_path
from tests.export.kernels import conftest
from tests.export.kernels.conftest import make

NOT_BUILT = "the fused kernels are not built for PyTorch"


def test_what_is_up_to_date_is_left_alone(project_root: Path, kernels: tuple[str, ...]) -> None:
    before = library_path().stat().st_mtime_ns
    again = make(project_root, *kernels)
    assert again.returncode == 0
    assert again.stdout == ""
    assert library_path().stat().st_mtime_ns == before


def test_a_compiler_of_another_cuda_keeps_no_cpu_kernel_from_its_tests(
    project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_cuda(project_root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 0 if "CUDA=0" in arguments else 1, stderr="nvcc is CUDA 9.0")

    monkeypatch.setattr(conftest, "make", refuse_cuda)
    assert conftest.build(project_root, "ORT_INCLUDE_DIR=/headers") == ("ORT_INCLUDE_DIR=/headers", "CUDA=0")


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc, CUDA's compiler")
def test_the_cuda_kernels_are_compiled_and_registered(kernels: tuple[str, ...]) -> None:
    if "CUDA=0" in kernels:
        pytest.skip("needs an nvcc of the CUDA that PyTorch is built for")
    assert torch._C._dispatch_has_kernel_for_dispatch_key("sgn::self_gradient_block", "CUDA")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("CXX=no-such-compiler", "error: the C++ compiler no-such-compiler is missing; install one"),
        ("PYTHON=/bin/false", "error: /bin/false has no PyTorch; name one that has: make kernels PYTHON=..."),
        ("ORT_INCLUDE_DIR=/tmp", "error: /tmp holds no onnxruntime_c_api.h; pass include/onnxruntime/core/session"),
    ],
)
def test_what_is_missing_is_named_before_any_work(project_root: Path, argument: str, message: str) -> None:
    refused = make(project_root, "CUDA=0", "CXX=sh", argument, "check")
    assert refused.returncode != 0
    assert refused.stderr.splitlines()[0].startswith(message)
    assert refused.stdout == ""


def test_without_a_library_the_operators_are_known_but_do_not_run(project_root: Path, tmp_path: Path) -> None:
    program = f"""
import pathlib, torch
from export.kernels import operators
operators.BUILD_FOLDER = pathlib.Path({str(tmp_path)!r})
try:
    operators.load()
except operators.KernelsError as error:
    print(error)
operators.declare()
image, weights = torch.rand(2, 3, 4, 4), torch.rand(5, 3, 3)
print(list(torch.ops.sgn.self_gradient_block(image.to("meta"), image.to("meta"), weights.to("meta"), 1.0, True).shape))
try:
    torch.ops.sgn.self_gradient_block(image, image, weights, 1.0, True)
except operators.KernelsError as error:
    print(error)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=project_root, capture_output=True, text=True, timeout=120, check=True
    )
    missing, shape, again = ran.stdout.splitlines()
    assert missing.startswith(NOT_BUILT)
    assert missing.endswith("run `make kernels`")
    assert shape == "[2, 3, 4, 4]"
    assert again == missing
