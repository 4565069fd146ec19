"""Test whether a network's self-gradient has a derivative, on two random pictures.

A test is right for any module. The names of its layers are not enough. A ReLU may be a function instead of a module,
and layer norm makes a network of ReLUs nonlinear between their kinks.
"""

import torch
from torch import Tensor

from training.networks.self_gradient import SelfGradientNetwork


def is_piecewise_linear(model: SelfGradientNetwork, images: Tensor) -> bool:
    """Return whether the derivative of the self-gradient with respect to the image is exactly zero.

    If so, differentiating through both passes equals holding the first one fixed. The answer is about the network as it
    is now. One whose self-gradient is zero everywhere, such as an untrained one with a zero classifier, passes too. The
    test costs a dozen passes of one picture. It restores torch's global generators, whatever the network draws.

    Args:
        model: The network.
        images: (N, 3, H, W), of the model's type and device. Only their size, type and device matter.
    """
    generator = torch.Generator().manual_seed(0)
    pictures, direction = (torch.rand(2, *images.shape[1:], generator=generator).to(images) for _ in range(2))
    pictures.requires_grad_()
    drawn_on = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices=drawn_on), torch.enable_grad():
        along = (model.self_gradient(pictures) * direction).sum()
        if not along.requires_grad:
            return True
        (second,) = torch.autograd.grad(along, pictures, allow_unused=True)
    return second is None or not second.any().item()
