"""ReLU6, hard-swish and hard-sigmoid in an exported graph: the same answers, and no choice between values."""

import math
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from export.formats.table import ONNX, Format
from sgn_serve.common.graph_format import LOGITS, PLAIN_LOGITS, SELF_GRADIENT
from tests.export.engines import FORMATS, IMAGE_SIZE, InEveryEngine


class SmallMobileNet(nn.Module):
    """The activations of MobileNetV2 and V3, a depthwise convolution, and squeeze-and-excite, in 16 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.wide = nn.Sequential(nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6(inplace=True))
        self.depthwise = nn.Sequential(
            nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False), nn.BatchNorm2d(32), nn.Hardswish()
        )
        self.gate = nn.Sequential(nn.Conv2d(32, 8, 1), nn.ReLU(), nn.Conv2d(8, 32, 1), nn.Hardsigmoid())
        self.narrow = nn.Sequential(nn.Conv2d(32, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        wide = self.depthwise(self.wide(4 * features))
        gated = wide * self.gate(wide.mean((2, 3), keepdim=True))
        return self.classifier(features + self.narrow(gated))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> InEveryEngine:
    torch.manual_seed(0)
    return InEveryEngine(SmallMobileNet(), tmp_path_factory.mktemp("bounded"))


@pytest.mark.thorough
@pytest.mark.parametrize("file_format", FORMATS, ids=lambda file_format: file_format.name)
def test_the_answers_are_pytorchs(exported: InEveryEngine, file_format: Format) -> None:
    images = torch.rand(5, 3, *IMAGE_SIZE, generator=torch.Generator().manual_seed(1))
    expected, found = exported.outputs(file_format, images)
    for name, want in expected.items():
        assert float((found[name] - want).norm() / want.norm()) < 1e-5, name


def test_a_picture_with_nan_has_a_self_gradient_of_nan(exported: InEveryEngine) -> None:
    images = torch.rand(2, 3, *IMAGE_SIZE)
    images[1] = math.nan
    _, found = exported.outputs(ONNX, images)
    assert found.keys() == {LOGITS, PLAIN_LOGITS, SELF_GRADIENT}
    for output in found.values():
        assert output[0].isfinite().all()
        assert output[1].isnan().all()


def test_nothing_is_chosen_and_hard_swish_is_an_operator(exported: InEveryEngine) -> None:
    nodes = Counter(node.op_type for node in onnx.load(exported.file(ONNX)).graph.node)
    assert not nodes.keys() & {"Where", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Cast", "And", "Or"}
    assert nodes["HardSwish"] == 4


def test_feature_maps_stay_in_blocks(exported: InEveryEngine, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(exported.file(ONNX), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimised.onnx").graph
    makers = {name: node for node in graph.node for name in node.output}
    reordered = [makers[node.input[0]].op_type for node in graph.node if node.op_type == "ReorderOutput"]
    if not any(node.domain == "com.microsoft.nchwc" for node in graph.node):
        pytest.skip("this processor has no blocked layout")
    # Masks and slopes of feature maps meet the gradient in blocks. The gate and its two masks, a number a channel, do
    # not: a product that repeats one factor over the pixels has no blocked form.
    assert Counter(reordered)["HardSigmoid"] == 3
