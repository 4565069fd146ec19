"""Names of the backbones and of their options. Nothing here imports PyTorch, which takes seconds."""

import re
from dataclasses import dataclass, field
from typing import Literal

from sgn_serve.command_parser import did_you_mean
from training.networks.errors import ArchitectureError

TIMM_PREFIX = "timm:"

KNOWN = (
    "wrn-D-K with depth D = 10, 16, 22, 28, 34, 40, ... and width K >= 1, "
    "such as wrn-10-2, wrn-16-2, wrn-16-4, wrn-28-10; preact-resnet-18, "
    "with -v1 for shortcuts from the blocks' inputs and -nonorm without the last batch norm; resnet-18; "
    f"{TIMM_PREFIX}NAME for a network of the timm library, randomly initialised, such as {TIMM_PREFIX}resnet18"
)

PREACT_RESNET_18 = "preact-resnet-18"
RESNET_18 = "resnet-18"
EXAMPLES = (
    "wrn-10-2",
    "wrn-16-2",
    "wrn-16-4",
    "wrn-28-10",
    "wrn-34-10",
    "wrn-34-20",
    "wrn-70-16",
    PREACT_RESNET_18,
    RESNET_18,
    f"{TIMM_PREFIX}resnet18",
)
"""Names that are suggested for a misspelled one."""

GradientScaling = Literal["none", "rms"]
"""How the block scales its input: not at all, or each image's gradient divided by its root mean square."""
SelfGradient = bool | Literal["auto"]
"""Whether the block is on. "auto" runs the second pass only for pictures whose plain answer has a small margin."""


@dataclass(frozen=True)
class Activation:
    """A module of torch.nn.

    Attributes:
        module: The name of its class.
        options: The arguments that it is made with.
    """

    module: str
    options: dict[str, float] = field(default_factory=dict)


ACTIVATIONS = {
    "relu": Activation("ReLU"),
    "silu": Activation("SiLU"),
    "gelu": Activation("GELU"),
    # Sharp enough to be trained like a ReLU; softplus(0) is 0.07 instead of 0.69 at sharpness 1.
    "softplus": Activation("Softplus", {"beta": 10}),
}
"""Activations by name. "relu" leaves a backbone as it was built; softplus has sharpness 10.

Source of the smooth ones in adversarial training: Xie et al., Smooth Adversarial Training (2020).
"""


def check_spelling(arch: str) -> None:
    """Refuse a backbone's name that is none, before PyTorch is imported.

    A name that passes may still be refused when it is built: a depth that no network has, or a name that timm lacks.

    Raises:
        ArchitectureError: The name is unknown and resembles one of ours of the same numbers. Others are left to
            build_backbone, which knows timm's names.
    """
    known = arch.startswith((TIMM_PREFIX, PREACT_RESNET_18)) or arch == RESNET_18 or re.fullmatch(r"wrn-\d+-\d+", arch)
    if not known and any(_numbers(arch) == _numbers(name) for name in EXAMPLES) and did_you_mean(arch, EXAMPLES):
        raise ArchitectureError(unknown_architecture(arch))


def _numbers(name: str) -> list[str]:
    """Return the numbers in a name: its depth and its width. Names of other numbers are other networks."""
    return re.findall(r"\d+", name)


def unknown_architecture(arch: str, timm_names: tuple[str, ...] = ()) -> str:
    """Return what is told about an unknown backbone: the nearest names, and all kinds that are known.

    Args:
        arch: The name that was asked for.
        timm_names: The names of timm's networks, where timm is installed.
    """
    same = tuple(f"{TIMM_PREFIX}{name}" for name in timm_names if name == arch)
    ours = tuple(name for name in EXAMPLES if _numbers(name) == _numbers(arch))
    theirs = tuple(f"{TIMM_PREFIX}{name}" for name in timm_names)
    suggested = f"did you mean {same[0]}? " if same else did_you_mean(arch, ours)
    suggested = suggested or did_you_mean(f"{TIMM_PREFIX}{arch}", theirs) or did_you_mean(arch, EXAMPLES)
    return f"unknown architecture {arch!r}; {suggested}known are: {KNOWN}"
