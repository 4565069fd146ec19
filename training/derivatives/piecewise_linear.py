"""Whether a network's self-gradient has a derivative, tried out on two random pictures.

Trying it out judges any module rightly. The names of its layers do not tell: a ReLU may be a function and no module,
and layer norm bends what ReLUs leave straight.
"""

import torch
from torch import Tensor

from training.networks.self_gradient import SelfGradientNetwork


def is_piecewise_linear(model: SelfGradientNetwork, images: Tensor) -> bool:
    """Whether the derivative of the self-gradient with respect to the image is exactly zero.

    images: (N, 3, H, W), for their size, type and device, which must be the model's; what they show does not matter

    If so, differentiating through both passes equals holding the first one fixed. It is about the network as it is now:
    one whose self-gradient is zero everywhere, such as an untrained one with a zero classifier, passes too. Costs a
    dozen passes of one picture, and leaves torch's global generators as they were, whatever the network draws.
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
