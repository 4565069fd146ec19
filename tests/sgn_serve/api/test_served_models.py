"""The two names of a network, and what clients are told of each."""

import pytest

from sgn_serve.api.served_models import served_models
from sgn_serve.inference.classifier import ENGINE_NAMES
from sgn_serve.inference.graph import read_graph
from sgn_serve.records import EngineUsed
from sgn_serve.settings import Settings
from tests.sgn_serve.tiny_graph import save_tiny_graph


@pytest.mark.parametrize(
    ("block", "self_gradient", "outputs", "output"),
    [
        (True, True, ("logits", "plain_logits", "self_gradient"), "logits"),
        (True, False, ("logits", "plain_logits", "self_gradient"), "plain_logits"),
        (False, True, ("plain_logits",), "plain_logits"),
    ],
)
def test_the_second_name_has_one_output_which_is_the_default_of_the_other_routes(
    tmp_path, block, self_gradient, outputs, output
):
    description = read_graph(save_tiny_graph(tmp_path / "tiny.onnx", (4, 6), block)).description
    settings = Settings(model_name="x", self_gradient=self_gradient, max_images=3)
    whole, image = served_models(settings, description)
    assert (whole.name, whole.outputs, whole.datatype) == ("x", outputs, "FP32")
    assert (image.name, image.outputs, image.datatype) == ("x-image", (output,), "UINT8")
    for model in (whole, image):
        assert (model.picture_shape, model.numbers, model.max_pictures) == ((3, 4, 6), 72, 3)
        metadata, config = model.metadata(), model.config()
        assert metadata["inputs"][0]["shape"] == [-1, *config["input"][0]["dims"]] == [-1, 3, 4, 6]
        assert config["input"][0]["data_type"] == f"TYPE_{metadata['inputs'][0]['datatype']}"
        for told, configured in zip(metadata["outputs"], config["output"], strict=True):
            assert told["shape"] == [-1, *configured["dims"]]
            assert told["name"] == configured["name"]


@pytest.mark.parametrize(
    ("engine", "platform", "backend"),
    [("ONNX Runtime", "onnxruntime_onnx", "onnxruntime"), ("OpenVINO", "openvino", "openvino")],
)
def test_the_platform_is_that_of_the_engine(tmp_path, engine, platform, backend):
    assert engine in ENGINE_NAMES.values()
    used = EngineUsed(name=engine, providers=[], precision="float32", chosen="auto", reason="x")
    description = read_graph(save_tiny_graph(tmp_path / "tiny.onnx", (4, 6), True)).description
    for model in served_models(Settings(model_name="x"), description, used):
        assert (model.metadata()["platform"], model.config()["platform"]) == (platform, platform)
        assert model.config()["backend"] == backend
