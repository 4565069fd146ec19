"""Every construct of the documentation's table is exported, or refused in one line with layer, cause and cure."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from docs.generator.construct_modules import CLASSES, IMAGE_SIZE
from docs.generator.constructs import CONSTRUCTS, Construct
from export.check.verify import Verification, VerificationError
from export.errors import CaptureError
from export.exporter import export_onnx
from sgn_serve.common.graph_format import LOGITS, PLAIN_LOGITS, SELF_GRADIENT
from tests.training.checkpoints import tiny_info
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork

Export = Callable[[nn.Module], Verification]

WORST_ERROR = {LOGITS: 1e-5, PLAIN_LOGITS: 1e-5, SELF_GRADIENT: 1e-4}
"""Largest relative error of a picture, far under export's own bounds; up to 1e-6 was seen."""

EVERY_TIME = (
    "circular",
    "images resized inside",
    '"bicubic", antialias=True',
    "`AdaptiveMaxPool2d` of odd sizes",
    "`spectral_norm`",
    "in-place write to a slice",
    "in-place arithmetic on a view",
    "`scaled_dot_product_attention`",
    "`autograd.Function`",
    "lazy layers",
    "dict",
    "`sort(stable=True)`",
    "`InstanceNorm2d(track_running_stats=True)`",
)
"""Constructs for which export has rules of its own."""
QUICKEST = (
    "images resized inside",
    "`spectral_norm`",
    "`autograd.Function`",
    "lazy layers",
    "dict",
    "`sort(stable=True)`",
    "`InstanceNorm2d(track_running_stats=True)`",
)
"""Those of them that are exported in every run of the tests."""


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Export:
    """Return a function that exports a module without a checkpoint, since not all of them can be saved."""
    checkpoint, target = tmp_path / "model.safetensors", tmp_path / "model.onnx"
    checkpoint.touch()

    def run(backbone: nn.Module) -> Verification:
        network = SelfGradientNetwork(backbone, SelfGradientBlock(gradient_scaling="rms")).eval()
        info = tiny_info(image_size=IMAGE_SIZE, class_names=tuple("abcdefghij"[:CLASSES]))
        monkeypatch.setattr("export.exporter.load_network", lambda *_: (network, info))
        return export_onnx(checkpoint, target)

    return run


def constructs(exported: bool) -> list[object]:
    """Return the constructs as parameters. All exports take ten minutes, so few of them are tried without a mark."""
    return [
        pytest.param(
            item,
            id=re.sub(r"\W+", " ", item.name).strip(),
            marks=_marks(item),
        )
        for item in CONSTRUCTS
        if exported != bool(item.refusal)
    ]


def _marks(item: Construct) -> tuple[pytest.MarkDecorator, ...]:
    if item.refusal:
        return ()
    ruled = any(name in item.name for name in EVERY_TIME)
    return () if any(name in item.name for name in QUICKEST) else (pytest.mark.thorough if ruled else pytest.mark.slow,)


def sorts_stably() -> bool:
    """Whether PyTorch keeps equal values in order where it need not. With AVX2 or AVX-512 it does not."""
    values = torch.arange(IMAGE_SIZE[0] * IMAGE_SIZE[1]) % 7 / 7
    return torch.equal(values.sort().indices, values.sort(stable=True).indices)


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")  # users have such modules
@pytest.mark.filterwarnings("ignore:Using padding=.same.:UserWarning")
@pytest.mark.parametrize("construct", constructs(exported=True))
def test_ordinary_pytorch_is_exported(construct: Construct, export: Export) -> None:
    torch.manual_seed(0)
    for check in export(construct.build()).checks:
        assert check.worst_error <= WORST_ERROR[check.output], f"{check.output} at batch {check.batch}"


@pytest.mark.parametrize("construct", constructs(exported=False))
def test_a_refusal_names_layer_cause_and_cure(construct: Construct, export: Export, tmp_path: Path) -> None:
    if construct.name.startswith("`sort`") and sorts_stably():
        pytest.skip("PyTorch's sort keeps equal values in order on this processor")
    torch.manual_seed(0)
    with pytest.raises((CaptureError, VerificationError)) as raised:
        export(construct.build())
    message = str(raised.value)
    assert re.search(construct.refusal, message), message
    assert "\n" not in message
    assert construct.cause
    assert construct.cure
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_names_are_all_different() -> None:
    assert len({item.name for item in CONSTRUCTS}) == len(CONSTRUCTS)
