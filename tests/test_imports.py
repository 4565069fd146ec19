"""Imports run one way: export -> training, sgn_serve -> nothing of ours and no PyTorch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

FORBIDDEN = {
    "training": {"export", "tests", "benchmarks", "bentoml", "onnxruntime"},
    "export": {"tests", "benchmarks", "bentoml"},
    "sgn_serve": {"training", "export", "tests", "benchmarks", "torch", "torchvision", "safetensors", "onnxscript"},
}


# Who judges an exported graph runs it, with the library that the training extra does not bring.
ALLOWED = {("training/attacks/exported_graph.py", "onnxruntime")}


def imported_packages(source: str) -> set[str]:
    """Top-level names of everything that a module imports, at its top or within a function."""
    packages = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here, so that this test sees them"
            packages.add((node.module or "").split(".")[0])
    return packages


@pytest.mark.parametrize("package", FORBIDDEN)
def test_import_directions(project_root: Path, package: str) -> None:
    files = sorted((project_root / package).rglob("*.py"))
    assert files
    wrong = {
        (str(file.relative_to(project_root)), found)
        for file in files
        for found in imported_packages(file.read_text()) & FORBIDDEN[package]
    }
    assert wrong - ALLOWED == set()


def test_judging_a_checkpoint_loads_no_onnx_runtime(project_root: Path) -> None:
    program = "import sys, training.evaluate; print('onnxruntime' in sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=project_root, capture_output=True, text=True, check=True, timeout=60
    )
    assert loaded.stdout.strip() == "False"


def test_serving_loads_no_pytorch(project_root: Path) -> None:
    files = sorted((project_root / "sgn_serve").rglob("*.py"))
    modules = [".".join(file.relative_to(project_root).with_suffix("").parts) for file in files]
    modules = [name.removesuffix(".__init__") for name in modules]
    assert "sgn_serve.pictures.decoder" in modules, "sub-packages are seen too"
    program = (
        f"import sys, {', '.join(modules)}\n"
        "print(*sorted({'torch', 'training', 'export', 'safetensors'} & {name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=project_root, capture_output=True, text=True, check=True, timeout=60
    )
    assert loaded.stdout.strip() == ""
