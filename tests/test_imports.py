"""Check what importing a package loads. `lint-imports` checks who may import whom, by pyproject.toml."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest


def loaded_packages(project_root: Path, modules: list[str]) -> set[str]:
    """Return the top-level names of everything that a new Python has loaded once it has imported these modules."""
    program = f"import sys, {', '.join(modules)}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=project_root, capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stdout.split())


def modules_of(project_root: Path, package: str) -> list[str]:
    """Return the names of all modules of a package, those of its sub-packages too."""
    files = sorted((project_root / package).rglob("*.py"))
    names = [".".join(file.relative_to(project_root).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names]


def test_judging_a_checkpoint_loads_no_onnx_runtime(project_root: Path) -> None:
    loaded = loaded_packages(project_root, ["training.evaluate.evaluate"])
    assert "torch" in loaded
    assert "onnxruntime" not in loaded


def test_serving_loads_no_pytorch(project_root: Path) -> None:
    modules = modules_of(project_root, "sgn_serve")
    assert "sgn_serve.decoder_processes.child" in modules, "sub-packages are seen too"
    loaded = loaded_packages(project_root, modules)
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "training", "export", "benchmarks", "release", "safetensors"}


@pytest.mark.parametrize(("source", "allowed"), [("pictures", {"common.error_text"}), ("client", {"records"})])
def test_what_a_package_may_not_import_is_everything_else(project_root: Path, source: str, allowed: set[str]) -> None:
    """A new module of the service is forbidden until somebody allows it."""
    contracts = tomllib.loads((project_root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (one for one in contracts if one.get("source_modules") == [f"sgn_serve.{source}"])
    forbidden = {name.partition(".")[2] for name in contract["forbidden_modules"] if name.startswith("sgn_serve.")}
    there = {name.partition(".")[2] for name in modules_of(project_root, "sgn_serve") if "." in name}
    rooms = {name if name.startswith("common.") else name.partition(".")[0] for name in there}
    assert forbidden == rooms - {source, "__main__", "common"} - allowed
