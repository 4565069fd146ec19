"""Guess the architecture that weights are of, from their names and shapes."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from training.convert.errors import ConversionError
from training.networks.backbones import build_backbone
from training.networks.errors import ArchitectureError
from training.networks.names import TIMM_PREFIX

TIMM_CANDIDATES = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "resnext50_32x4d"),
    *("densenet121", "densenet161", "mobilenetv3_large_100", "efficientnet_b0", "convnext_tiny", "convnext_small"),
    *("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224", "deit_small_patch16_224"),
)
"""Networks of timm that weights are compared with. Any other needs --arch."""

AMBIGUOUS = (
    "these are weights of a PreActResNet-18, of which there are two that differ in no tensor: pass "
    "--arch preact-resnet-18{0} where a block's shortcut starts after its first batch norm and ReLU (kuangliu's, "
    "RobustBench's PreActBlockV2), or --arch preact-resnet-18-v1{0} where it starts at the block's input "
    "(RobustBench's PreActBlock, Rice et al., Wong et al.)"
)


def guess_architecture(tensors: Mapping[str, Tensor]) -> str:
    """Return the value of --arch that names and shapes speak for.

    Raises:
        ConversionError: They speak for none, or for two that differ in no tensor.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    first = "block1.layer.0.conv1.weight"
    if first in shapes:
        blocks = sum(bool(re.fullmatch(r"block1\.layer\.\d+\.conv1\.weight", name)) for name in shapes)
        return f"wrn-{6 * blocks + 4}-{shapes[first][0] // 16}"
    blocks_of_18 = {f"layer{group}.1.conv2.weight" for group in range(1, 5)}
    deeper = any(re.search(r"^layer\d\.2\.|\.conv3\.", name) for name in shapes)
    if shapes.get("conv1.weight") == (64, 3, 3, 3) and blocks_of_18 <= set(shapes) and not deeper:
        if "bn1.weight" in shapes:
            return "resnet-18"
        raise ConversionError(AMBIGUOUS.format("" if "bn.weight" in shapes else "-nonorm"))
    arch = _guess_timm(shapes)
    if arch is None:
        some = ", ".join(list(shapes)[:3])
        raise ConversionError(f"no architecture is known by these tensors ({some}, ...); pass --arch")
    return arch


def _guess_timm(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Return the network of timm whose tensors have these names and, but for the classifier's, these shapes."""
    wanted = set(shapes)
    for name in TIMM_CANDIDATES:
        try:
            with torch.device("meta"):
                state = build_backbone(TIMM_PREFIX + name, 7).state_dict()
        except (ArchitectureError, NotImplementedError):  # no timm, an older one, or a network without meta tensors
            continue
        differing = {key for key in wanted & set(state) if shapes[key] != tuple(state[key].shape)}
        if wanted == set(state) and all(state[key].shape[0] == 7 for key in differing):
            return TIMM_PREFIX + name
    return None
