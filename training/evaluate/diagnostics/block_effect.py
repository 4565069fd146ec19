"""Measure how far the block moves a picture, and whether that changes any answer."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from training.common.in_batches import first_pass_in_batches, in_batches
from training.networks.self_gradient import SelfGradientNetwork


@dataclass(frozen=True)
class BlockEffect:
    """Means over pictures; the correction is block(self-gradient), in units of pixel intensity.

    Attributes:
        gradient_mean_abs: Mean |g|, logit units per unit of pixel intensity.
        correction_mean_abs: How far the block moves a pixel.
        correction_change: Mean |block(g(x')) - block(g(x))| / mean |block(g(x))|, x' a random corner of the ball.
        answers_changed: Share of pictures whose answer differs with the block off.
        answers_changed_attacked: The same share on the given attacked pictures.
    """

    gradient_mean_abs: float
    correction_mean_abs: float
    correction_change: float
    answers_changed: float
    answers_changed_attacked: float

    def as_dict(self) -> dict[str, float]:
        """Return the means by name."""
        return asdict(self)


def measure_block_effect(
    model: SelfGradientNetwork, images: Tensor, attacked: Tensor, *, eps: float, seed: int, batch_size: int = 250
) -> BlockEffect:
    """Return the means over these pictures.

    Args:
        model: A network with a block.
        images: (N, 3, H, W) float32 in [0, 1], a few hundred.
        attacked: Attacked versions of the same pictures, (N, 3, H, W) float32 in [0, 1].
        eps: Radius of the ball whose corners are drawn, units of pixel intensity.
        seed: Seed of that draw.
        batch_size: Pictures that the network sees at once.

    Raises:
        ValueError: The network has no block.
    """
    if model.block is None:
        raise ValueError("this network has no self-gradient block, so there is no effect to measure")
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, images.shape, generator=generator).to(images) * 2 - 1
    nearby = (images + eps * signs).clamp(0, 1)
    with torch.no_grad():
        plain, gradient = first_pass_in_batches(model.first_pass, images, batch_size)
        correction = model.block(gradient)
        logits = in_batches(model.second_pass, images, gradient, batch_size=batch_size)
        _, nearby_gradient = first_pass_in_batches(model.first_pass, nearby, batch_size)
        nearby_correction = model.block(nearby_gradient)
        plain_attacked, gradient_attacked = first_pass_in_batches(model.first_pass, attacked, batch_size)
        logits_attacked = in_batches(model.second_pass, attacked, gradient_attacked, batch_size=batch_size)
    moved = correction.abs().mean()
    change = (nearby_correction - correction).abs().mean() / moved if moved != 0 else torch.zeros(())
    return BlockEffect(
        gradient_mean_abs=gradient.abs().mean().item(),
        correction_mean_abs=moved.item(),
        correction_change=change.item(),
        answers_changed=_differ(logits, plain),
        answers_changed_attacked=_differ(logits_attacked, plain_attacked),
    )


def _differ(logits: Tensor, others: Tensor) -> float:
    return (logits.argmax(dim=1) != others.argmax(dim=1)).float().mean().item()
