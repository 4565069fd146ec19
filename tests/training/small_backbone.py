"""A backbone of a few layers, for tests in which it does not matter how deep the network is."""

from torch import Tensor, nn


class SmallBackbone(nn.Module):
    """Convolutions, batch norms, ReLUs, mean pooling and a linear layer: a step costs a fraction of a WRN-10-1's.

    Args:
        num_classes: How many logits.
        width: Channels of the first convolution; the second has twice as many.
    """

    def __init__(self, num_classes: int, width: int = 8) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(2 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N, 3, H, W) to logits (N, num_classes)."""
        logits: Tensor = self.classifier(self.features(images).mean(dim=(2, 3)))
        return logits
