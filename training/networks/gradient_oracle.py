"""The gradient oracle of the paper's table 1: a network that is told the gradient of its own true loss.

It needs the true label of every picture that it classifies, so it is an experiment, never a classifier.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.errors import ArchitectureError
from training.networks.self_gradient import LogitsFunction, SelfGradientNetwork, frozen_batch_norm, rms_normalised


def with_gradient_input(backbone: nn.Module, channels: int) -> nn.Module:
    """Double the input channels of a backbone by replacing its first convolution, in place, and return the backbone.

    The image's weights stay. The gradient's are drawn with the same standard deviation.

    Raises:
        ArchitectureError: The backbone has no convolution on the image's channels.
    """
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == channels and module.groups == 1:
            wider = nn.Conv2d(
                2 * channels,
                module.out_channels,
                module.kernel_size,  # type: ignore[arg-type]
                module.stride,  # type: ignore[arg-type]
                module.padding,  # type: ignore[arg-type]
                module.dilation,  # type: ignore[arg-type]
                bias=module.bias is not None,
                padding_mode=module.padding_mode,
            )
            with torch.no_grad():
                wider.weight.normal_(0, module.weight.std().item())
                wider.weight[:, :channels] = module.weight
                if wider.bias is not None and module.bias is not None:
                    wider.bias.copy_(module.bias)
            parent, _, child = name.rpartition(".")
            setattr(backbone.get_submodule(parent), child, wider)
            return backbone
    raise ArchitectureError(
        f"a gradient oracle needs a backbone that begins with a convolution on {channels} channels; use a wrn-D-K"
    )


class GradientOracle(SelfGradientNetwork):
    """A plain network with a second picture as input: the gradient of its own true loss ("With Grad" in table 1).

    The gradient is computed in a first pass in which the gradient input is zero. It is data to the
    second pass (the paper: "extra information"): parameters are not differentiated through it. Each image's gradient is
    divided by its root mean square, because the raw one is too small (about 1e-3) to be read beside an image. The paper
    does not say how it scaled it.

    forward() has no labels, so it returns the logits without the oracle, with a gradient input of zero.

    Args:
        backbone: Maps (N, 6, H, W), the normalised image and the gradient, to logits.
        mean: Per-channel mean of images in [0, 1].
        std: Per-channel standard deviation.

    Source: Self-Gradient Networks, section 2, table 1.
    """

    def __init__(self, backbone: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__(backbone, None, mean, std)

    def plain_logits(self, images: Tensor) -> Tensor:
        """Return the logits with a gradient input of zero, (N, 3, H, W) to (N, classes)."""
        return self.informed_logits(images, torch.zeros_like(images))

    def informed_logits(self, images: Tensor, gradient: Tensor) -> Tensor:
        """Return the logits of images with a gradient given beside them, (N, 3, H, W) twice to (N, classes)."""
        return self.backbone(torch.cat(((images - self.mean) / self.std, gradient), dim=1))

    def loss_gradient(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the gradient of the true cross-entropy with respect to the images, divided by its root mean square.

        Args:
            images: (N, 3, H, W) in [0, 1].
            targets: (N) class indices, or (N, classes) shares.

        Returns:
            (N, 3, H, W), detached, each image's of root mean square 1.
        """
        inputs = images.detach().requires_grad_()
        with torch.enable_grad(), frozen_batch_norm(self):
            loss = F.cross_entropy(self.plain_logits(inputs).float(), targets, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, inputs)
        return rms_normalised(gradient)

    def oracle_logits(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the logits of images whose true labels are known, by both passes.

        Args:
            images: (N, 3, H, W) in [0, 1].
            targets: (N) class indices, or (N, classes) shares.

        Returns:
            (N, classes).
        """
        return self.informed_logits(images, self.loss_gradient(images, targets))

    def seen_with(self, targets: Tensor) -> LogitsFunction:
        """Return the network as the paper's attack sees it: with known labels, computing the gradient at each image."""
        return lambda images: self.oracle_logits(images, targets)
