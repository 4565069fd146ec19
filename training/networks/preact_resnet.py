"""The pre-activation residual network of 18 layers for small images.

The form is the one that robustness research uses for CIFAR: a 3x3 stem without pooling, batch norm and ReLU after the
last block.

Source: He et al., Identity Mappings in Deep Residual Networks (2016); the form: Rice et al., Overfitting in
Adversarially Robust Deep Learning (2020), and RobustBench's one-step models.
"""

from torch import Tensor, nn

from training.networks.wide_resnet import PreActivationBlock, initialise_convolutions


class PreActResNet18(nn.Module):
    """A 3x3 convolution, four groups of two blocks (64, 128, 256, 512 channels; strides 1, 2, 2, 2), one linear layer.

    Args:
        num_classes: How many logits.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        channels = 64
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        blocks = []
        for out_channels, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            blocks += [
                PreActivationBlock(channels, out_channels, stride),
                PreActivationBlock(out_channels, out_channels, 1),
            ]
            channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.classifier = nn.Linear(channels, num_classes)
        initialise_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N, 3, H, W) of any size to logits (N, num_classes)."""
        features = self.relu(self.norm(self.blocks(self.stem(images))))
        return self.classifier(features.mean(dim=(2, 3)))
