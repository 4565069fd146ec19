"""Networks of the timm library (PyTorch Image Models) as backbones, an optional dependency."""

import difflib
import socket
import urllib.parse
import urllib.request
from typing import Any

import torch
from torch import nn

from sgn_serve.common.error_text import first_line
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


def download_weights(name: str) -> dict[str, torch.Tensor]:
    """Return the weights that timm offers for a network, from the Hugging Face hub or its cache on this machine.

    Args:
        name: A name of timm.list_models(), such as resnet18.

    Raises:
        ArchitectureError: timm offers none, or they cannot be downloaded. The message is one line that names the file
            to fetch elsewhere.
    """
    build_timm_network(name, 2, None)  # refuses what timm does not have
    import timm

    described = timm.get_pretrained_cfg(name)
    place = "" if described is None else described.hf_hub_id
    if not place:
        raise ArchitectureError(f"timm offers no weights for timm:{name}; name a file of them by --pretrained FILE")
    advice = (
        f"where there is a network, save model.safetensors of {place} on Hugging Face, and name it by --pretrained FILE"
    )
    if not _within_reach(place):
        raise ArchitectureError(f"the weights of timm:{name} cannot be downloaded, for there is no network; {advice}")
    try:
        state: dict[str, torch.Tensor] = timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # the hub's client raises anything
        raise ArchitectureError(
            f"the weights of timm:{name} cannot be downloaded ({first_line(error)[:150]}); {advice}"
        ) from None
    return state


def _within_reach(place: str) -> bool:
    """Return whether weights are in the hub's cache, or the hub's name is known to this machine or left to a proxy.

    The hub's client would retry for 50 seconds, measured, and print each time.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(place, "model.safetensors"), str) or urllib.request.getproxies():
        return True
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        return False
    return True


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
