"""Networks of the timm library (PyTorch Image Models) as backbones, an optional dependency."""

import difflib
from typing import Any

import torch
from torch import nn

from training.common.errors import first_line
from training.networks.errors import ArchitectureError


def build_timm_network(name: str, num_classes: int, image_size: tuple[int, int] | None) -> nn.Module:
    """Build a timm network with random weights. Nothing is downloaded.

    Args:
        name: A name of timm.list_models(), such as resnet18.
        num_classes: How many logits it has.
        image_size: (height, width) in pixels that it must take, or None for its own default.

    Raises:
        ArchitectureError: timm is not installed or has no such network, or the network does not map such images to one
            logit a class. The message is one line with the fix.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise ArchitectureError(
            f"architecture 'timm:{name}' needs the timm library: pip install --editable '.[timm]' in the checkout"
        ) from None
    known = timm.list_models()
    if name not in known:
        raise ArchitectureError(f"unknown architecture 'timm:{name}'; {_nearest(name, known)}")
    # Transformers and the like have weights for every position in the picture, so they are built for one size.
    described = timm.get_pretrained_cfg(name)
    fixed_size = described is not None and described.fixed_input_size
    options: dict[str, Any] = {"img_size": image_size} if fixed_size and image_size is not None else {}
    try:
        network = timm.create_model(name, pretrained=False, num_classes=num_classes, **options)
        if image_size is not None:
            _check_logits(network, num_classes, image_size)
    except Exception as error:  # the library's networks raise anything, AssertionError and TypeError above all
        size = "its own size" if image_size is None else f"{image_size[1]}x{image_size[0]}"
        raise ArchitectureError(
            f"timm:{name} cannot classify pictures of {size} ({first_line(error)}); "
            "choose another --arch, or for an image folder another --image-size"
        ) from None
    return network


def timm_names() -> tuple[str, ...]:
    """Return the names of timm's networks.

    Raises:
        ModuleNotFoundError: timm is not installed.
    """
    import timm

    return tuple(timm.list_models())


def timm_input_size(name: str) -> int | None:
    """Return the shorter side in pixels of the pictures that a timm network is made for; None where it does not say."""
    try:
        import timm
    except ModuleNotFoundError:
        return None  # building the network says so
    described = timm.get_pretrained_cfg(name)
    return None if described is None else min(described.input_size[1:])


def _nearest(name: str, known: list[str]) -> str:
    base, _, tag = name.partition(".")
    if tag and base in known:
        # The tag names pretrained weights, which are not loaded: a network without them must not go by that name.
        return f"its weights would be random, so leave away the name of pretrained ones: timm:{base}"
    matches = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    listing = "`python -c 'import timm; print(timm.list_models())'` lists all"
    if not matches:
        return listing
    return f"did you mean {', '.join(f'timm:{match}' for match in matches)}? {listing}"


def _check_logits(network: nn.Module, num_classes: int, image_size: tuple[int, int]) -> None:
    """Pass one black picture through the network: cheap beside training, and the only way to know.

    Raises:
        ArchitectureError: The logits have another shape. Whatever the network itself raises comes through too.
    """
    training = network.training
    parameter = next(network.parameters())
    with torch.no_grad():
        logits = network.eval()(parameter.new_zeros(1, 3, *image_size))
    network.train(training)
    if not isinstance(logits, torch.Tensor) or logits.shape != (1, num_classes):
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ArchitectureError(f"it returns {found} instead of logits (1, {num_classes})")
