"""torchvision's networks become timm's of equal logits, or are refused because there is none."""

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.needs_timm import NEEDS_TIMM
from tests.training.foreign.references import Normalised, lively
from training.checkpoint import load_checkpoint
from training.convert.command import main
from training.foreign import guessing
from training.foreign.errors import WeightsError
from training.foreign.guessing import ANY_CLASSES, guess_architecture, state_of
from training.foreign.matching import match
from training.foreign.spellings import refuse_other_networks
from training.foreign.torchvision import TORCHVISION

models = pytest.importorskip("torchvision.models")

CLASSES = "ant,bee,cat,dog,elk"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

SAME = {
    **{f"vgg{depth}{norm}": f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")},
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "vit_l_16": "vit_large_patch16_224",
    "vit_l_32": "vit_large_patch32_224",
    "vit_h_14": "vit_huge_patch14_224",
    **{f"convnext_{size}": f"convnext_{size}" for size in ("tiny", "small", "base", "large")},
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_s": "swin_small_patch4_window7_224",
    "swin_b": "swin_base_patch4_window7_224",
    **{f"efficientnet_b{number}": f"efficientnet_b{number}" for number in range(8)},
    **{f"efficientnet_v2_{size}": f"efficientnetv2_{size}" for size in "sml"},
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    **{name: name for name in ("resnet34", "resnet50", "wide_resnet50_2", "resnext50_32x4d", "densenet169")},
}
"""Names of torchvision with those of timm."""

NARROW: dict[str, dict[str, Any]] = {
    **{name: {"mlp_ratio": 64 / 4096} for name in ("vgg11", "vgg11_bn")},
    "vit_base_patch32_224": {"embed_dim": 96},
    "convnext_tiny": {"dims": (24, 48, 96, 192)},
    "swin_tiny_patch4_window7_224": {"embed_dim": 24},
}
"""Options of timm's networks that leave them their depth and a fraction of their weights. Those of a VGG alone,
initialised, written, hashed and read several times, take ten seconds."""


def narrow_network(name: str) -> nn.Module:
    """Return a network of torchvision, as narrow as timm's are made by NARROW."""
    if name == "vit_b_32":
        return models.VisionTransformer(224, 32, 12, 12, hidden_dim=96, mlp_dim=384, num_classes=5)
    if name == "convnext_tiny":
        setting = models.convnext.CNBlockConfig
        blocks = [setting(24, 48, 3), setting(48, 96, 3), setting(96, 192, 9), setting(192, None, 3)]
        return models.ConvNeXt(blocks, num_classes=5)
    if name == "swin_t":
        return models.SwinTransformer([4, 4], 24, [2, 2, 6, 2], [3, 6, 12, 24], [7, 7], num_classes=5)
    return getattr(models, name)(num_classes=5)


class NarrowLinear(nn.Linear):
    """A layer of torchvision's VGGs, with 64 features between the first two instead of 4096."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(64 if inputs == outputs else inputs, 64 if inputs == 512 * 7 * 7 else outputs)


STATE, NARROW_STATE = functools.cache(state_of), functools.cache(state_of)
"""Networks to compare shapes with, each built once: as they are, and made by NARROW."""


def is_narrow(arch: str) -> bool:
    return arch.removeprefix("timm:") in NARROW


@pytest.fixture(autouse=True)
def built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guess takes its networks from STATE."""
    monkeypatch.setattr(guessing, "state_of", STATE)


@pytest.fixture
def narrow(built_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of timm are narrow, and the hidden layers of torchvision's VGG."""
    timm = pytest.importorskip("timm")
    create = timm.create_model

    def create_narrow(name: str, **options: Any) -> nn.Module:
        return create(name, **NARROW.get(name, {}), **options)

    monkeypatch.setattr(timm, "create_model", create_narrow)
    monkeypatch.setattr(models.vgg, "nn", SimpleNamespace(**{**vars(nn), "Linear": NarrowLinear}))
    monkeypatch.setattr(
        guessing, "state_of", lambda arch, classes: (NARROW_STATE if is_narrow(arch) else STATE)(arch, classes)
    )


@NEEDS_TIMM
@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("name", "side"),
    [
        pytest.param("vgg11_bn", 64, marks=pytest.mark.thorough),
        pytest.param("vit_b_32", 224, marks=pytest.mark.thorough),
        pytest.param("convnext_tiny", 64, marks=pytest.mark.thorough),
        pytest.param("swin_t", 224, marks=pytest.mark.thorough),
        ("efficientnet_b0", 64),
        pytest.param("efficientnet_v2_s", 64, marks=pytest.mark.thorough),
        pytest.param("mobilenet_v2", 64, marks=pytest.mark.thorough),
        ("mobilenet_v3_large", 64),
        pytest.param("mobilenet_v3_small", 64, marks=pytest.mark.thorough),
    ],
)
def test_the_logits_are_equal(name: str, side: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    reference = lively(narrow_network(name))
    with torch.no_grad():
        for key, parameter in reference.named_parameters():
            if key.endswith(("layer_scale", "relative_position_bias_table", "class_token")):
                parameter.normal_(0, 0.5)  # they start near zero, where nothing would be seen of them
            elif parameter.ndim == 2:
                parameter.normal_(0, parameter.shape[1] ** -0.5)  # drawn small, attention would hardly be seen
            elif key.endswith("bias") and "norm" not in key:
                parameter.add_(0.1 * torch.randn_like(parameter))
    torch.save(reference.state_dict(), tmp_path / "theirs.pth")
    out = tmp_path / "model.safetensors"
    given = ["--weights", str(tmp_path / "theirs.pth"), "--classes", CLASSES, "--out", str(out)]
    assert main([*given, f"--image-size={side}"]) == 0
    printed = capsys.readouterr().out
    assert f"took it for timm:{SAME[name]}, by its names and shapes" in printed
    assert "0.485,0.456,0.406 and 0.229,0.224,0.225 (torchvision's)" in printed
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = Normalised(reference, MEAN, STD).eval()(images)
        found = load_checkpoint(out)[0](images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert expected.std() > 0.01, "the reference tells pictures apart"


@pytest.mark.thorough
@NEEDS_TIMM
def test_every_network_with_a_counterpart_fits_it_to_the_last_tensor() -> None:
    assert set(TORCHVISION) <= set(SAME.values())
    for name, ours in SAME.items():
        with torch.device("meta"):
            theirs = getattr(models, name)(num_classes=ANY_CLASSES).state_dict()
        fit = match(theirs, f"timm:{ours}", STATE(f"timm:{ours}", ANY_CLASSES))
        assert not fit.problems, (name, fit.lines()[:3])


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("alexnet", "AlexNet"),
        ("squeezenet1_0", "SqueezeNet"),
        ("squeezenet1_1", "SqueezeNet"),
        ("shufflenet_v2_x0_5", "ShuffleNetV2"),
        ("googlenet", "GoogLeNet"),
        ("swin_v2_t", "Swin V2"),
        ("maxvit_t", "MaxViT"),
    ],
)
def test_a_network_without_counterpart_is_refused(name: str, title: str) -> None:
    more = {"init_weights": False} if name == "googlenet" else {"input_size": (224, 224)} if name == "maxvit_t" else {}
    with torch.device("meta"):
        state = getattr(models, name)(**more).state_dict()
    with pytest.raises(WeightsError, match=f"torchvision's {title}, and timm has no network that computes the same"):
        refuse_other_networks(state)


@NEEDS_TIMM
@pytest.mark.usefixtures("narrow")
def test_a_vgg_on_larger_pictures_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(models.vgg11(num_classes=3).state_dict(), tmp_path / "x.pth")
    given = ["--weights", str(tmp_path / "x.pth"), "--classes", "a,b,c", "--out", str(tmp_path / "out")]
    assert main([*given, "--image-size=256"]) == 2
    assert "something else on pictures of more than 224 pixels a side; pass --image-size 224" in capsys.readouterr().err


@NEEDS_TIMM
@pytest.mark.usefixtures("narrow")
def test_a_convolutional_network_of_timm_is_guessed_by_its_own_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import timm

    torch.manual_seed(0)
    reference = timm.create_model("convnext_tiny", num_classes=5).eval()
    with torch.no_grad():
        for key, parameter in reference.named_parameters():
            if key.endswith(("gamma", "bias")):
                parameter.normal_(0, 0.5)  # they start near zero, where nothing would be seen of them
    assert "stages.0.blocks.0.conv_dw.weight" in reference.state_dict(), "timm's own name, and not torchvision's"
    torch.save(reference.state_dict(), tmp_path / "theirs.pth")
    out = tmp_path / "model.safetensors"
    given = ["--weights", str(tmp_path / "theirs.pth"), "--classes", CLASSES, "--out", str(out)]
    assert main([*given, "--image-size=64"]) == 0
    printed = capsys.readouterr().out
    assert "took it for timm:convnext_tiny, by its names and shapes" in printed
    assert "0.485,0.456,0.406 and 0.229,0.224,0.225 (timm's for this network)" in printed
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = Normalised(reference, MEAN, STD).eval()(images)
        torch.testing.assert_close(load_checkpoint(out)[0](images), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.01, "the reference tells pictures apart"


@pytest.mark.thorough
@NEEDS_TIMM
def test_timms_names_that_several_networks_have_are_not_guessed() -> None:
    import timm

    for name, others in (
        ("efficientnet_b0", "timm:efficientnet_b0 or timm:tf_efficientnet_b0"),
        ("deit_tiny_patch16_224", "timm:vit_tiny_patch16_224 or timm:deit_tiny_patch16_224"),
    ):
        with torch.device("meta"):
            state = timm.create_model(name, num_classes=3).state_dict()
        with pytest.raises(WeightsError, match=f"weights of {others}, which differ in no tensor"):
            guess_architecture(state)
    with torch.device("meta"):
        state = timm.create_model("vgg11", num_classes=3).state_dict()
    assert guess_architecture(state) == "timm:vgg11"
