"""Key names of other programs' networks, as rules that turn them into the names of ours."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from training.convert.errors import ConversionError
from training.networks.names import TIMM_PREFIX

UNUSED = re.compile(r"^sub_block1\.")
"""Names of tensors that no forward pass uses: TRADES' WideResNet makes a second first group and never calls it."""

DEEPMIND = "batchnorm_0"
"""Part of the names in DeepMind's networks."""


@dataclass(frozen=True)
class Spelling:
    """How one kind of program names the tensors of one architecture.

    Attributes:
        title: Whose names they are.
        rules: Pairs of a regular expression and its replacement, applied in order.
    """

    title: str
    rules: tuple[tuple[str, str], ...] = ()

    def renamed(self, name: str) -> str:
        """Return our name of a tensor."""
        for pattern, replacement in self.rules:
            name = re.sub(pattern, replacement, name)
        return name


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
        (r"\.shortcut\.0\.", ".shortcut."),
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
    """Return the spellings that are tried for an architecture."""
    if arch.startswith(TIMM_PREFIX):
        return (TIMM,)
    if arch.startswith("wrn-"):
        return (WIDE_RESNET, OWN)
    return (PREACT_RESNET, OWN) if arch.startswith("preact-resnet-18") else (RESNET, OWN)


def refuse_other_networks(tensors: Mapping[str, Tensor]) -> None:
    """Refuse networks whose names could be mapped, but which compute something else.

    Raises:
        ConversionError: They are DeepMind's, whose convolutions of stride 2 are padded on one side only.
    """
    if any(DEEPMIND in name for name in tensors):
        raise ConversionError(
            "these are weights of DeepMind's WideResNet or PreActResNet, which pads convolutions of stride 2 on one "
            "side only: no --arch computes the same; load them into its own module, see docs/how-to/own-backbone.md"
        )
