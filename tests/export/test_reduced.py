"""Graphs in reduced precision: how they are made, compared with float32, and refused."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, fx, nn

import export.formats.table
import export.reduced
from export.check.agreement import Agreement, measure_agreement
from export.check.pictures import PicturesError, pictures_under, structured_pictures
from export.command import main
from export.formats.onnx import to_onnx
from export.options import PICTURES
from export.reduced import AGREEMENT_KEY, ERRORS_KEY, Reduced, export_reduced
from sgn_serve.common.graph_format import PRECISION_KEY
from tests.export.check.test_verify import replace_value
from tests.export.conftest import Exported
from tests.export.networks import IMAGE_SIZE, OUTPUTS, checkpoint_info, randomise
from training.checkpoint import build_model, save_checkpoint


def test_agreement_counts_pictures_as_they_are_and_attacked(exported: Exported) -> None:
    pictures = structured_pictures(6, 3, IMAGE_SIZE, seed=9)
    seen: list[Tensor] = []
    network = exported.network

    def wrong_on_two(images: Tensor) -> Mapping[str, Tensor]:
        seen.append(images)
        with torch.no_grad():
            logits, plain_logits = network(images), network.plain_logits(images)
        logits[:2] = -logits[:2]
        return {"logits": logits, "plain_logits": plain_logits}

    on, off = measure_agreement(wrong_on_two, network, pictures, eps=8 / 255)
    assert (on.output, on.pictures) == ("logits", 6)
    assert [on.clean, on.attacked] == pytest.approx([4 / 6, 4 / 6])
    assert (off.output, off.clean, off.attacked, off.lowest) == ("plain_logits", 1, 1, 1)
    assert "fewer than 1,000 pictures" in on.line()
    clean, attacked = seen
    assert torch.equal(clean, pictures)
    assert 0 < (attacked - clean).abs().max() <= 8 / 255 + 1e-6


def test_pictures_of_every_class(project_root: Path, tmp_path: Path) -> None:
    for index, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        for number in range(4):
            source = sorted((project_root / "examples").glob("*.png"))[index * 50 + number]
            (tmp_path / name / f"{number}.png").write_bytes(source.read_bytes())
    assert len(pictures_under(tmp_path, 4, (32, 32)).unique(dim=0)) == 4
    with pytest.raises(PicturesError, match="8 pictures, but 9 are needed"):
        pictures_under(tmp_path, 9, (32, 32))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Replace the attack; `share` is the share that is measured."""
    found = {"share": 1.0}

    def measure(run: object, network: object, pictures: Tensor, eps: float) -> tuple[Agreement, ...]:
        return (Agreement("logits", len(pictures), 1.0, found["share"], "an attack"),)

    monkeypatch.setattr(export.reduced, "measure_agreement", measure)
    return found


def command(checkpoint: Path, project_root: Path, target: Path, *options: str) -> list[str]:
    pictures = str(project_root / "examples")
    return ["--ckpt", str(checkpoint), "--pictures", pictures, "--agreement-pictures", "100", *options, str(target)]


@pytest.mark.usefixtures("captured_once")
def test_fp16_is_written_with_its_agreement(
    checkpoint: Path,
    project_root: Path,
    tmp_path: Path,
    measured: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models: list[onnx.ModelProto] = []

    def once(graph: fx.GraphModule, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """Translate the graph of the first of two exports, which are the same."""
        if not models:
            models.append(to_onnx(graph, metadata))
        return copy.deepcopy(models[0])

    monkeypatch.setattr(export.formats.table, "to_onnx", once)
    target = tmp_path / "model.onnx"
    arguments = command(checkpoint, project_root, target, "--precision", "fp16", "--onnx")
    measured["share"] = 0.99
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert "99.00% of them attacked" in captured.out
    assert "fp16 keeps the answer of fewer than 99.5% of the pictures" in captured.err
    assert not list(tmp_path.iterdir())

    assert main([*arguments, "--min-agreement", "0.98"]) == 0
    metadata = {item.key: item.value for item in onnx.load(target).metadata_props}
    assert metadata[PRECISION_KEY] == "fp16"
    (agreement,) = json.loads(metadata[AGREEMENT_KEY])
    assert (agreement["attacked"], agreement["pictures"]) == (0.99, 100)
    errors = json.loads(metadata[ERRORS_KEY])
    assert list(errors) == list(OUTPUTS)
    assert 1e-5 < errors["self_gradient"]["median"] < errors["self_gradient"]["worst"] < 0.5
    assert (
        onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"]).get_inputs()[0].type == "tensor(float)"
    )


@pytest.mark.usefixtures("measured")
def test_a_backbone_of_ones_own(project_root: Path, tmp_path: Path) -> None:
    def backbone() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))

    info = checkpoint_info(architecture="mine")
    checkpoint, target = tmp_path / "model.safetensors", tmp_path / "model.onnx"
    save_checkpoint(checkpoint, randomise(build_model(info, backbone())).state_dict(), info)
    reduced = Reduced("fp16", pictures=PICTURES)
    export_reduced(export.formats.table.ONNX, checkpoint, target, project_root / "examples", reduced, backbone())
    assert {item.key: item.value for item in onnx.load(target).metadata_props}[PRECISION_KEY] == "fp16"


@pytest.mark.usefixtures("measured", "captured_once")
@pytest.mark.parametrize("factor", [0.0, float("inf")])
def test_a_gradient_that_underflowed_or_overflowed_is_found(
    project_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    exported: Exported,
    factor: float,
) -> None:
    """Every answer is the same, but the gradient is wrong."""
    spoilt = [onnx.helper.make_node("Mul", ["true_self_gradient", "factor"], ["self_gradient"])]
    model = replace_value(exported.model(), "self_gradient", spoilt, factor=np.array(factor, np.float32))
    monkeypatch.setattr(export.formats.table, "to_onnx", lambda *_: model)
    arguments = command(exported.checkpoint, project_root, tmp_path / "model.onnx", "--precision", "fp16", "--onnx")
    assert main(arguments) == 1
    captured = capsys.readouterr()
    marked = [line.split()[:2] for line in captured.out.splitlines() if line.endswith("MISMATCH")]
    assert [line for line in marked if line[1] == "self_gradient"] == [
        ["1", "self_gradient"],
        ["4", "self_gradient"],
        ["7", "self_gradient"],
    ]
    assert "differ from float32's by more than fp16 explains" in captured.err
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
@pytest.mark.usefixtures("measured", "captured_once")
def test_bf16_torchscript(checkpoint: Path, project_root: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.pt"
    assert main(command(checkpoint, project_root, target, "--precision", "bf16", "--torchscript")) == 0
    extra = {PRECISION_KEY: "", AGREEMENT_KEY: "", "output_names": ""}
    logits, *_ = torch.jit.load(target, _extra_files=extra)(torch.rand(3, 3, 32, 32))
    assert logits.dtype == torch.float32
    assert all(extra.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--precision", "bf16", "--onnx"),
            "CPU provider has no bfloat16 convolution: bf16 needs --openvino or --torchscript or --aot",
        ),
        (("--precision", "fp16", "--openvino"), "not at hand to check it on: fp16 needs --onnx or --torchscript"),
        (("--precision", "fp16", "--aot"), "float32 and bfloat16 only: fp16 needs --onnx or --torchscript"),
        (("--precision", "fp16", "--agreement-pictures", "101", "--onnx"), "100 pictures, but 101 are needed"),
    ],
)
def test_what_cannot_be_is_refused(
    checkpoint: Path,
    project_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    assert main(command(checkpoint, project_root, tmp_path / "model", *options)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--precision", "fp16"), "name their folder with --pictures"),
        (("--precision", "fp16", "--agreement-pictures", "27"), "27 is too few pictures; at least 28"),
        (("--min-agreement", "0.9"), "no effect with --precision fp32"),
        (("--precision", "int8-first-pass"), "unknown value 'int8-first-pass'"),
        (("--precision", "fp16", "--min-agreement", "99"), "is not a share between 0 and 1"),
    ],
)
def test_flags_that_make_no_sense(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--ckpt", str(checkpoint), "--onnx", *options])
    assert message in capsys.readouterr().err
