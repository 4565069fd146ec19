"""Wide residual networks for small images.

Source: Zagoruyko and Komodakis, Wide Residual Networks (2016), the backbone of the paper's experiments (section 5.1.2).
"""

from torch import Tensor, nn

from training.networks.errors import ArchitectureError
from training.networks.names import check_depth_and_width


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU, beside a shortcut.

    Args:
        in_channels: Channels of the features.
        out_channels: Channels of the result.
        stride: Stride of the first convolution.
        shortcut_of_input: Where the shape changes: whether the shortcut starts at the block's input. Otherwise it
            starts after the first batch norm and ReLU, as in the source.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut_of_input: bool = False):
        super().__init__()
        self.shortcut_of_input = shortcut_of_input
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        same_shape = stride == 1 and in_channels == out_channels
        self.shortcut = None if same_shape else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        activated = self.relu1(self.norm1(features))
        shortcut = features
        if self.shortcut is not None:
            shortcut = self.shortcut(features if self.shortcut_of_input else activated)
        return shortcut + self.conv2(self.relu2(self.norm2(self.conv1(activated))))


def initialise_convolutions(network: nn.Module) -> None:
    """Draw the weights of every convolution anew, in place (He et al. 2015, by fan-out)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class WideResNet(nn.Module):
    """WRN-depth-width: a 3x3 convolution, three groups of blocks (strides 1, 2, 2), mean pooling, one linear layer.

    Args:
        depth: 6n + 4, with n blocks a group.
        width: Factor on the base channels 16, 32, 64.
        num_classes: How many logits.

    Raises:
        ArchitectureError: See check_depth_and_width.
    """

    def __init__(self, depth: int, width: int, num_classes: int):
        super().__init__()
        try:
            check_depth_and_width(depth, width)
        except ArchitectureError as error:
            raise ArchitectureError(f"wrn-{depth}-{width} does not exist: {error}") from None
        blocks_per_group = (depth - 4) // 6
        channels = 16
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        groups = []
        for out_channels, stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
            blocks = []
            for index in range(blocks_per_group):
                blocks.append(PreActivationBlock(channels, out_channels, stride if index == 0 else 1))
                channels = out_channels
            groups.append(nn.Sequential(*blocks))
        self.groups = nn.Sequential(*groups)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.classifier = nn.Linear(channels, num_classes)
        initialise_convolutions(self)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N, 3, H, W) of any size to logits (N, num_classes)."""
        features = self.relu(self.norm(self.groups(self.stem(images))))
        return self.classifier(features.mean(dim=(2, 3)))
