"""Key names of other programs' networks, as rules that turn them into the names of ours."""

import re
from collections.abc import Mapping

from torch import Tensor

from training.foreign.errors import WeightsError
from training.foreign.spelling import Spelling
from training.foreign.torchvision import TORCHVISION
from training.networks.names import TIMM_PREFIX

UNUSED = re.compile(r"^sub_block1\.|(?:^|\.)(?:relative_position_index|relative_coords_table|attn_mask)$")
"""Names of tensors that no forward pass reads from the file.

TRADES' WideResNet makes a second first group and never calls it. Swin's tables of positions follow from its size.
"""

DEEPMIND = "batchnorm_0"
"""Part of the names in DeepMind's networks."""


_BLOCK_NORMS = ((r"^((?:groups\.\d|blocks)\.\d+)\.bn(\d)\.", r"\1.norm\2."),)
_CLASSIFIER = ((r"^(?:fc|linear)\.", "classifier."),)
_GROUPS_OF_TWO = tuple(
    (rf"^layer{group}\.{index}\.", f"blocks.{2 * (group - 1) + index}.") for group in range(1, 5) for index in range(2)
)

OWN = Spelling("this project's")
WIDE_RESNET = Spelling(
    "RobustBench's and MadryLab's WideResNet",
    (
        (r"^bn1\.", "norm."),
        (r"^conv1\.", "stem."),
        *((rf"^block{group}\.layer\.", f"groups.{group - 1}.") for group in range(1, 4)),
        *_BLOCK_NORMS,
        (r"\.convShortcut\.", ".shortcut."),
        *_CLASSIFIER,
    ),
)
PREACT_RESNET = Spelling(
    "RobustBench's and kuangliu's PreActResNet",
    (
        (r"^bn\.", "norm."),
        (r"^conv1\.", "stem."),
        *_GROUPS_OF_TWO,
        *_BLOCK_NORMS,
        (r"\.(?:shortcut|downsample)\.0\.", ".shortcut."),
        *_CLASSIFIER,
    ),
)
RESNET = Spelling(
    "RobustBench's and kuangliu's ResNet",
    (
        (r"^bn1\.", "norm."),
        (r"^conv1\.", "stem."),
        *_GROUPS_OF_TWO,
        *_BLOCK_NORMS,
        (r"\.downsample\.", ".shortcut."),
        *_CLASSIFIER,
    ),
)
TIMM = Spelling("timm's, and torchvision's of the same name")


def spellings_of(arch: str) -> tuple[Spelling, ...]:
    """Return the spellings that are tried for an architecture. The first of those that fit equally well is taken."""
    if arch.startswith(TIMM_PREFIX):
        theirs = TORCHVISION.get(arch.removeprefix(TIMM_PREFIX))
        return (TIMM,) if theirs is None else (TIMM, theirs)
    if arch.startswith("wrn-"):
        return (OWN, WIDE_RESNET)
    return (OWN, PREACT_RESNET) if arch.startswith("preact-resnet-18") else (OWN, RESNET)


_WITHOUT_COUNTERPART = {
    "AlexNet": re.compile(r"^features\.0\.weight$"),
    "SqueezeNet": re.compile(r"^features\.\d+\.squeeze\.weight$"),
    "ShuffleNetV2": re.compile(r"^stage2\.0\.branch1\.0\.weight$"),
    "GoogLeNet": re.compile(r"^inception3a\.branch1\.conv\.weight$"),
    "Swin V2": re.compile(r"^features\.1\.0\.attn\.cpb_mlp\.0\.weight$"),
    "MaxViT": re.compile(r"^blocks\.0\.layers\.0\.layers\.MBconv\."),
}
"""torchvision's networks that no network of timm equals, by a name of one of their tensors."""

_OWN_BACKBONE, _OWN_BLOCK = "backbone.", "block."
"""Prefixes of the two parts of a SelfGradientNetwork."""

_SEE = "load them into its own module, see docs/how-to/own-backbone.md"


def refuse_other_networks(tensors: Mapping[str, Tensor]) -> None:
    """Refuse networks whose names could be mapped, but which compute something else.

    Raises:
        WeightsError: They are those of this project's network with a block. Or they are DeepMind's, whose convolutions
            of stride 2 are padded on one side only. Or they are of a network of torchvision that timm does not have.
    """
    if any(DEEPMIND in name for name in tensors):
        raise WeightsError(
            "these are weights of DeepMind's WideResNet or PreActResNet, which pads convolutions of stride 2 on one "
            f"side only: no --arch computes the same; {_SEE}"
        )
    if any(name.startswith(_OWN_BLOCK) for name in tensors) and any(name.startswith(_OWN_BACKBONE) for name in tensors):
        raise WeightsError(
            "these are weights of this project's network with a self-gradient block, whose form no tensor tells; take "
            "the model.safetensors of its training, or save network.backbone.state_dict() alone"
        )
    for title, pattern in _WITHOUT_COUNTERPART.items():
        found = next((tensor for name, tensor in tensors.items() if pattern.search(name)), None)
        if found is not None and (title != "AlexNet" or found.shape[-1] == 11):  # VGG's first kernel is 3 wide
            raise WeightsError(
                f"these are weights of torchvision's {title}, and timm has no network that computes the same; {_SEE}"
            )
