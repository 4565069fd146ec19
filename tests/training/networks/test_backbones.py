import sys
from typing import Any

import pytest
import torch

from tests.needs_timm import NEEDS_TIMM, backbones
from training.networks.backbones import build_backbone, strides_over_one_pixel
from training.networks.errors import ArchitectureError


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (40, 24)])
@pytest.mark.parametrize("arch", backbones("wrn-10-1", "preact-resnet-18", "timm:test_resnet", "timm:test_vit"))
def test_any_image_size_gives_logits(arch, size):
    if arch == "timm:test_vit":
        size = (32, 48)  # patches must divide it
    backbone = build_backbone(arch, 7, size)
    assert backbone.training
    assert backbone(torch.rand(2, 3, *size)).shape == (2, 7)


def test_preact_resnet_18_has_the_published_size():
    # The CIFAR-10 network of Rice et al. (2020): 11.17 million parameters
    parameters = sum(parameter.numel() for parameter in build_backbone("preact-resnet-18", 10).parameters())
    assert parameters == 11_172_170


def test_preact_resnet_18_ends_in_features_of_an_eighth_of_the_side():
    backbone: Any = build_backbone("preact-resnet-18", 10).eval()
    with torch.no_grad():
        assert backbone.blocks(backbone.stem(torch.rand(1, 3, 32, 32))).shape == (1, 512, 4, 4)


def refusal(*arguments) -> str:
    with pytest.raises(ArchitectureError, match=r"timm|known") as caught:
        build_backbone(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_unknown_names_list_what_is_known():
    message = refusal("vgg-16", 10)
    for known in ("wrn-D-K", "preact-resnet-18", "timm:resnet18"):
        assert known in message


@NEEDS_TIMM
def test_a_misspelt_timm_name_gets_the_nearest_ones():
    message = refusal("timm:resnet81", 10)
    assert "did you mean timm:resnet18" in message
    assert "timm.list_models()" in message
    assert "timm.list_models()" in refusal("timm:hf-hub:somebody/something", 10)


@NEEDS_TIMM
def test_pretrained_weights_are_not_promised():
    assert "timm:resnet18" in refusal("timm:resnet18.a1_in1k", 10)
    assert "random" in refusal("timm:resnet18.a1_in1k", 10)


@NEEDS_TIMM
def test_a_network_that_cannot_take_the_pictures_says_so():
    message = refusal("timm:inception_v3", 10, (32, 32))
    assert message.startswith("timm:inception_v3 cannot classify pictures of 32x32")
    assert "--image-size" in message


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "pip install --editable '.[timm]'" in refusal("timm:resnet18", 10)


@pytest.mark.parametrize(("arch", "largest"), [("wrn-10-1", 2), ("wrn-16-2", 2), ("preact-resnet-18", 4)])
def test_the_sides_at_which_a_backbone_strides_over_one_pixel(arch, largest):
    backbone = build_backbone(arch, 2).train()
    assert [strides_over_one_pixel(backbone, side) for side in range(1, 8)] == [side <= largest for side in range(1, 8)]
    assert backbone.training
    assert not any(module._forward_pre_hooks for module in backbone.modules())
