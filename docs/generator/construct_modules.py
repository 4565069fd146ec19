"""Backbones and layers that each use a construct of PyTorch, as people write them.

docs.generator.constructs lists them with the result of their export.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGE_SIZE = (12, 12)
"""Height and width in pixels of the pictures that the backbones take."""
CLASSES = 5
CHANNELS = 8
"""Channels of the features."""


class Layer(nn.Module):
    """A layer of one function, which may use the modules that it is given."""

    def __init__(self, function: Callable[..., Tensor], *modules: nn.Module):
        """Make a layer that computes function(features, *modules)."""
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(modules)

    def forward(self, features: Tensor) -> Tensor:
        """Map features to features."""
        return self.function(features, *self.parts)


class Output(nn.Module):
    """A backbone whose logits are changed into its real output by a function."""

    def __init__(self, backbone: nn.Module, function: Callable[[Tensor], Any]):
        """Make a backbone that returns function(logits)."""
        super().__init__()
        self.backbone = backbone
        self.function = function

    def forward(self, images: Tensor) -> Any:
        """Map images to the output."""
        return self.function(self.backbone(images))


def around(*layers: nn.Module, channels: int = CHANNELS) -> nn.Module:
    """Return a backbone with these layers between a convolution and a classifier.

    Args:
        *layers: Map (N, 8, *IMAGE_SIZE) to feature maps.
        channels: Number of channels that they return.
    """
    stem = (nn.Conv2d(3, CHANNELS, 3, padding=1), nn.SiLU())
    return nn.Sequential(*stem, *layers, nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


def with_function(function: Callable[..., Tensor], *modules: nn.Module, channels: int = CHANNELS) -> nn.Module:
    """Return a backbone with a layer that computes function(features, *modules)."""
    return around(Layer(function, *modules), channels=channels)


def tokens_through(function: Callable[..., Tensor], *modules: nn.Module) -> nn.Module:
    """Return a backbone that turns feature maps into tokens (N, places, channels) and applies a function to them."""

    def apply(features: Tensor, *parts: nn.Module) -> Tensor:
        tokens = features[:, :, ::6, ::4].flatten(2).transpose(1, 2)
        return function(tokens, *parts).transpose(1, 2).unsqueeze(-1)

    return with_function(apply, *modules)


def write_on_a_view(features: Tensor) -> Tensor:
    """Write in place to a slice of a copy."""
    copy = features.clone()
    copy[:, :4, 2:6] = torch.tanh(features[:, 4:, 2:6])
    return copy


def add_to_a_view(features: Tensor) -> Tensor:
    """Compute in place on a view of a copy."""
    copy = features * 1
    copy[:, ::2].mul_(2).add_(features[:, 1::2])
    return copy


def attention(tokens: Tensor, projection: nn.Module) -> Tensor:
    """Map tokens to tokens by attention with two heads."""
    queries, keys, values = projection(tokens).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)


def causal_attention(tokens: Tensor, projection: nn.Module) -> Tensor:
    """Map tokens to tokens by attention to those before each."""
    queries, keys, values = projection(tokens).chunk(3, dim=-1)
    return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)


def weigh_windows(features: Tensor) -> Tensor:
    """Split feature maps into windows of 4x4, weigh each by its mean, and put them together, as Swin does."""
    count, channels, height, width = features.shape
    windows = features.view(count, channels, height // 4, 4, width // 4, 4).permute(0, 2, 4, 1, 3, 5)
    windows = windows.reshape(-1, channels, 4, 4)
    windows = windows * torch.sigmoid(windows.mean(dim=(2, 3), keepdim=True))
    windows = windows.view(count, height // 4, width // 4, channels, 4, 4)
    return windows.permute(0, 3, 1, 4, 2, 5).reshape(count, channels, height, width)


class SqueezeExcite(nn.Module):
    """Weigh channels by a function of their means. Source: Hu et al., Squeeze-and-Excitation Networks (2018)."""

    def __init__(self) -> None:
        """Make the two layers."""
        super().__init__()
        self.weights = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1), nn.Sigmoid()
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map feature maps to feature maps."""
        return features * self.weights(features)


class Positions(nn.Module):
    """Add a weight for each place, interpolated from a grid of another size."""

    def __init__(self) -> None:
        """Make the grid."""
        super().__init__()
        self.grid = nn.Parameter(torch.randn(1, CHANNELS, 5, 5))

    def forward(self, features: Tensor) -> Tensor:
        """Map feature maps to feature maps."""
        size = features.shape[-2:]
        return features + F.interpolate(self.grid, size=size, mode="bicubic", antialias=True, align_corners=False)


class ClassToken(nn.Module):
    """Prepend a learnt token to the others and return it after attention."""

    def __init__(self) -> None:
        """Make the token and the attention."""
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, CHANNELS))
        self.attention = nn.MultiheadAttention(CHANNELS, 2, batch_first=True)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, 1, 1)."""
        tokens = features[:, :, ::6, ::4].flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        return self.attention(tokens, tokens, tokens)[0][:, 0, :, None, None]


class StochasticDepth(nn.Module):
    """Add a branch, in training with a probability.

    Source: Huang et al., Deep Networks with Stochastic Depth (2016).
    """

    def __init__(self) -> None:
        """Make the branch."""
        super().__init__()
        self.branch = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map feature maps to feature maps."""
        if self.training and torch.rand(()) < 0.2:
            return features
        return features + self.branch(features)


class StraightThrough(torch.autograd.Function):
    """Round, with the gradient of doing nothing."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        """Map features to features."""
        return (features * 4).round() / 4

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Map the gradient of the result to that of the features."""
        return gradients[0]


class Swish(torch.autograd.Function):
    """Multiply x and sigmoid(x), which keeps less for its backward pass, as in older EfficientNets."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        """Map features to features."""
        ctx.save_for_backward(features)
        return features * features.sigmoid()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Map the gradient of the result to that of the features."""
        (features,) = ctx.saved_tensors
        sigmoid = features.sigmoid()
        return gradients[0] * sigmoid * (1 + features * (1 - sigmoid))


def branch_on_data(features: Tensor) -> Tensor:
    """Choose between two results by a branch of Python."""
    return features if features.sum() > 0 else -features


def choose_by_comparison(features: Tensor) -> Tensor:
    """Choose between two results by torch.where."""
    return torch.where(features > 0.1, features, 0.2 * features.tanh())


def without_gradient(features: Tensor) -> Tensor:
    """Double features without a gradient."""
    with torch.no_grad():
        return features * 2


def partly_without_gradient(features: Tensor) -> Tensor:
    """Divide features by their largest value, which has no gradient."""
    with torch.no_grad():
        scale = features.abs().amax(dim=(1, 2, 3), keepdim=True)
    return features / scale


def deform(features: Tensor, offsets: nn.Module) -> Tensor:
    """Map features to features by a deformable convolution."""
    from torchvision.ops import deform_conv2d

    return deform_conv2d(features, offsets(features), torch.ones(CHANNELS, CHANNELS, 3, 3) / 72, padding=1)


def quantised_backbone() -> nn.Module:
    """Return a backbone with a dynamically quantised layer."""
    layer = nn.Sequential(nn.Linear(CHANNELS, CLASSES))
    with warnings.catch_warnings(action="ignore"):  # PyTorch moves it to another package
        quantised = torch.ao.quantization.quantize_dynamic(layer, {nn.Linear}, dtype=torch.qint8)
    return nn.Sequential(nn.Conv2d(3, CHANNELS, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), quantised)


def recurrent(tokens: Tensor, layer: nn.Module) -> Tensor:
    """Return the outputs of a recurrent layer."""
    outputs: Tensor = layer(tokens)[0]
    return outputs


def pool_and_unpool(features: Tensor) -> Tensor:
    """Pool features with indices, and put the maxima back where they were."""
    pooled, indices = F.max_pool2d(features, 2, return_indices=True)
    return F.max_unpool2d(pooled.tanh(), indices, [2, 2])


def unfold_and_fold(features: Tensor) -> Tensor:
    """Cut features into patches and put these back together."""
    columns = F.unfold(features, 3, padding=1, stride=3)
    return F.fold(columns.tanh(), features.shape[-2:], 3, padding=1, stride=3)


def gather_channels(features: Tensor) -> Tensor:
    """Add the channels in reverse order."""
    order = torch.arange(CHANNELS).flip(0).view(1, -1, 1, 1).expand_as(features)
    return features + features.gather(1, order)


def sort_channels(features: Tensor) -> Tensor:
    """Sort the channels at each pixel."""
    return features.sort(dim=1).values


def sort_pixels(images: Tensor) -> Tensor:
    """Sort the pixels of images, some of which are equal."""
    return images.flatten(2).sort(dim=2).values.view(images.shape)


def sort_pixels_stably(images: Tensor) -> Tensor:
    """Sort the pixels of images and keep equal ones in order, rising and falling."""
    pixels = images.flatten(2)
    falling = pixels.sort(dim=2, descending=True, stable=True).values
    return (pixels.sort(dim=2, stable=True).values + 0.5 * falling).view(images.shape)


def largest_pixels(images: Tensor) -> Tensor:
    """Weigh images by the mean of their largest pixels."""
    return images * images.flatten(2).topk(20, dim=2).values.mean(2)[..., None, None]


def spectrum(features: Tensor) -> Tensor:
    """Return the magnitudes of the Fourier transform."""
    return torch.fft.rfft2(features).abs()


def grid_sample(features: Tensor) -> Tensor:
    """Sample features at a grid of points."""
    steps = torch.linspace(-0.9, 0.9, 9)
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).expand(features.shape[0], -1, -1, -1)
    return F.grid_sample(features, grid, align_corners=False)


def add_rows(features: Tensor) -> Tensor:
    """Add the number of its row to each pixel."""
    rows = torch.arange(features.shape[2], device=features.device, dtype=features.dtype)
    return features + rows.view(1, 1, -1, 1) / features.shape[2]


def lazy_backbone() -> nn.Module:
    """Return a backbone whose layers learn their sizes from the first pictures."""
    return nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(CLASSES))


def convolution(**options: Any) -> nn.Module:
    """Return a 3x3 convolution that keeps the number of channels."""
    return nn.Conv2d(CHANNELS, CHANNELS, 3, **options)
