"""The TorchScript file, as PyTorch and a C++ program see it."""

import json
import os
import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.cpp_extension import include_paths

from export.capture.graph import capture
from export.check.pictures import structured_pictures
from export.check.verify import UnusableGraphError, Verification, verify
from export.errors import CaptureError
from export.exporter import export_graph
from export.formats.output_names import OUTPUT_NAMES_KEY
from export.formats.table import TORCHSCRIPT
from export.formats.torchscript import save_torchscript, torchscript_runner
from export.network_passes import passes_of
from export.options import PICTURES
from export.rewrite import rewrite
from sgn_serve.common.graph_format import METADATA_KEY, SHA256_KEY, file_sha256
from tests.export.networks import IMAGE_SIZE, network_around
from tests.needs_timm import NEEDS_TIMM
from training.checkpoint import load_checkpoint
from training.networks.backbones import build_backbone

# TorchScript has been superseded but is what libtorch reads; PyTorch says so at every call.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*torch.jit:FutureWarning")


@pytest.fixture(scope="module")
def module_path(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torchscript") / "model.pt"
    assert export_graph(TORCHSCRIPT, checkpoint, path).passed
    return path


def test_any_batch_size_in_python(module_path: Path, checkpoint: Path) -> None:
    network, _ = load_checkpoint(checkpoint)
    module = torch.jit.load(module_path)
    for batch in (1, 3, 9):
        images = structured_pictures(batch, 3, IMAGE_SIZE, seed=batch)
        with torch.no_grad():
            logits, plain_logits, gradient = module(images)
            torch.testing.assert_close(logits, network(images), rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(plain_logits, network.plain_logits(images), rtol=1e-4, atol=1e-4)
        assert gradient.shape == images.shape


def test_the_file_explains_itself(module_path: Path, checkpoint: Path) -> None:
    extra: dict[str, Any] = dict.fromkeys((METADATA_KEY, SHA256_KEY, OUTPUT_NAMES_KEY), "")
    torch.jit.load(module_path, _extra_files=extra)
    texts = {key: value.decode() if isinstance(value, bytes) else value for key, value in extra.items()}
    assert json.loads(texts[METADATA_KEY])["architecture"] == "wrn-10-1"
    assert texts[SHA256_KEY] == file_sha256(checkpoint)
    assert texts[OUTPUT_NAMES_KEY] == "logits,plain_logits,self_gradient"


def test_a_file_that_is_not_torchscript(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"something else")
    with pytest.raises(UnusableGraphError, match="PyTorch cannot load the graph"):
        torchscript_runner(tmp_path / "model.pt", ("logits",))


class BatchInSizes(nn.Module):
    """Its sizes hold the batch and a multiple of it."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(12, 5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = images.reshape(images.shape[0], 4, 12, 64).flatten(0, 1).mean(2)
        return self.classifier(tokens.tanh()).unflatten(0, (images.shape[0], 4)).mean(1)


def pooled_and_flattened() -> nn.Module:
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(288, 5))


def attention() -> nn.Module:
    """One of six equal layers; the others show nothing new."""
    timm = pytest.importorskip("timm")
    backbone: nn.Module = timm.create_model("test_vit", num_classes=10, img_size=IMAGE_SIZE, depth=1)
    return backbone


def resnet() -> nn.Module:
    return build_backbone("timm:test_resnet", 10, IMAGE_SIZE)


def verification(backbone: nn.Module, folder: Path) -> Verification:
    network = network_around(backbone)
    passes = passes_of(network)
    graph = capture(passes, IMAGE_SIZE)
    rewrite(graph)
    save_torchscript(graph, {}, folder / "model.pt")
    runner = torchscript_runner(folder / "model.pt", passes.output_names)
    return verify(runner, passes, structured_pictures(PICTURES, 3, IMAGE_SIZE))


@pytest.mark.parametrize(
    "backbone",
    [
        BatchInSizes,
        pytest.param(pooled_and_flattened, marks=pytest.mark.thorough),
        pytest.param(resnet, marks=[NEEDS_TIMM, pytest.mark.thorough]),
        pytest.param(attention, marks=NEEDS_TIMM),
    ],
)
def test_sizes_that_hold_the_batch_are_no_constants(backbone: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    found = verification(backbone(), tmp_path)
    assert found.passed, found.table()


class Numbered(nn.Module):
    """Calculates with the number of pictures, which tracing can only take for a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(3, 5)

    def forward(self, images: Tensor) -> Tensor:
        numbers = torch.arange(images.shape[0])[:, None]
        return self.classifier((images.mean((2, 3)) + 0 * numbers).tanh())


class Counted(Numbered):
    """len() of a tensor is a number as soon as it is captured."""

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(images.reshape(len(images), 3, -1).mean(2).tanh())


def test_a_network_that_calculates_with_the_batch_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"aten::arange.*; export it with --onnx") as raised:
        verification(Numbered(), tmp_path)
    assert raised.value.operator == "aten::arange"


def test_a_batch_size_that_capturing_fixes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"layer backbone \(Counted\) fixes the batch size, as len\(x\)"):
        verification(Counted(), tmp_path)


class TwoPictures(nn.Module):
    """Takes two pictures whatever it gets."""

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (images.reshape(2, -1),)


def test_a_batch_size_that_tracing_fixes_is_found(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):  # TorchScript is superseded
        module = torch.jit.trace(TwoPictures(), torch.zeros(2, 1, 1, 1))
        torch.jit.save(module, tmp_path / "model.pt", _extra_files={OUTPUT_NAMES_KEY: "plain_logits"})
    runner = torchscript_runner(tmp_path / "model.pt", ("plain_logits",))
    with pytest.raises(UnusableGraphError, match="fixes the batch size"):
        runner(torch.zeros(1, 1, 1, 1))


LOADER = """
#include <torch/csrc/jit/serialization/import.h>  // of torch/script.h, which compiles three times as long
#include <iostream>
int main(int, char** arguments) {
  torch::jit::Module module = torch::jit::load(arguments[1]);
  at::NoGradGuard no_gradients;
  auto outputs = module.forward({at::full({5, 3, 32, 32}, 0.25)}).toTuple()->elements();
  std::cout.precision(9);
  for (const auto& output : outputs) {
    at::Tensor values = output.toTensor();
    std::cout << values.sizes() << " " << values.sum().item<float>() << "\\n";
  }
}
"""


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_libtorch_in_c_plus_plus(module_path: Path, tmp_path: Path) -> None:
    source, program = tmp_path / "loader.cpp", tmp_path / "loader"
    source.write_text(LOADER)
    libraries = Path(torch.__file__).parent / "lib"
    includes = [f"-I{path}" for path in include_paths()]
    links = [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10"]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    standard = "-std=c++20" if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 12) else "-std=c++17"
    command = ["g++", "-O0", standard, abi, str(source), "-o", str(program), *includes, *links]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    found = subprocess.run(
        [program, module_path],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ).stdout.splitlines()

    with torch.no_grad():
        expected = torch.jit.load(module_path)(torch.full((5, 3, 32, 32), 0.25))
    assert [line.split("]")[0] + "]" for line in found] == ["[5, 10]", "[5, 10]", "[5, 3, 32, 32]"]
    for line, output in zip(found, expected, strict=True):
        assert float(line.split("]")[1]) == pytest.approx(float(output.sum()), rel=1e-4, abs=1e-4)
