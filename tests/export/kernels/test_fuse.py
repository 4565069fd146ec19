"""The block's kernel in exported graphs: the kernel, the node's body and the graph without the node agree."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import fx, nn

import export.exporter
from export.capture.graph import capture
from export.command import main
from export.errors import CaptureError
from export.kernels import operators
from export.kernels.fuse import fuse_block
from export.network_passes import passes_of
from sgn_serve.inference.classifier import Classifier
from sgn_serve.inference.graph import read_graph
from tests.export.conftest import Exported
from tests.export.networks import IMAGE_SIZE, network_around
from tests.export.processes import start_export
from tests.export.stage_lines import lines_but_stages
from training.networks.names import GradientScaling
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork


def small_network(gradient_scaling: GradientScaling = "rms", scale: float = 1.0) -> SelfGradientNetwork:
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    network = network_around(backbone)
    network.block = SelfGradientBlock(scale=scale, gradient_scaling=gradient_scaling)
    return network.eval()


def fused_nodes(graph: fx.GraphModule) -> list[fx.Node]:
    return graph.graph.find_nodes(op="call_function", target=torch.ops.sgn.self_gradient_block.default)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("gradient_scaling", "scale"), [("rms", 8 / 255), ("none", 1.0)])
def test_a_captured_graph_computes_the_same_with_the_operator(gradient_scaling: GradientScaling, scale: float) -> None:
    network = small_network(gradient_scaling, scale)
    graph = capture(passes_of(network), IMAGE_SIZE)
    image = torch.rand(3, 3, *IMAGE_SIZE)
    with torch.no_grad():
        before = graph(image)
        fuse_block(graph, network.block)
        after = graph(image)

    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    assert len(fused_nodes(graph)) == 1
    assert not [node for node in graph.graph.nodes if "convolutions" in str(node.target)]
    assert not graph.graph.find_nodes(op="call_function", target=torch.ops.aten.tanh.default)


@pytest.mark.usefixtures("kernels", "captured_once")
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_torchscript_with_the_operator(
    checkpoint: Path, exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fused.pt"
    assert main(["--ckpt", str(checkpoint), "--torchscript", str(path), "--fused"]) == 0
    *checks, advice, _, figures = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in checks[2:]] == [
        [batch, output] for batch in ("1", "4", "7") for output in ("logits", "plain_logits", "self_gradient")
    ]
    assert advice == f"before it is loaded: torch.ops.load_library({str(operators.library_path())!r})"
    assert figures.startswith("no figures go with it")
    loaded = torch.jit.load(path)
    assert str(loaded.graph).count("sgn::self_gradient_block") == 1
    images = torch.rand(3, 3, *IMAGE_SIZE)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images)[0], exported.network(images), rtol=1e-4, atol=1e-3)


def test_torchscript_with_the_operator_needs_the_kernels(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(operators, "BUILD_FOLDER", tmp_path / "none")
    monkeypatch.setattr(operators, "_loaded", [])
    assert main(["--ckpt", str(checkpoint), "--torchscript", str(tmp_path / "fused.pt"), "--fused"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the fused kernels are not built for PyTorch")
    assert line.endswith("run `make kernels`")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("kernels")
def test_what_cannot_be_fused_is_refused() -> None:
    network = small_network()
    graph = capture(passes_of(network), IMAGE_SIZE)
    with pytest.raises(CaptureError, match="has no self-gradient block to fuse"):
        fuse_block(graph, None)
    with pytest.raises(CaptureError, match="up to 4 channels and 64 layers, not 5 and 5"):
        fuse_block(graph, SelfGradientBlock(channels=5))
    with pytest.raises(CaptureError, match="not in the graph in the form"):
        fuse_block(graph, SelfGradientBlock(scale=0.25, gradient_scaling="rms"))  # another scale than the graph's
    with pytest.raises(CaptureError, match="not in the graph in the form"):
        fuse_block(graph, SelfGradientBlock(layers=6, gradient_scaling="rms"))
    assert fused_nodes(graph) == []


@pytest.mark.usefixtures("kernels", "captured_once")
def test_a_library_that_onnx_runtime_cannot_load_is_one_line(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    library = tmp_path / "libsgn_onnxruntime.so"
    library.write_bytes(b"half a library")
    monkeypatch.setattr(export.exporter, "library_path", lambda: library)
    assert main(["--ckpt", str(checkpoint), "--onnx", str(tmp_path / "fused.onnx"), "--fused"]) == 1
    (line,) = lines_but_stages(capsys.readouterr().err)
    assert line.startswith("error: ONNX Runtime cannot load the graph: ")
    assert list(tmp_path.iterdir()) == [library]


@pytest.fixture(scope="module")
def fused_file(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported by the command line on a machine without the kernels."""
    path = tmp_path_factory.mktemp("fused") / "model.onnx"
    process = start_export(
        ["--ckpt", str(checkpoint), "--onnx", str(path), "--fused"], path.parent, path.parent / "none"
    )
    process.join(timeout=300)
    assert process.exitcode == 0, (path.parent / "error.txt").read_text()
    told = (path.parent / "output.txt").read_text()
    assert "checked without the kernels, which are not built: make kernels ORT_INCLUDE_DIR=..." in told
    return path


def answers(path: Path, images: np.ndarray, library: Path | None, folder: Path) -> tuple[list[np.ndarray], list[str]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    if library is not None:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs = session.run(["logits", "plain_logits", "self_gradient"], {"image": images})
    events = json.loads(Path(session.end_profiling()).read_text())
    return outputs, [event["args"]["op_name"] for event in events if "op_name" in event.get("args", {})]


def test_the_file_holds_one_node_with_its_body(fused_file: Path) -> None:
    model = onnx.load(fused_file)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node if node.domain == "ai.sgn"] == ["SelfGradientBlock"]
    assert "Tanh" not in {node.op_type for node in model.graph.node}
    assert [function.name for function in model.functions] == ["SelfGradientBlock"]
    assert [item.name for item in model.graph.initializer if ".block." in item.name] == []


@pytest.mark.parametrize("with_library", [False, True])
def test_the_answers_are_those_of_the_graph_without_it(
    request: pytest.FixtureRequest, with_library: bool, fused_file: Path, exported: Exported, tmp_path: Path
) -> None:
    library = request.getfixturevalue("onnx_library") if with_library else None
    images = np.random.default_rng(0).random((5, 3, *IMAGE_SIZE), dtype=np.float32)
    expected, _ = answers(exported.graph, images, None, tmp_path)
    found, ran = answers(fused_file, images, library, tmp_path)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert ran.count("SelfGradientBlock") == int(with_library)


def test_the_service_reads_it(fused_file: Path, exported: Exported) -> None:
    images = np.random.default_rng(1).random((2, 3, *IMAGE_SIZE), dtype=np.float32)
    fused, plain = (
        Classifier(read_graph(path), ("cpu",), 1).logits(images, self_gradient=True)
        for path in (fused_file, exported.graph)
    )
    assert fused.corrected is not None
    assert plain.corrected is not None
    np.testing.assert_allclose(fused.corrected, plain.corrected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fused.plain, plain.plain, rtol=1e-4, atol=1e-5)
