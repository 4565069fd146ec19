"""The residual network of 18 layers for small images: a 3x3 stem without pooling.

Source: He et al., Deep Residual Learning for Image Recognition (2016); the form: RobustBench's ResNet18,
https://github.com/RobustBench/robustbench.
"""

from torch import Tensor, nn

from training.networks.wide_resnet import initialise_convolutions


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, beside a shortcut, and ReLU after the sum."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        result = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(features)))))
        return self.relu2(result + (features if self.shortcut is None else self.shortcut(features)))


class ResNet18(nn.Module):
    """A 3x3 convolution, four groups of two blocks (64, 128, 256, 512 channels; strides 1, 2, 2, 2), one linear layer.

    Args:
        num_classes: How many logits.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        channels = 64
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        blocks = []
        for out_channels, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            blocks += [ResidualBlock(channels, out_channels, stride), ResidualBlock(out_channels, out_channels, 1)]
            channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, num_classes)
        initialise_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N, 3, H, W) of any size to logits (N, num_classes)."""
        features = self.blocks(self.relu(self.norm(self.stem(images))))
        return self.classifier(features.mean(dim=(2, 3)))
