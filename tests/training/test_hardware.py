"""Backbones are tried before training, without memory for their weights."""

from typing import Any

import pytest
import torch
from torch import nn

from training import hardware
from training.common.command_line import OptionError
from training.common.devices import MIB
from training.networks.backbones import build_backbone
from training.options import configure, parse

CPU = torch.device("cpu")
GIVEN = ["--data-root", "x", "--dataset", "cifar10"]


def test_no_weights_are_made_to_check_a_backbone(monkeypatch):
    """They would take 0.36 s for WRN-28-10, and memory for others."""
    built: list[nn.Module] = []

    def noted(*about: Any) -> nn.Module:
        built.append(build_backbone(*about))
        return built[-1]

    monkeypatch.setattr(hardware, "build_backbone", noted)
    configure(parse([*GIVEN, "--arch=wrn-28-10"]), CPU)
    assert {parameter.device.type for backbone in built for parameter in backbone.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("options", "needed"), [((), "gradients and momentum take 0.4 GiB"), (("--arch=timm:resnet18",), "0.1 GiB")]
)
def test_a_network_that_the_memory_does_not_hold_is_refused_before_it_is_made(monkeypatch, options, needed):
    if options:
        pytest.importorskip("timm")
    monkeypatch.setattr(hardware, "free_memory", lambda device: 100 * MIB)
    monkeypatch.setattr(hardware, "build_backbone", lambda *about: build_backbone(*about).to("meta"))
    with pytest.raises(OptionError, match=f"{needed}, and 0.1 GiB are free; pass a smaller one"):
        configure(parse([*GIVEN, *options]), CPU)
    monkeypatch.setattr(hardware, "free_memory", lambda device: None)
    configure(parse([*GIVEN, *options]), CPU)


def test_a_backbone_that_needs_its_values_is_tried_with_them(monkeypatch):
    """One example looks at a weight when it is made."""
    built: list[nn.Module] = []

    def demanding(*about: Any) -> nn.Module:
        backbone = build_backbone(*about)
        assert next(backbone.parameters()).sum().item() != 0
        built.append(backbone)
        return backbone

    monkeypatch.setattr(hardware, "build_backbone", demanding)
    configure(parse([*GIVEN, "--arch=wrn-10-1"]), CPU)
    assert [next(backbone.parameters()).device.type for backbone in built] == ["cpu"]
