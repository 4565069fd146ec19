"""Names of the backbones and of their options. Nothing here imports PyTorch, which takes seconds."""

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from sgn_serve.common.command_parser import did_you_mean
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

DEEPEST = 1000
"""Most layers of a wide residual network. The deepest of He et al. has 1001; making more takes minutes."""
MOST_PARAMETERS = 2**31
"""Most parameters of one. They take 8 GiB; WRN-70-16 has 0.27e9."""
_MOST_DIGITS = 9
"""Python refuses to read numbers of thousands of digits."""

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


def depth_and_width(arch: str) -> tuple[int, int] | None:
    """Return the depth and the width that wrn-D-K stands for; None for any other name.

    Raises:
        ArchitectureError: There is no such network, or it is too large to be made.
    """
    written = written_depth_and_width(arch)
    if written is None:
        return None
    depth, width = written
    try:
        check_depth_and_width(depth, width)
    except ArchitectureError as error:
        raise ArchitectureError(f"unknown architecture {arch!r} ({error}); known are: {KNOWN}") from None
    return depth, width


def written_depth_and_width(arch: str) -> tuple[int, int] | None:
    """Return the D and K of a name wrn-D-K, whether there is such a network or not; None for any other name."""
    found = re.fullmatch(r"wrn-(\d+)-(\d+)", arch)
    if found is None:
        return None
    depth, width = (int(digits) if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS for digits in found.groups())
    return depth, width


def check_depth_and_width(depth: int, width: int) -> None:
    """Refuse a wide residual network that does not exist, or that is too large to be made.

    Raises:
        ArchitectureError: The depth is not 6n + 4 (n >= 1), the width is below 1, or there are too many layers or
            parameters.
    """
    if not 10 <= depth <= DEEPEST or (depth - 4) % 6 or width < 1:
        raise ArchitectureError(f"the depth must be 10, 16, 22, 28, ... (6n + 4) up to {DEEPEST}, the width at least 1")
    channels = (16, 16 * width, 32 * width, 64 * width)
    convolutions = 2 * ((depth - 4) // 6)
    parameters = sum(9 * (before + (convolutions - 1) * after) * after for before, after in pairwise(channels))
    if parameters > MOST_PARAMETERS:
        raise ArchitectureError(f"{parameters:.2g} parameters are too many; at most {MOST_PARAMETERS:.2g} are made")


def check_spelling(arch: str) -> None:
    """Refuse a backbone's name that is none, before PyTorch is imported.

    A name that passes may still be refused when it is built, such as one that timm lacks.

    Raises:
        ArchitectureError: The name is a wide residual network's that cannot be made. Or it is unknown, and resembles
            one of ours of the same numbers. Others are left to build_backbone, which knows timm's names.
    """
    known = arch.startswith((TIMM_PREFIX, PREACT_RESNET_18)) or arch == RESNET_18 or depth_and_width(arch) is not None
    resembles = any(_numbers(arch) == _numbers(name) for name in EXAMPLES) and did_you_mean(arch, EXAMPLES)
    if not known and (resembles or _wide_resnet_meant(arch)):
        raise ArchitectureError(unknown_architecture(arch))


def _wide_resnet_meant(arch: str) -> str:
    """Return the wide residual network that a name in another spelling means, such as wrn10-1; "" for none."""
    found = re.fullmatch(r"(?:wrn|wide[-_ ]?resnet)[-_ ]?(\d+)[-_ x](\d+)", arch, re.IGNORECASE)
    meant = f"wrn-{found[1]}-{found[2]}" if found else ""
    try:
        return meant if depth_and_width(meant) else ""
    except ArchitectureError:
        return ""


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
    meant = same[0] if same else _wide_resnet_meant(arch)
    suggested = f"did you mean {meant}? " if meant else did_you_mean(arch, ours)
    suggested = suggested or did_you_mean(f"{TIMM_PREFIX}{arch}", theirs) or did_you_mean(arch, EXAMPLES)
    return f"unknown architecture {arch!r}; {suggested}known are: {KNOWN}"
