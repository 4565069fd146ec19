"""The compiled package. Compiling takes tens of seconds, so all tests use one small network."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import export.reduced
from export.check.agreement import Agreement
from export.check.verify import UnusableGraphError
from export.command import main
from export.formats.aot import CompilerError, aot_runner, require_compiler
from export.network_passes import passes_of
from export.reduced import AGREEMENT_KEY, ERRORS_KEY
from sgn_serve.common.graph_format import PRECISION_KEY, SHA256_KEY, file_sha256
from tests.export.extremes import BrightnessScaled, assert_equal_at_extremes, pictures_by_brightness
from tests.export.networks import OUTPUTS, checkpoint_info, randomise
from training.checkpoint import build_model, load_checkpoint, save_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def small_backbone() -> nn.Module:
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


@pytest.fixture
def small_checkpoint(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the checkpoint of a network that compiles faster than a residual one, for the command line to read.

    The parameter makes its backbone.
    """
    backbone = getattr(request, "param", small_backbone)
    monkeypatch.setattr("training.checkpoint.build_backbone", lambda *_, **__: backbone())
    torch.manual_seed(0)
    info = checkpoint_info(scale=0.03, image_size=(16, 16), architecture="small")
    save_checkpoint(tmp_path / "model.safetensors", randomise(build_model(info)).state_dict(), info)
    return tmp_path / "model.safetensors"


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("small_checkpoint", [BrightnessScaled], indirect=True)
def test_a_checked_package(small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ckpt", str(small_checkpoint), "--aot"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:11]] == [
        [batch, output] for batch in ("1", "4", "7") for output in OUTPUTS
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt2", "model.safetensors"]
    package = torch._inductor.aoti_load_package(str(tmp_path / "model.pt2"))
    assert package.get_metadata()[SHA256_KEY] == file_sha256(small_checkpoint)
    network, _ = load_checkpoint(small_checkpoint)
    pictures, passes = pictures_by_brightness((16, 16)), passes_of(network)
    with torch.no_grad():
        expected = dict(zip(passes.output_names, passes(pictures), strict=True))
    assert_equal_at_extremes(expected, aot_runner(tmp_path / "model.pt2", passes.output_names)(pictures))
    with pytest.raises(
        UnusableGraphError, match="outputs are logits, plain_logits, self_gradient, expected plain_logits"
    ):
        aot_runner(tmp_path / "model.pt2", ("plain_logits",))


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_bf16_with_its_agreement(
    small_checkpoint: Path, project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(run: object, network: object, pictures: Tensor, eps: float) -> tuple[Agreement, ...]:
        return (Agreement("logits", len(pictures), 1.0, 0.996, "an attack"),)

    monkeypatch.setattr(export.reduced, "measure_agreement", measure)
    options = ["--precision", "bf16", "--pictures", str(project_root / "examples"), "--agreement-pictures", "28"]
    assert main(["--ckpt", str(small_checkpoint), "--aot", *options]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt2", "model.safetensors"]
    metadata = torch._inductor.aoti_load_package(str(tmp_path / "model.pt2")).get_metadata()
    assert metadata[PRECISION_KEY] == "bf16"
    assert json.loads(metadata[AGREEMENT_KEY])[0]["attacked"] == 0.996
    assert 1e-4 < json.loads(metadata[ERRORS_KEY])["plain_logits"]["median"] < 0.1  # float32's is 1e-7
    outputs = aot_runner(tmp_path / "model.pt2", OUTPUTS)(torch.rand(3, 3, 16, 16))
    assert {output.dtype for output in outputs.values()} == {torch.float32}


def test_no_compiler_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(CompilerError, match="there is no no-such-compiler; install one"):
        require_compiler()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_compiled_for_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.touch()
    assert main(["--ckpt", str(checkpoint), "--aot", "--device", "cuda"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("none that PyTorch can use; export where the GPU is, or leave --device out")


@pytest.mark.parametrize("formats", [["--onnx"], ["--aot", "--onnx", "model.onnx"]])
def test_a_device_is_for_packages_alone(formats: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--ckpt", "model.safetensors", *formats, "--device", "cuda"])
    assert "--device is for --aot" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_checked_package_for_the_gpu(small_checkpoint: Path, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU that PyTorch can use")
    assert main(["--ckpt", str(small_checkpoint), "--aot", "--device", "cuda"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.cuda.pt2", "model.safetensors"]
    package = torch._inductor.aoti_load_package(str(tmp_path / "model.cuda.pt2"))
    outputs = package(torch.rand(3, 3, 16, 16, device="cuda"))
    assert {output.device.type for output in outputs} == {"cuda"}


def test_a_file_that_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"something else")
    with pytest.raises(UnusableGraphError, match="cannot be loaded"):
        aot_runner(tmp_path / "model.pt2", ("logits",))
