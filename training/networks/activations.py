"""The activation as a backbone's option.

With its batch norm frozen a ReLU network is piecewise linear, so its self-gradient is invisible to gradient attacks and
learns nothing from them. A smooth activation gives it a second derivative: the full view (training.attacks.views) then
sees the
block without any surrogate.
"""

from collections.abc import Callable

from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    # Sharp enough to be trained like a ReLU; softplus(0) is 0.07 instead of 0.69 at sharpness 1.
    "softplus": lambda: nn.Softplus(beta=10),
}
"""By name: "relu" leaves a backbone as it was built; softplus has sharpness 10.

Source of the smooth ones in adversarial training: Xie et al., Smooth Adversarial Training (2020).
"""


def with_activation(backbone: nn.Module, activation: str) -> nn.Module:
    """The backbone with every nn.ReLU module replaced, in place.

    raises ValueError for an unknown activation, or a backbone without such modules
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}; known are: {', '.join(ACTIVATIONS)}")
    if activation == "relu":
        return backbone
    if not has_relu(backbone):
        raise ValueError(f"this backbone has no ReLU modules to replace by {activation}; leave --activation away")
    for parent in list(backbone.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.ReLU):
                setattr(parent, name, ACTIVATIONS[activation]())
    return backbone


def has_relu(backbone: nn.Module) -> bool:
    """Whether any of its modules is a ReLU."""
    return any(isinstance(module, nn.ReLU) for module in backbone.modules())
