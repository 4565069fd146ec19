"""The wheel, installed into an environment of its own and used from another folder, as a user has it."""

import ast
import email
import functools
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
import tomllib
import zipfile
from collections.abc import Sequence
from importlib.metadata import packages_distributions
from pathlib import Path

import httpx
import pytest
import torch

from benchmarks.service.server import free_port
from tests.sgn_serve.server import START_LIMIT_SECONDS, serve_environment
from training.networks.backbones import build_backbone

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("sgn", "sgn_serve", "training", "export")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # Isolation would ask the network for hatchling.
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, f"--wheel-dir={folder}", str(ROOT)], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin folder of a new environment that holds the wheel, and the other packages of this one."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", f"--python={python}", "install", *options, str(wheel)], check=True)
    # It comes after the installation: pip would take this project, as it is installed here, for the wheel.
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    (Path(site) / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin"


def ran(command: list[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=serve_environment(folder), capture_output=True, text=True, timeout=600, check=False
    )


def test_the_wheel_holds_the_packages_with_their_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {*PACKAGES}
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout.split()  # fmt: skip
    for wanted in (
        *(f"{package}/py.typed" for package in PACKAGES),
        "sgn_serve/bundled/model.onnx",
        "sgn_serve/bundled/model.json",
        "sgn_serve/ui/page.html",
        "sgn_serve/ui/static/main.js",
        "export/kernels/csrc/operators.def",
        *(name for name in tracked if not name.endswith(".safetensors") and (ROOT / name).exists()),
    ):
        assert wanted in names
    assert not [name for name in names if name.endswith((".safetensors", ".pyc"))]


def test_the_wheel_says_what_it_is_and_where_to_read_on(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        told = email.message_from_bytes(archive.read(name))
    assert told["Version"] == PROJECT["version"]
    assert told.get_all("Project-URL") == [f"{name}, {address}" for name, address in PROJECT["urls"].items()]
    assert {"Typing :: Typed", "Operating System :: POSIX :: Linux"} <= set(told.get_all("Classifier", []))
    assert {"train", "export", "classify", "ray", "gpu"} <= set(told.get_all("Provides-Extra", []))
    assert str(told.get_payload()).startswith("# "), "the README is what an index shows"


def test_the_version_is_that_of_pyproject(programs, tmp_path):
    assert ran([programs / "sgn", "--version"], tmp_path).stdout == f"sgn {PROJECT['version']}\n"


@pytest.mark.thorough
def test_weights_of_another_program_are_converted_exported_and_can_be_served(programs, tmp_path):
    torch.manual_seed(0)
    torch.save(build_backbone("wrn-10-1", 3).state_dict(), tmp_path / "theirs.pt")
    for command in (
        ["convert", "--weights=theirs.pt", "--arch=wrn-10-1", "--classes=red,green,blue", "--out=run/m.safetensors"],
        ["export", "--ckpt=run/m.safetensors", "--onnx=ours.onnx"],
    ):
        done = ran([programs / "sgn", *command], tmp_path)
        told = [
            line for line in done.stderr.splitlines() if not re.fullmatch(r" *[\d.]+ s: .+", line)
        ]  # export's stages
        assert (done.returncode, told) == (0, []), done.stdout
    code = "import export, sgn, sgn_serve, sgn_serve.check, sys, training\n"
    code += f"assert all(m.__file__.startswith({str(programs.parent)!r}) for m in (export, sgn, sgn_serve, training))\n"
    code += "import os; os.environ['SGN_MODEL'] = 'ours.onnx'; sys.exit(sgn_serve.check.main())"
    done = ran([programs / "python", "-c", code], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ours.onnx: 3 classes" in done.stdout


@pytest.mark.thorough
def test_the_service_answers_from_any_folder(programs, tmp_path):
    port = free_port()
    command = [programs / "sgn", "serve", f"--port={port}", "--top-k=3"]
    log = tmp_path / "log.txt"
    environment = serve_environment(tmp_path)
    with log.open("w") as output, subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=output, stderr=output
    ) as server:  # fmt: skip
        try:
            ready_by = time.monotonic() + START_LIMIT_SECONDS
            while not is_ready(port):
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < ready_by, log.read_text()
                time.sleep(0.2)
            picture = (ROOT / "examples" / "ship_00.png").read_bytes()
            answer = httpx.post(f"http://127.0.0.1:{port}/classify", files={"image": picture}, timeout=60).json()
            page = httpx.get(f"http://127.0.0.1:{port}/ui", timeout=60)
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(timeout=START_LIMIT_SECONDS) == 0
    assert answer["label"] == "ship"
    assert len(answer["top_k"]) == 3, "an option is a setting"
    assert page.status_code == 200
    assert not [line for line in log.read_text().splitlines() if not line.startswith("{")]


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=60).status_code == 200
    except httpx.TransportError:
        return False


def test_what_serving_lacks_is_named_with_its_extra(programs, tmp_path):
    code = "import sys; sys.modules['torch'] = None\nfrom sgn.command import main\nsys.exit(main(sys.argv[1:]))"
    done = ran([programs / "python", "-c", code, "train", "--data-root=.", "--dataset=cifar10"], tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: sgn train needs torch, which is not installed; install the rest with pip ")
    assert done.stderr.count("\n") == 1
    assert '".[train]"' in done.stderr


EXTRAS = {
    "sgn": (),
    "sgn_serve": ("cpu", "openvino", "heic", "classify", "ray"),
    "training": ("train", "timm", "ray"),
    "export": ("train", "export", "cpu", "openvino"),
}
"""The extras whose packages may be imported, by the package of this project. Each stands on [project.dependencies]."""
COMES_WITH = {"circus": "bentoml", "huggingface-hub": "timm"}
"""Packages that another one brings along, and that are used for its sake alone."""


DISTRIBUTIONS = functools.cache(packages_distributions)


def imported(package: str) -> dict[str, str]:
    """Return the modules at the top that a package's files import, wherever they do, each with one of the files."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in names:
                found.setdefault(name.partition(".")[0], str(path.relative_to(ROOT)))
    return {name: path for name, path in found.items() if name not in {*sys.stdlib_module_names, *PACKAGES}}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required(lines: Sequence[str]) -> set[str]:
    """Return the names of the distributions that these lines of pyproject.toml require."""
    return {normalised(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in lines}


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_package_imports_is_required(package):
    """The environment that the wheel is tried in has all other packages of this one, so it would miss none."""
    allowed = required([*PROJECT["dependencies"], *COMES_WITH])
    for extra in EXTRAS[package]:
        allowed |= required(PROJECT["optional-dependencies"][extra])
    assert required(["python-json-logger>=3.1", "ray==2.60.0"]) == {"python-json-logger", "ray"}
    distributions = DISTRIBUTIONS()
    missing = {}
    for name, path in imported(package).items():
        # The name of the module itself where it is not installed, such as pillow_heif.
        providers = {normalised(one) for one in distributions.get(name, [name])} | {normalised(name)}
        if not providers & allowed:
            missing[name] = path
    assert not missing
    assert package == "sgn" or len(imported(package)) > 5, "imports are seen"


def test_every_extra_beside_serving_is_what_its_command_imports():
    extras = PROJECT["optional-dependencies"]
    assert any(line.startswith("onnxruntime>") for line in PROJECT["dependencies"])
    assert any(line.startswith("torch>") for line in extras["train"])
    assert f"{PROJECT['name']}[train]" in extras["export"]
    assert os.access(ROOT / "LICENSE", os.R_OK)
