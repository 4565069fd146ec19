"""Graphs in reduced precision: how they are made, compared with float32, and refused."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import export.formats.table
import export.reduced
from export.capture.graph import CaptureError, capture, passes_of
from export.check.agreement import Agreement, measure_agreement
from export.check.pictures import PicturesError, pictures_under, structured_pictures
from export.check.verify import PICTURES, onnx_run
from export.command import main
from export.formats.onnx import to_onnx
from export.onnx_passes.quantization import quantize_first_pass
from export.reduced import AGREEMENT_KEY, ERRORS_KEY, Reduced, export_reduced
from export.rewrite import rewrite
from sgn_serve.graph_format import PRECISION_KEY
from tests.export.check.test_verify import replace_value
from tests.export.conftest import Exported
from tests.export.networks import IMAGE_SIZE, checkpoint_info, network_around, randomise
from training.checkpoint import build_model, save_checkpoint

OUTPUTS = ("logits", "plain_logits", "self_gradient")


def test_int8_is_the_first_pass_alone(exported: Exported) -> None:
    pictures = structured_pictures(32, 3, IMAGE_SIZE, seed=8)
    model = quantize_first_pass(exported.model(), pictures)
    onnx.checker.check_model(model)
    assert {item.key for item in model.metadata_props} == {item.key for item in exported.model().metadata_props}

    makers = {output: node for node in model.graph.node for output in node.output}
    eight_bit = [
        node
        for node in model.graph.node
        if node.op_type == "Conv" and makers.get(node.input[0], node).op_type == "DequantizeLinear"
    ]
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    # wrn-10-1 has 9 convolutions. In the first pass all of them but the image's, and on the way back all but the
    # image's and the four strided ones, which stay transposed; of the second pass and the block's five none.
    assert len(convolutions) == 9 + 4 + 5 + 9
    assert len(eight_bit) == 8 + 4
    zeros = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    found = [zeros[makers[node.input[0]].input[2]] for node in eight_bit]
    assert {zero.dtype.name for zero in found} == {"uint8"}
    assert sorted(int(zero) for zero in found) == [0] * 8 + [128] * 4  # what ReLUs make, and gradients

    before, after = onnx_run(exported.graph, OUTPUTS)(pictures), onnx_run(model.SerializeToString(), OUTPUTS)(pictures)
    # An untrained network's block turns small differences into large ones; a wrong gradient is off by 1 and more.
    for output, tolerance in zip(OUTPUTS, (0.6, 0.1, 0.6), strict=True):
        error = (after[output] - before[output]).norm() / before[output].norm()
        assert 1e-5 < error < tolerance, output


def test_a_network_without_block_has_nothing_to_quantize(exported: Exported) -> None:
    model = exported.model()
    del model.graph.output[:]
    with pytest.raises(CaptureError, match="leave --precision out"):
        quantize_first_pass(model, structured_pictures(2, 3, IMAGE_SIZE))


def test_a_network_of_matrix_products_has_nothing_to_quantize() -> None:
    network = network_around(
        nn.Sequential(
            nn.Conv2d(3, 8, 4, stride=4), nn.Flatten(2), nn.Linear(16, 16), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)
        )
    )
    graph = capture(passes_of(network), (16, 16))
    rewrite(graph)
    with pytest.raises(CaptureError, match=r"no convolution but the image's own, .*: leave --precision out"):
        quantize_first_pass(to_onnx(graph, {}), structured_pictures(2, 3, (16, 16)))


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
    """Spares the attack; `share` is what is found."""
    found = {"share": 1.0}

    def measure(run: object, network: object, pictures: Tensor, eps: float) -> tuple[Agreement, ...]:
        return (Agreement("logits", len(pictures), 1.0, found["share"], "an attack"),)

    monkeypatch.setattr(export.reduced, "measure_agreement", measure)
    return found


def command(checkpoint: Path, project_root: Path, target: Path, *options: str) -> list[str]:
    pictures = str(project_root / "examples")
    return ["--ckpt", str(checkpoint), "--pictures", pictures, "--agreement-pictures", "100", *options, str(target)]


def test_fp16_is_written_with_its_agreement(
    checkpoint: Path,
    project_root: Path,
    tmp_path: Path,
    measured: dict[str, float],
    capsys: pytest.CaptureFixture[str],
) -> None:
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


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("factor", [0.0, float("inf")])
def test_a_gradient_that_underflowed_or_overflowed_is_found(
    checkpoint: Path,
    project_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    exported: Exported,
    factor: float,
) -> None:
    """Though every answer is the same."""
    spoilt = [onnx.helper.make_node("Mul", ["true_self_gradient", "factor"], ["self_gradient"])]
    model = replace_value(exported.model(), "self_gradient", spoilt, factor=np.array(factor, np.float32))
    monkeypatch.setattr(export.formats.table, "to_onnx", lambda *_: model)
    assert main(command(checkpoint, project_root, tmp_path / "model.onnx", "--precision", "fp16", "--onnx")) == 1
    captured = capsys.readouterr()
    marked = [line.split()[:2] for line in captured.out.splitlines() if line.endswith("MISMATCH")]
    assert [line for line in marked if line[1] == "self_gradient"] == [
        ["1", "self_gradient"],
        ["4", "self_gradient"],
        ["7", "self_gradient"],
    ]
    assert "differ from float32's by more than fp16 explains" in captured.err
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("measured")
def test_ranges_come_from_other_pictures_than_are_compared(
    checkpoint: Path, project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.reduced, "CALIBRATION_PICTURES", 20)
    seen: dict[str, Tensor] = {}

    def quantize(model: onnx.ModelProto, pictures: Tensor) -> onnx.ModelProto:
        seen["ranges"] = pictures
        return model

    def measure(run: object, network: object, pictures: Tensor, eps: float) -> tuple[Agreement, ...]:
        seen["compared"] = pictures
        return (Agreement("logits", len(pictures), 1.0, 1.0, "an attack"),)

    monkeypatch.setattr(export.reduced, "quantize_first_pass", quantize)
    monkeypatch.setattr(export.reduced, "measure_agreement", measure)
    options = ("--precision", "int8-first-pass", "--agreement-pictures", "80", "--onnx")
    arguments = command(checkpoint, project_root, tmp_path / "model.onnx", *options)
    assert main(arguments) == 0
    assert (len(seen["ranges"]), len(seen["compared"])) == (20, 80)
    assert len(torch.cat([seen["ranges"], seen["compared"]]).unique(dim=0)) == 100


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
@pytest.mark.usefixtures("measured")
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
        (("--precision", "int8-first-pass", "--torchscript"), "int8-first-pass needs --onnx"),
        (("--precision", "int8-first-pass", "--openvino"), "int8-first-pass needs --onnx"),
        (("--precision", "fp16", "--aot"), "float32 and bfloat16 only: fp16 needs --onnx or --torchscript"),
        (("--precision", "int8-first-pass", "--onnx"), "100 pictures, but 228 are needed"),
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
        (("--precision", "fp16", "--min-agreement", "99"), "is not a share between 0 and 1"),
    ],
)
def test_flags_that_make_no_sense(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--ckpt", str(checkpoint), "--onnx", *options])
    assert message in capsys.readouterr().err
