"""Networks with the key names of other programs, written from their published descriptions, to compare logits with."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NamedConvolution(nn.Conv2d):
    """A convolution without bias that keeps the size at stride 1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class WideBlock(nn.Module):
    """A block of RobustBench's and MadryLab's wide residual network."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), NamedConvolution(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), NamedConvolution(outputs, outputs, 3)
        if inputs != outputs:
            self.convShortcut = NamedConvolution(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        started = F.relu(self.bn1(x))
        aside = self.convShortcut(started) if hasattr(self, "convShortcut") else x
        return aside + self.conv2(F.relu(self.bn2(self.conv1(started))))


class WideGroup(nn.Module):
    def __init__(self, blocks: int, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.layer = nn.Sequential(
            *(WideBlock(outputs if index else inputs, outputs, 1 if index else stride) for index in range(blocks))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideReference(nn.Module):
    """A wide residual network; `twin` adds the first group that TRADES' program makes and never uses."""

    def __init__(self, blocks: int, width: int, classes: int, twin: bool = False):
        super().__init__()
        self.conv1 = NamedConvolution(3, 16, 3)
        self.block1 = WideGroup(blocks, 16, 16 * width, 1)
        if twin:
            self.sub_block1 = WideGroup(blocks, 16, 16 * width, 1)
        self.block2 = WideGroup(blocks, 16 * width, 32 * width, 2)
        self.block3 = WideGroup(blocks, 32 * width, 64 * width, 2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.avg_pool2d(F.relu(self.bn1(x)), 8).flatten(1))


SHORTCUT_AND_LINEAR, OTHER_SPELLING = ("shortcut", "linear"), ("downsample", "fc")
"""Names of the branch beside a block, and of the last layer: in kuangliu and RobustBench, and in torchvision."""


class PreActBlockReference(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, of_input: bool, aside: str):
        super().__init__()
        self.of_input, self.aside = of_input, aside
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), NamedConvolution(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), NamedConvolution(outputs, outputs, 3)
        if stride != 1 or inputs != outputs:
            self.add_module(aside, nn.Sequential(NamedConvolution(inputs, outputs, 1, stride)))

    def forward(self, x: Tensor) -> Tensor:
        started = F.relu(self.bn1(x))
        beside = getattr(self, self.aside, None)
        aside = x if beside is None else beside(x if self.of_input else started)
        return aside + self.conv2(F.relu(self.bn2(self.conv1(started))))


class ResidualBlockReference(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, aside: str):
        super().__init__()
        self.aside = aside
        self.conv1, self.bn1 = NamedConvolution(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = NamedConvolution(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        if stride != 1 or inputs != outputs:
            layers = (NamedConvolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
            self.add_module(aside, nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(inner + getattr(self, self.aside, nn.Identity())(x))


CHANNELS = ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))


class PreActReference(nn.Module):
    """RobustBench's and kuangliu's pre-activation ResNet-18.

    Args:
        classes: How many logits.
        of_input: Whether shortcuts start at the blocks' inputs.
        bn_before_fc: Whether batch norm and ReLU follow the last block.
        spelling: Names of the branch beside a block and of the last layer.
    """

    def __init__(
        self, classes: int, of_input: bool, bn_before_fc: bool, spelling: tuple[str, str] = SHORTCUT_AND_LINEAR
    ):
        super().__init__()
        aside, self.last = spelling
        self.conv1 = NamedConvolution(3, 64, 3)
        for number, (inputs, outputs, stride) in enumerate(CHANNELS, 1):
            first = PreActBlockReference(inputs, outputs, stride, of_input, aside)
            second = PreActBlockReference(outputs, outputs, 1, of_input, aside)
            self.add_module(f"layer{number}", nn.Sequential(first, second))
        if bn_before_fc:
            self.bn = nn.BatchNorm2d(512)
        self.add_module(self.last, nn.Linear(512, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        if hasattr(self, "bn"):
            x = F.relu(self.bn(x))
        return self.get_submodule(self.last)(F.avg_pool2d(x, 4).flatten(1))


class ResNetReference(nn.Module):
    """RobustBench's and kuangliu's ResNet-18; `spelling` names the branch beside a block and the last layer."""

    def __init__(self, classes: int, spelling: tuple[str, str] = SHORTCUT_AND_LINEAR):
        super().__init__()
        aside, self.last = spelling
        self.conv1, self.bn1 = NamedConvolution(3, 64, 3), nn.BatchNorm2d(64)
        for number, (inputs, outputs, stride) in enumerate(CHANNELS, 1):
            first = ResidualBlockReference(inputs, outputs, stride, aside)
            self.add_module(f"layer{number}", nn.Sequential(first, ResidualBlockReference(outputs, outputs, 1, aside)))
        self.add_module(self.last, nn.Linear(512, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        return self.get_submodule(self.last)(F.avg_pool2d(x, 4).flatten(1))


class Normalised(nn.Module):
    """A network with a normalisation layer of its own, as RobustBench's models carry it."""

    def __init__(self, model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.register_buffer("mu", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("sigma", torch.tensor(std).view(1, 3, 1, 1))
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x - self.get_buffer("mu")) / self.get_buffer("sigma"))


def lively(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draw batch norm's statistics and factors anew, so that no two tensors can be exchanged unseen."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(0, 0.2, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
            with torch.no_grad():
                layer.weight.uniform_(0.5, 1.5, generator=generator)
                layer.bias.normal_(0, 0.2, generator=generator)
    return module.eval()
