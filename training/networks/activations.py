"""The activation as an option of a backbone.

A ReLU network whose batch norm is frozen is piecewise linear, so its self-gradient is invisible to gradient attacks and
learns nothing from them. A smooth activation gives the network a second derivative. The full view
(training.attacks.views) then sees the block without any surrogate.
"""

from torch import nn

from training.networks.errors import ArchitectureError
from training.networks.names import ACTIVATIONS


def with_activation(backbone: nn.Module, activation: str) -> nn.Module:
    """Replace every nn.ReLU module of a backbone, in place, and return the backbone.

    Raises:
        ArchitectureError: The activation is unknown, or the backbone has no such modules.
    """
    if activation not in ACTIVATIONS:
        raise ArchitectureError(f"unknown activation {activation!r}; known are: {', '.join(ACTIVATIONS)}")
    if activation == "relu":
        return backbone
    if not has_relu(backbone):
        raise ArchitectureError(
            f"this backbone has no ReLU modules to replace by {activation}; leave --activation away"
        )
    for parent in list(backbone.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.ReLU):
                setattr(parent, name, activation_module(activation))
    return backbone


def has_relu(backbone: nn.Module) -> bool:
    """Return whether any module of a backbone is an nn.ReLU."""
    return any(isinstance(module, nn.ReLU) for module in backbone.modules())


def activation_module(activation: str) -> nn.Module:
    """Return a new module of one of ACTIVATIONS."""
    described = ACTIVATIONS[activation]
    module: nn.Module = getattr(nn, described.module)(**described.options)
    return module
