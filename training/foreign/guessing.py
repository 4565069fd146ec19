"""Guess the architecture that weights are of, from their names and shapes."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from training.foreign.errors import WeightsError
from training.foreign.matching import Match, match
from training.networks.backbones import build_backbone
from training.networks.errors import ArchitectureError
from training.networks.names import TIMM_PREFIX

_EFFICIENTNETS = tuple(f"efficientnet_b{number}" for number in range(8))
_MOBILENETS_V3 = ("mobilenetv3_large_100", "mobilenetv3_small_100")

FAMILIES: dict[str, tuple[str, ...]] = {
    r"^layer1\.0\.conv1\.weight$": (
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"),
        *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    ),
    r"^features\.denseblock1\.": ("densenet121", "densenet161", "densenet169", "densenet201"),
    r"^features\.0\.weight$": tuple(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
    r"^(?:cls|class)_token$": (
        *("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224", "vit_base_patch32_224"),
        *("vit_large_patch16_224", "vit_large_patch32_224", "vit_huge_patch14_224"),
        *("deit_tiny_patch16_224", "deit_small_patch16_224", "deit_base_patch16_224"),
    ),
    r"\.(?:gamma|layer_scale)$": ("convnext_tiny", "convnext_small", "convnext_base", "convnext_large"),
    r"\.relative_position_bias_table$": tuple(
        f"swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base", "large")
    ),
    r"^features\.\d+\.\d+\.block\.": (*_EFFICIENTNETS, "efficientnetv2_s", "efficientnetv2_m", "efficientnetv2_l"),
    r"^features\.\d+\.conv\.": ("mobilenetv2_100",),
    r"^features\.\d+\.block\.": _MOBILENETS_V3,
    r"^conv_stem\.weight$": (
        *_EFFICIENTNETS,
        *(f"tf_{name}" for name in _EFFICIENTNETS),
        "mobilenetv2_100",
        *_MOBILENETS_V3,
        *(f"tf_{name}" for name in _MOBILENETS_V3),
    ),
}
"""Networks of timm that weights are compared with, by a name that one of their tensors has. Others need --arch."""

ANY_CLASSES = 7
"""Classes of the networks that are compared: any number."""

_NEAR = 0.1
"""Share of a file's tensors that may not fit in the network that is named as the nearest."""

AMBIGUOUS = (
    "these are weights of a PreActResNet-18, of which there are two that differ in no tensor: pass "
    "--arch preact-resnet-18{0} where a block's shortcut starts after its first batch norm and ReLU (kuangliu's, "
    "RobustBench's PreActBlockV2), or --arch preact-resnet-18-v1{0} where it starts at the block's input "
    "(RobustBench's PreActBlock, Rice et al., Wong et al.)"
)


def guess_architecture(tensors: Mapping[str, Tensor]) -> str:
    """Return the value of --arch that names and shapes speak for.

    Raises:
        WeightsError: They speak for none, or for several that differ in no tensor.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for group in (r"block1.layer", r"groups.0"):  # RobustBench's names, and ours
        shape = shapes.get(f"{group}.0.conv1.weight")
        if shape:
            pattern = re.compile(rf"{re.escape(group)}\.\d+\.conv1\.weight")
            blocks = sum(bool(pattern.fullmatch(name)) for name in shapes)
            return f"wrn-{6 * blocks + 4}-{shape[0] // 16}"
    if "stem.weight" in shapes and "blocks.7.conv2.weight" in shapes:  # our names
        if "blocks.2.shortcut.0.weight" in shapes:
            return "resnet-18"
        raise WeightsError(AMBIGUOUS.format("" if "norm.weight" in shapes else "-nonorm"))
    blocks_of_18 = {f"layer{group}.1.conv2.weight" for group in range(1, 5)}
    deeper = any(re.search(r"^layer\d\.2\.|\.conv3\.", name) for name in shapes)
    if shapes.get("conv1.weight") == (64, 3, 3, 3) and blocks_of_18 <= set(shapes) and not deeper:
        if "bn1.weight" in shapes:
            return "resnet-18"
        raise WeightsError(AMBIGUOUS.format("" if "bn.weight" in shapes else "-nonorm"))
    found, nearest = _fitting_timm_networks(tensors)
    if len(found) > 1:
        raise WeightsError(
            f"these are weights of {' or '.join(found)}, which differ in no tensor, but in what they compute or in "
            "how they normalise; pass the --arch that it is"
        )
    if not found and nearest is not None and nearest[1].problems <= _NEAR * len(tensors):
        arch, fit = nearest
        if fit.of_another_size:
            raise WeightsError(
                f"these are weights of {arch} for pictures of another size; pass --arch {arch} and the --image-size of "
                "its training"
            )
        raise WeightsError(
            f"these are nearest to {arch}, but {fit.problems} of its or the network's tensors do not fit "
            f"({fit.lines()[0].strip()}); rename them or save the whole state dict, or pass the --arch that it is"
        )
    if not found:
        some = ", ".join(list(shapes)[:3])
        raise WeightsError(f"no architecture is known by these tensors ({some}, ...); pass --arch")
    return found[0]


def _fitting_timm_networks(tensors: Mapping[str, Tensor]) -> tuple[list[str], tuple[str, Match] | None]:
    """Return the networks of timm whose tensors have these names and, but for the classifier's, these shapes.

    After them it returns the network that came nearest, with what does not fit; None where none was compared.
    """
    found: list[str] = []
    nearest: tuple[str, Match] | None = None
    for pattern, names in FAMILIES.items():
        if not any(re.search(pattern, name) for name in tensors):
            continue
        for name in names:
            arch = TIMM_PREFIX + name
            try:
                wanted = state_of(arch, ANY_CLASSES)
            except ArchitectureError:  # no timm, or an older one
                continue
            fit = match(tensors, arch, wanted)
            if (not fit.problems or fit.logits_in_file is not None) and arch not in found:
                found.append(arch)
            if nearest is None or fit.problems < nearest[1].problems:
                nearest = arch, fit
    return found, nearest


def state_of(arch: str, classes: int, image_size: tuple[int, int] | None = None) -> dict[str, Tensor]:
    """Return a network's state dict, where possible without values, on the meta device.

    Args:
        arch: The network's name.
        classes: How many logits it has.
        image_size: (height, width) in pixels. None takes the network's own default.

    Raises:
        ArchitectureError: There is no such network, or it does not take such pictures.
    """
    try:
        with torch.device("meta"):
            return build_backbone(arch, classes, image_size).state_dict()
    except Exception:  # the meta device may raise anything; a real fault raises again
        return build_backbone(arch, classes, image_size).state_dict()
