"""The pre-activation residual network of 18 layers for small images.

The form is the one that robustness research uses for CIFAR: a 3x3 stem without pooling. Its programs differ in where a
block's shortcut starts, and in whether batch norm and ReLU follow the last block.

Source: He et al., Identity Mappings in Deep Residual Networks (2016); the forms: RobustBench's PreActBlock,
PreActBlockV2 and bn_before_fc, https://github.com/RobustBench/robustbench.
"""

import re

from torch import Tensor, nn

from training.networks.wide_resnet import PreActivationBlock, initialise_convolutions


class PreActResNet18(nn.Module):
    """A 3x3 convolution, four groups of two blocks (64, 128, 256, 512 channels; strides 1, 2, 2, 2), one linear layer.

    Args:
        num_classes: How many logits.
        shortcut_of_input: Where a block's shortcut starts; see PreActivationBlock. True is RobustBench's PreActBlock,
            False its PreActBlockV2.
        last_norm: Whether batch norm and ReLU follow the last block.
    """

    def __init__(self, num_classes: int, shortcut_of_input: bool = False, last_norm: bool = True):
        super().__init__()
        channels = 64
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        blocks = []
        for out_channels, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            blocks += [
                PreActivationBlock(channels, out_channels, stride, shortcut_of_input),
                PreActivationBlock(out_channels, out_channels, 1, shortcut_of_input),
            ]
            channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(channels) if last_norm else None
        self.relu = nn.ReLU()
        self.classifier = nn.Linear(channels, num_classes)
        initialise_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N, 3, H, W) of any size to logits (N, num_classes)."""
        features = self.blocks(self.stem(images))
        if self.norm is not None:
            features = self.relu(self.norm(features))
        return self.classifier(features.mean(dim=(2, 3)))


def preact_resnet_18(arch: str, num_classes: int) -> PreActResNet18 | None:
    """Return the network of that name: preact-resnet-18, with -v1 and -nonorm or without; None for another name.

    -v1 starts the shortcuts at the blocks' inputs. -nonorm leaves out the last batch norm and ReLU.
    """
    match = re.fullmatch(r"preact-resnet-18(-v1)?(-nonorm)?", arch)
    if match is None:
        return None
    return PreActResNet18(num_classes, shortcut_of_input=match[1] is not None, last_norm=match[2] is None)
