import importlib.util
import time

import numpy as np
import onnx
import onnxruntime
import pytest

from sgn_serve.common.openvino_runtime import import_openvino
from sgn_serve.inference.classifier import Classifier, needs_second_pass, softmax
from sgn_serve.inference.engines import EngineError, resolve_providers
from sgn_serve.inference.graph import GraphError, read_graph
from sgn_serve.settings import BUNDLED_MODEL
from tests.sgn_serve.tiny_graph import SHIFT, save_tiny_graph


@pytest.fixture
def images():
    return np.random.default_rng(0).random((5, 3, 8, 8), np.float32)


def classifier(path, **options):
    return Classifier(read_graph(path), ("cpu",), threads=1, **options)


def test_block_on_and_off(tmp_path, images):
    network = classifier(save_tiny_graph(tmp_path / "m.onnx"))
    plain = 10 * images.mean(axis=(2, 3))
    on = network.logits(images, self_gradient=True)
    off = network.logits(images, self_gradient=False)
    np.testing.assert_allclose(off.plain, plain, atol=1e-5)
    assert off.corrected is None
    assert np.array_equal(on.plain, off.plain), "with the block on, the block-off answer comes for nothing"
    np.testing.assert_allclose(on.corrected, plain + 10 * SHIFT, atol=1e-5)


def test_answers_do_not_depend_on_the_batch(tmp_path, images):
    network = classifier(save_tiny_graph(tmp_path / "m.onnx"))
    together = network.logits(images, self_gradient=True).corrected
    alone = np.concatenate([network.logits(image[None], self_gradient=True).corrected for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_a_network_without_a_block_cannot_switch_it_on(tmp_path, images):
    network = classifier(save_tiny_graph(tmp_path / "m.onnx", block=False))
    assert network.logits(images, self_gradient=False).corrected is None
    with pytest.raises(ValueError, match="no self-gradient block"):
        network.logits(images, self_gradient=True)


def test_the_bundled_graph_is_ready_in_half_a_second():
    # Processor time: the machine may be busy with other things.
    start = time.process_time()
    classifier(BUNDLED_MODEL)
    assert time.process_time() - start < 0.5


def test_class_names_must_fit_the_logits(tmp_path):
    path = save_tiny_graph(tmp_path / "m.onnx", class_names=("red", "green"))
    with pytest.raises(GraphError, match="2 class names"):
        classifier(path)


def test_the_image_size_must_fit_the_graph(tmp_path):
    path = save_tiny_graph(tmp_path / "m.onnx", checkpoint={"image_size": [16, 16]})
    with pytest.raises(GraphError, match="its input image is batchx3x8x8, but its metadata say batchx3x16x16"):
        classifier(path)


def newer_opset(model):
    model.opset_import[0].version = 99


def newer_format(model):
    model.ir_version = 99


def unknown_operator(model):
    model.graph.node[0].op_type = "Abacus"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            newer_opset,
            r"\(its opset is 99, and ONNX Runtime \S+ knows them up to \d+\); upgrade onnxruntime, or export",
        ),
        (newer_format, r"FAIL : Unsupported model IR version: 99, max supported .*\); upgrade onnxruntime, or export"),
        (unknown_operator, r"No Op registered for Abacus with domain_version of \d+\); export it again"),
    ],
    ids=["opset", "format", "operator"],
)
def test_a_graph_that_onnx_runtime_refuses_says_why_and_what_to_do(tmp_path, spoil, message):
    path = save_tiny_graph(tmp_path / "m.onnx")
    model = onnx.load(path)
    spoil(model)
    onnx.save(model, path)
    with pytest.raises(GraphError, match=message) as raised:
        classifier(path)
    assert str(raised.value).startswith(f"{path}: ONNX Runtime cannot run it (")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["cpu", "CPU", "CPUExecutionProvider"])
def test_providers_go_by_short_or_long_names(name):
    assert resolve_providers((name,)) == ["CPUExecutionProvider"]


def test_a_provider_that_is_not_there_is_an_error():
    with pytest.raises(EngineError, match=r"SGN_PROVIDERS asks for abacus.*it has .*cpu"):
        resolve_providers(("abacus", "cpu"))


class CpuOnlySession(onnxruntime.InferenceSession):
    """Behaves like ONNX Runtime where CUDA is built in but cannot start: it says so, and goes on with the CPU."""

    def __init__(self, model, options, providers):
        super().__init__(model, options, providers=["CPUExecutionProvider"])


@pytest.fixture
def cuda_that_does_not_start(monkeypatch):
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", CpuOnlySession)


@pytest.mark.usefixtures("cuda_that_does_not_start")
def test_a_provider_that_was_asked_for_never_falls_back(tmp_path):
    graph = read_graph(save_tiny_graph(tmp_path / "m.onnx"))
    with pytest.raises(EngineError, match="SGN_PROVIDERS asks for CUDAExecutionProvider"):
        Classifier(graph, ("cuda",))


@pytest.mark.usefixtures("cuda_that_does_not_start")
def test_without_being_asked_cuda_falls_back_and_says_so(tmp_path, images, caplog):
    network = Classifier(read_graph(save_tiny_graph(tmp_path / "m.onnx")))
    assert network.providers == ["CPUExecutionProvider"]
    assert "CUDAExecutionProvider could not be started" in caplog.text
    assert network.logits(images, self_gradient=True).corrected is not None


needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed: pip install -e '.[openvino]'"
)


@needs_openvino
def test_openvino_answers_what_onnx_runtime_does(tmp_path, images):
    path = save_tiny_graph(tmp_path / "m.onnx")
    here = Classifier(read_graph(path), threads=1, engine="openvino")
    assert here.runs_on == "OpenVINO"
    for block in (True, False):
        expected, found = classifier(path).logits(images, block), here.logits(images, block)
        np.testing.assert_allclose(found.plain, expected.plain, atol=1e-5)
        if block:
            assert expected.corrected is not None
            assert found.corrected is not None
            np.testing.assert_allclose(found.corrected, expected.corrected, atol=1e-5)
    again = here.logits(images[:2], self_gradient=False)
    np.testing.assert_array_equal(here.logits(images[3:], self_gradient=False).plain.shape, (2, 3))
    np.testing.assert_allclose(again.plain, found.plain[:2], atol=1e-5)  # not overwritten by the next


def test_providers_are_not_for_openvino(tmp_path):
    with pytest.raises(EngineError, match="SGN_PROVIDERS=cpu is for ONNX Runtime"):
        Classifier(read_graph(save_tiny_graph(tmp_path / "m.onnx")), ("cpu",), engine="openvino")


def with_precision(path, precision):
    model = onnx.load(path)
    model.metadata_props.add(key="precision", value=precision)
    onnx.save(model, path)
    return read_graph(path)


@needs_openvino
def test_onnx_runtime_does_not_serve_bf16_in_float32(tmp_path):
    graph = with_precision(save_tiny_graph(tmp_path / "m.onnx"), "bf16")
    with pytest.raises(EngineError, match=r"m\.onnx was exported for bf16.*set SGN_ENGINE=openvino"):
        Classifier(graph, ("cpu",))


def test_openvino_computes_in_the_precision_of_the_graph_or_says_why_not(tmp_path):
    graph = with_precision(save_tiny_graph(tmp_path / "m.onnx"), "bf16")
    if "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert Classifier(graph, engine="openvino").description.precision == "bf16"
    else:
        with pytest.raises(EngineError, match=r"but OpenVINO computes in .* export it without --precision"):
            Classifier(graph, engine="openvino")
    other = with_precision(save_tiny_graph(tmp_path / "m.onnx"), "fp16")
    with pytest.raises(EngineError, match="float32 and bf16, and this one is fp16"):
        Classifier(other, engine="openvino")


def test_openvino_where_it_is_missing_is_an_error_that_names_the_fix(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"not installed; .* pip install -e '\.\[openvino\]'"):
        Classifier(read_graph(save_tiny_graph(tmp_path / "m.onnx")), engine="openvino")


def test_softmax_of_large_logits_is_finite():
    np.testing.assert_allclose(softmax(np.array([1000, 1000], np.float32)), [0.5, 0.5])


def test_second_pass_is_for_answers_whose_two_largest_probabilities_are_near():
    logits = np.log(np.array([[0.5, 0.3, 0.2], [0.2, 0.45, 0.35], [1, 1e-30, 1e-30]], np.float32))
    assert needs_second_pass(logits, 0.15).tolist() == [False, True, False]
    assert needs_second_pass(logits, 0.25).tolist() == [True, True, False]
    assert needs_second_pass(logits, 0.0).tolist() == [False, False, False]
    assert needs_second_pass(np.array([[np.nan, 1]], np.float32), 0.1).tolist() == [True]
    assert needs_second_pass(np.array([[3.0]], np.float32), 0.9).tolist() == [False]
