"""Backbones by name."""

import torch
from torch import nn

from training.networks.errors import ArchitectureError
from training.networks.names import RESNET_18, TIMM_PREFIX, depth_and_width, unknown_architecture
from training.networks.preact_resnet import preact_resnet_18
from training.networks.resnet import ResNet18
from training.networks.wide_resnet import WideResNet


def build_backbone(arch: str, num_classes: int, image_size: tuple[int, int] | None = None) -> nn.Module:
    """Build a freshly initialised network that maps normalised images (N, 3, H, W) to logits (N, num_classes).

    Args:
        arch: The network's name, as KNOWN describes it.
        num_classes: How many logits it has.
        image_size: (height, width) in pixels; some timm networks are built for one size. None takes their own default.

    Raises:
        ArchitectureError: The name is unknown, timm is not installed, or the network cannot take such images. The
            message is one line with the known architectures or the fix.
    """
    if arch.startswith(TIMM_PREFIX):
        # Imported here, because few need it and importing it takes seconds.
        from training.networks.timm_networks import build_timm_network

        return build_timm_network(arch.removeprefix(TIMM_PREFIX), num_classes, image_size)
    if arch == RESNET_18:
        return ResNet18(num_classes)
    preact = preact_resnet_18(arch, num_classes)
    if preact is not None:
        return preact
    wide = depth_and_width(arch)
    if wide is None:
        raise ArchitectureError(unknown_architecture(arch, _names_in_timm()))
    return WideResNet(*wide, num_classes)


def _names_in_timm() -> tuple[str, ...]:
    """Return the names of timm's networks; none where timm is not installed."""
    from training.networks.timm_networks import timm_names

    try:
        return timm_names()
    except ModuleNotFoundError:
        return ()


def usual_image_size(arch: str) -> int | None:
    """Return the side in pixels of the pictures that a backbone is made for; None where it has no such size."""
    if not arch.startswith(TIMM_PREFIX):
        return None
    from training.networks.timm_networks import timm_input_size

    return timm_input_size(arch.removeprefix(TIMM_PREFIX))


def strides_over_one_pixel(backbone: nn.Module, side: int) -> bool:
    """Return whether a convolution of a backbone has a stride above 1 and gets features of one row or column.

    Args:
        backbone: Is left in the mode that it was in.
        side: Side in pixels of the pictures that it gets.
    """
    found = []

    def look(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1 and max(module.kernel_size) > 1:
            found.append(min(inputs[0].shape[2:]) == 1)

    hooks = [module.register_forward_pre_hook(look) for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    training = backbone.training
    try:
        with torch.no_grad():
            backbone.eval()(torch.zeros(1, 3, side, side, device=next(backbone.parameters()).device))
    finally:
        backbone.train(training)
        for hook in hooks:
            hook.remove()
    return any(found)
