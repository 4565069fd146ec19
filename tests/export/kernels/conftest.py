"""The kernels' libraries, built once as a user builds them; nothing is compiled where they are up to date."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from export.kernels import onnx_functions, operators

BUILD_LIMIT_SECONDS = 600


def make(project_root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", "-C", str(project_root / "export" / "kernels")]
    return subprocess.run(
        [*command, f"PYTHON={sys.executable}", *arguments],
        capture_output=True,
        text=True,
        timeout=BUILD_LIMIT_SECONDS,
        check=False,
    )


def build(project_root: Path, *arguments: str) -> tuple[str, ...]:
    """Builds what can be built here, the CPU's kernels alone if need be, and returns make's arguments for it."""
    for tool in ("make", os.environ.get("CXX", "g++")):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} to build the kernels")
    if make(project_root, "check", *arguments).returncode != 0:  # a compiler of another CUDA than PyTorch's, say
        arguments = (*arguments, "CUDA=0")
        checked = make(project_root, "check", *arguments)
        if checked.returncode != 0:
            pytest.skip(checked.stderr.splitlines()[0])
    built = make(project_root, *arguments)
    assert built.returncode == 0, built.stderr
    return arguments


@pytest.fixture(scope="session")
def kernels(project_root: Path) -> tuple[str, ...]:
    """torch.ops.sgn.*, ready to run; the value is what `make` was told to build them."""
    arguments = build(project_root)
    operators.load()
    return arguments


@pytest.fixture(scope="session")
def onnx_library(project_root: Path) -> Path:
    """The kernels' library for ONNX Runtime."""
    headers = os.environ.get("ORT_INCLUDE_DIR")
    if not headers:
        pytest.skip("needs ONNX Runtime's C headers, which no package brings: make test-thorough ORT_INCLUDE_DIR=...")
    build(project_root, f"ORT_INCLUDE_DIR={Path(headers).resolve()}")
    return onnx_functions.library_path()
