"""What the fused kernels compute, in plain PyTorch: the truth that every implementation is compared with.

All of them compute in float32, whatever the pictures and features are stored as (float32, float16, bfloat16), and round
each result once.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from training.networks.self_gradient import SelfGradientBlock, rms_normalised

MAX_CHANNELS = 4
MAX_LAYERS = 64
BITS = 8
"""Channels whose mask bits share a byte."""


def block_weights(block: SelfGradientBlock) -> Tensor:
    """The block's 1x1 convolutions as one tensor, float32 (layers, channels, channels): [layer][to][from]."""
    return torch.stack([_as_matrix(convolution.weight) for convolution in block.convolutions])


def _as_matrix(weight: object) -> Tensor:
    assert isinstance(weight, Tensor)
    return weight.detach().float().flatten(1)


def self_gradient_block(image: Tensor, gradient: Tensor, weights: Tensor, scale: float, rms: bool) -> Tensor:
    """The corrected picture: image + scale * (tanh of a 1x1 convolution, layer by layer, of the gradient).

    image,
    gradient: (N, C, H, W) of the same dtype, C up to 4
    weights:  float32 (layers, C, C), as block_weights gives them
    scale:    in units of pixel intensity
    rms:      whether each picture's gradient is divided by its own root mean square first
    returns:  like image
    Source: Self-Gradient Networks, section 3.3, figure 1; training.networks.self_gradient.SelfGradientBlock.
    """
    correction = gradient.float()
    if rms:
        correction = rms_normalised(correction)
    for weight in weights:
        correction = torch.tanh(torch.einsum("ti,nihw->nthw", weight, correction))
    return (image.float() + correction * scale).to(image.dtype)


def scale_shift_relu(features: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """relu(features * scale + shift), channel by channel, and which elements the ReLU let through.

    features: (N, C, H, W)
    scale,
    shift:    float32 (C): a folded batch norm
    returns:  like features; the mask, uint8 (N, ceil(C / 8), H, W), as pack_mask gives it: a 32nd of float32 features
    """
    numbers = features.float() * _per_channel(scale) + _per_channel(shift)
    return numbers.relu().to(features.dtype), pack_mask(numbers > 0)


def mask_scale_add(gradient: Tensor, mask: Tensor, scale: Tensor, residual: Tensor | None) -> Tensor:
    """The way back through scale_shift_relu, and the sum with the gradient that comes by the residual path.

    gradient: (N, C, H, W), with respect to the ReLU's output
    mask:     what scale_shift_relu returned
    scale:    float32 (C)
    residual: like gradient, or None for nothing to add
    returns:  like gradient
    """
    numbers = torch.where(unpack_mask(mask, gradient.shape[1]), gradient.float() * _per_channel(scale), 0.0)
    if residual is not None:
        numbers = numbers + residual.float()
    return numbers.to(gradient.dtype)


def pack_mask(mask: Tensor) -> Tensor:
    """Booleans (N, C, H, W) as bits, uint8 (N, ceil(C / 8), H, W): channel c is bit c % 8 of byte c // 8."""
    channels = mask.shape[1]
    padded = F.pad(mask.to(torch.uint8), (0, 0, 0, 0, 0, -channels % BITS))
    bits = padded.unflatten(1, (-1, BITS)) << _bit_numbers(mask.device)
    return bits.sum(2, dtype=torch.uint8)


def unpack_mask(mask: Tensor, channels: int) -> Tensor:
    """The booleans (N, channels, H, W) that pack_mask packed."""
    bits = (mask.unsqueeze(2) >> _bit_numbers(mask.device)) & 1
    return bits.flatten(1, 2)[:, :channels].bool()


def _bit_numbers(device: torch.device) -> Tensor:
    return torch.arange(BITS, dtype=torch.uint8, device=device).view(1, 1, BITS, 1, 1)


def _per_channel(numbers: Tensor) -> Tensor:
    return numbers.float().view(1, -1, 1, 1)
