"""Build a defence by its name."""

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from training.networks.defences.anti_adversary import AntiAdversary
from training.networks.defences.defence import Channels, Defence
from training.networks.defences.energy_step import EnergyStep
from training.networks.defences.gradient_denoiser import GradientDenoiser
from training.networks.defences.noise_average import NoiseAverage
from training.networks.errors import ArchitectureError

MOST_STEPS = 64
"""Most steps of a defence. Each is a pass of its own in an exported graph."""


@dataclass(frozen=True)
class DefenceConfig:
    """The configuration of a defence, without the static network in it.

    Attributes:
        name: One of DEFENCES.
        steps: Gradient steps; of an average over noise, the noisy copies.
        scale: Size of a step, or standard deviation of the noise, units of pixel intensity; of a gradient denoiser, the
            share of its step that is taken.
    """

    name: str
    steps: int
    scale: float

    @classmethod
    def from_values(cls, values: Any) -> "DefenceConfig":
        """Return the configuration that a checkpoint's JSON describes.

        Raises:
            ArchitectureError: It describes none.
        """
        names = set(cls.__dataclass_fields__)
        if not isinstance(values, dict) or set(values) != names:
            raise ArchitectureError(f"it does not have the fields {', '.join(sorted(names))}")
        if values["name"] not in DEFENCES:
            raise ArchitectureError(f"{str(values['name'])[:60]!r} is none of {', '.join(DEFENCES)}")
        if type(values["steps"]) is not int or not 1 <= values["steps"] <= MOST_STEPS:
            raise ArchitectureError(f"its steps are {str(values['steps'])[:60]}, not a number from 1 to {MOST_STEPS}")
        if type(values["scale"]) not in (int, float) or not math.isfinite(values["scale"]):
            raise ArchitectureError("its scale is no finite number")
        return cls(**values)


DEFENCES = {
    "anti-adversary": DefenceConfig("anti-adversary", 2, 0.15),
    "energy-step": DefenceConfig("energy-step", 1, 8 / 255),
    "gradient-denoiser": DefenceConfig("gradient-denoiser", 1, 1.0),
    "noise-average": DefenceConfig("noise-average", 4, 8 / 255),
}
"""Every defence with its usual size."""


def build_defence(
    config: DefenceConfig, backbone: nn.Module, mean: Channels, std: Channels, image_size: tuple[int, int]
) -> Defence:
    """Build a defence around a static network.

    Args:
        config: The defence.
        backbone: The static network, from normalised images to logits.
        mean: Per-channel mean of images in [0, 1].
        std: Per-channel standard deviation.
        image_size: (height, width) in pixels.

    Raises:
        ArchitectureError: There is no such defence, or none of so many steps.
    """
    if config.name == "anti-adversary":
        return AntiAdversary(backbone, mean, std, steps=config.steps, step_size=config.scale)
    if config.name == "noise-average":
        return NoiseAverage(backbone, mean, std, image_size=image_size, samples=config.steps, deviation=config.scale)
    if config.name not in ("energy-step", "gradient-denoiser"):
        raise ArchitectureError(f"unknown defence {config.name!r}; known are: {', '.join(DEFENCES)}")
    if config.steps != 1:
        raise ArchitectureError(f"{config.name} takes one step, not {config.steps}")
    if config.name == "gradient-denoiser":
        return GradientDenoiser(backbone, mean, std, share=config.scale)
    return EnergyStep(backbone, mean, std, step_size=config.scale)
