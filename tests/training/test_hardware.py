"""Backbones are tried before training, without memory for their weights."""

from typing import Any

import torch
from torch import nn

from training import hardware
from training.networks.backbones import build_backbone
from training.options import build_parser, configure

CPU = torch.device("cpu")
GIVEN = ["--data-root", "x", "--dataset", "cifar10"]


def test_no_weights_are_made_to_check_a_backbone(monkeypatch):
    """They would take 0.36 s for WRN-28-10, and memory for others."""
    built: list[nn.Module] = []

    def noted(*about: Any) -> nn.Module:
        built.append(build_backbone(*about))
        return built[-1]

    monkeypatch.setattr(hardware, "build_backbone", noted)
    configure(build_parser().parse_args([*GIVEN, "--arch=wrn-100-50"]), CPU)
    assert {parameter.device.type for backbone in built for parameter in backbone.parameters()} == {"meta"}


def test_a_backbone_that_needs_its_values_is_tried_with_them(monkeypatch):
    """Such as one that looks at a weight when it is made."""
    built: list[nn.Module] = []

    def demanding(*about: Any) -> nn.Module:
        backbone = build_backbone(*about)
        assert next(backbone.parameters()).sum().item() != 0
        built.append(backbone)
        return backbone

    monkeypatch.setattr(hardware, "build_backbone", demanding)
    configure(build_parser().parse_args([*GIVEN, "--arch=wrn-10-1"]), CPU)
    assert [next(backbone.parameters()).device.type for backbone in built] == ["cpu"]
