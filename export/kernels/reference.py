"""The fused kernel in plain PyTorch: the reference that every implementation is compared with.

All implementations compute in float32, whatever type the pictures are stored as (float32, float16 or bfloat16), and
round each result once.
"""

import torch
from torch import Tensor

from training.networks.self_gradient import SelfGradientBlock, rms_normalised

MAX_CHANNELS = 4
MAX_LAYERS = 64


def block_weights(block: SelfGradientBlock) -> Tensor:
    """Return the block's 1x1 convolutions as one tensor, float32 (layers, channels, channels): [layer][to][from]."""
    return torch.stack([_as_matrix(convolution.weight) for convolution in block.convolutions])


def _as_matrix(weight: object) -> Tensor:
    assert isinstance(weight, Tensor)
    return weight.detach().float().flatten(1)


def self_gradient_block(image: Tensor, gradient: Tensor, weights: Tensor, scale: float, rms: bool) -> Tensor:
    """Return the corrected picture: image + scale * c, where c is the gradient after all layers.

    A layer is a 1x1 convolution and tanh.
    Source: Self-Gradient Networks, section 3.3, figure 1; training.networks.self_gradient.SelfGradientBlock.

    Args:
        image: (N, C, H, W), C up to MAX_CHANNELS.
        gradient: Shape and type of image.
        weights: float32 (layers, C, C), as block_weights returns them.
        scale: Scale of the correction, in units of pixel intensity.
        rms: Whether each picture's gradient is divided by its own root mean square first.

    Returns:
        A tensor like image.
    """
    correction = gradient.float()
    if rms:
        correction = rms_normalised(correction)
    for weight in weights:
        correction = torch.tanh(torch.einsum("ti,nihw->nthw", weight, correction))
    return (image.float() + correction * scale).to(image.dtype)
