"""Networks for the tests of export."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.training.checkpoints import tiny_info
from training.checkpoint import BlockConfig, CheckpointInfo
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork

IMAGE_SIZE = (32, 32)
OUTPUTS = ("logits", "plain_logits", "self_gradient")


def checkpoint_info(
    gradient_scaling: str = "rms",
    scale: float = 1.0,
    block: bool = True,
    architecture: str = "wrn-10-1",
    image_size: tuple[int, int] = IMAGE_SIZE,
) -> CheckpointInfo:
    return tiny_info(
        architecture=architecture,
        class_names=tuple("abcdefghij"),
        image_size=image_size,
        mean=(0.49, 0.48, 0.45),
        std=(0.25, 0.24, 0.26),
        dataset="made up",
        method="self-gradient" if block else "standard",
        block=BlockConfig(5, scale, gradient_scaling) if block else None,
        recipe={},
    )


def randomise(network: SelfGradientNetwork, seed: int = 0) -> SelfGradientNetwork:
    """Statistics as after training: a batch norm that does nothing would hide one that is exported wrongly."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
        elif isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.data.normal_(0, 0.1, generator=generator)
    return network.eval()


def network_around(backbone: nn.Module) -> SelfGradientNetwork:
    return randomise(SelfGradientNetwork(backbone, SelfGradientBlock(gradient_scaling="rms")))


class SecondSmallest(nn.Module):
    """A layer whose operator, aten::kthvalue, ONNX does not have."""

    def forward(self, features: Tensor) -> Tensor:
        return features - features.kthvalue(2, dim=1, keepdim=True).values


def varied_backbone() -> nn.Module:
    """Layers whose way back differs from a wide residual network's: pooling, strides, groups, other activations."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4),
        nn.LeakyReLU(0.1),
        nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Hardswish(),
        nn.AvgPool2d(3, stride=2, ceil_mode=True),
        nn.Conv2d(8, 16, 3, stride=1, padding=1, bias=False),
        nn.GroupNorm(4, 16),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d((5, 3)),
        nn.Hardsigmoid(),
        nn.Upsample(scale_factor=2),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
