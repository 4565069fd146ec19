"""Small backbones, each of an ordinary construct of PyTorch, and what export makes of them.

The page about own backbones shows them as a table. tests/export/test_constructs.py exports every one of them.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from docs.generator.markdown import words_table

IMAGE_SIZE = (12, 12)
"""Height and width in pixels of the pictures that the backbones take."""
CLASSES = 5
_CHANNELS = 8


@dataclass(frozen=True)
class Construct:
    """A construct of PyTorch, in a backbone of a few layers.

    Attributes:
        name: The construct as Markdown.
        build: Makes the backbone, which maps (N, 3, *IMAGE_SIZE) to logits (N, CLASSES).
        refusal: Pattern of the one-line refusal: the layer, the cause, and the cure. Empty if it is exported.
        cause: Why it is refused, for the table.
        cure: The remedy, for the table.
    """

    name: str
    build: Callable[[], nn.Module]
    refusal: str = ""
    cause: str = ""
    cure: str = ""


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


def around(*layers: nn.Module, channels: int = _CHANNELS) -> nn.Module:
    """Return a backbone with these layers between a convolution and a classifier.

    Args:
        *layers: Map (N, 8, *IMAGE_SIZE) to feature maps.
        channels: Number of channels that they return.
    """
    stem = (nn.Conv2d(3, _CHANNELS, 3, padding=1), nn.SiLU())
    return nn.Sequential(*stem, *layers, nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


def with_function(function: Callable[..., Tensor], *modules: nn.Module, channels: int = _CHANNELS) -> nn.Module:
    """Return a backbone with a layer that computes function(features, *modules)."""
    return around(Layer(function, *modules), channels=channels)


def tokens_through(function: Callable[..., Tensor], *modules: nn.Module) -> nn.Module:
    """Return a backbone that turns feature maps into tokens (N, places, channels) and applies a function to them."""

    def apply(features: Tensor, *parts: nn.Module) -> Tensor:
        tokens = features[:, :, ::6, ::4].flatten(2).transpose(1, 2)
        return function(tokens, *parts).transpose(1, 2).unsqueeze(-1)

    return with_function(apply, *modules)


def _write_on_a_view(features: Tensor) -> Tensor:
    copy = features.clone()
    copy[:, :4, 2:6] = torch.tanh(features[:, 4:, 2:6])
    return copy


def _add_to_a_view(features: Tensor) -> Tensor:
    copy = features * 1
    copy[:, ::2].mul_(2).add_(features[:, 1::2])
    return copy


def _attention(tokens: Tensor, projection: nn.Module) -> Tensor:
    queries, keys, values = projection(tokens).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)


def _causal_attention(tokens: Tensor, projection: nn.Module) -> Tensor:
    queries, keys, values = projection(tokens).chunk(3, dim=-1)
    return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)


def _windows(features: Tensor) -> Tensor:
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
        self.grid = nn.Parameter(torch.randn(1, _CHANNELS, 5, 5))

    def forward(self, features: Tensor) -> Tensor:
        """Map feature maps to feature maps."""
        size = features.shape[-2:]
        return features + F.interpolate(self.grid, size=size, mode="bicubic", antialias=True, align_corners=False)


class ClassToken(nn.Module):
    """Prepend a learnt token to the others and return it after attention."""

    def __init__(self) -> None:
        """Make the token and the attention."""
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, _CHANNELS))
        self.attention = nn.MultiheadAttention(_CHANNELS, 2, batch_first=True)

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
        self.branch = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map feature maps to feature maps."""
        if self.training and torch.rand(()) < 0.2:
            return features
        return features + self.branch(features)


class _StraightThrough(torch.autograd.Function):
    """Round, with the gradient of doing nothing."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        return (features * 4).round() / 4

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0]


class _Swish(torch.autograd.Function):
    """x * sigmoid(x), which keeps less for its backward pass, as in older EfficientNets."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        return features * features.sigmoid()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (features,) = ctx.saved_tensors
        sigmoid = features.sigmoid()
        return gradients[0] * sigmoid * (1 + features * (1 - sigmoid))


def _branch_on_data(features: Tensor) -> Tensor:
    return features if features.sum() > 0 else -features


def _choose_by_comparison(features: Tensor) -> Tensor:
    return torch.where(features > 0.1, features, 0.2 * features.tanh())


def _without_gradient(features: Tensor) -> Tensor:
    with torch.no_grad():
        return features * 2


def _partly_without_gradient(features: Tensor) -> Tensor:
    with torch.no_grad():
        scale = features.abs().amax(dim=(1, 2, 3), keepdim=True)
    return features / scale


def _deform(features: Tensor, offsets: nn.Module) -> Tensor:
    from torchvision.ops import deform_conv2d

    return deform_conv2d(features, offsets(features), torch.ones(_CHANNELS, _CHANNELS, 3, 3) / 72, padding=1)


def _quantised() -> nn.Module:
    layer = nn.Sequential(nn.Linear(_CHANNELS, CLASSES))
    with warnings.catch_warnings(action="ignore"):  # PyTorch moves it to another package
        quantised = torch.ao.quantization.quantize_dynamic(layer, {nn.Linear}, dtype=torch.qint8)
    return nn.Sequential(nn.Conv2d(3, _CHANNELS, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), quantised)


def _recurrent(tokens: Tensor, layer: nn.Module) -> Tensor:
    outputs: Tensor = layer(tokens)[0]
    return outputs


def _unpool(features: Tensor) -> Tensor:
    pooled, indices = F.max_pool2d(features, 2, return_indices=True)
    return F.max_unpool2d(pooled.tanh(), indices, [2, 2])


def _fold(features: Tensor) -> Tensor:
    columns = F.unfold(features, 3, padding=1, stride=3)
    return F.fold(columns.tanh(), features.shape[-2:], 3, padding=1, stride=3)


def _gather(features: Tensor) -> Tensor:
    order = torch.arange(_CHANNELS).flip(0).view(1, -1, 1, 1).expand_as(features)
    return features + features.gather(1, order)


def _sort(features: Tensor) -> Tensor:
    return features.sort(dim=1).values


def _sort_pixels(images: Tensor) -> Tensor:
    return images.flatten(2).sort(dim=2).values.view(images.shape)


def _sort_pixels_stably(images: Tensor) -> Tensor:
    pixels = images.flatten(2)
    falling = pixels.sort(dim=2, descending=True, stable=True).values
    return (pixels.sort(dim=2, stable=True).values + 0.5 * falling).view(images.shape)


def _largest_pixels(images: Tensor) -> Tensor:
    return images * images.flatten(2).topk(20, dim=2).values.mean(2)[..., None, None]


def _spectrum(features: Tensor) -> Tensor:
    return torch.fft.rfft2(features).abs()


def _grid_sample(features: Tensor) -> Tensor:
    steps = torch.linspace(-0.9, 0.9, 9)
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).expand(features.shape[0], -1, -1, -1)
    return F.grid_sample(features, grid, align_corners=False)


def _one_hot_position(features: Tensor) -> Tensor:
    rows = torch.arange(features.shape[2], device=features.device, dtype=features.dtype)
    return features + rows.view(1, 1, -1, 1) / features.shape[2]


def _lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(CLASSES))


def _conv(**options: Any) -> nn.Module:
    return nn.Conv2d(_CHANNELS, _CHANNELS, 3, **options)


CONSTRUCTS = (
    Construct('`Conv2d(padding_mode="circular")`', lambda: around(_conv(padding=2, padding_mode="circular"))),
    Construct('`Conv2d(padding_mode="reflect")`', lambda: around(_conv(padding=1, padding_mode="reflect"))),
    Construct('`Conv2d(padding_mode="replicate")`', lambda: around(_conv(padding=(1, 2), padding_mode="replicate"))),
    Construct('`Conv2d(padding="same")`, even kernel', lambda: around(nn.Conv2d(8, 8, 4, padding="same"))),
    Construct("grouped convolution", lambda: around(_conv(groups=4))),
    Construct("depthwise convolution, strided", lambda: around(_conv(groups=8, stride=2, padding=1))),
    Construct("dilated convolution", lambda: around(_conv(dilation=2, padding=2))),
    Construct(
        "transposed convolution, strided, grouped",
        lambda: around(nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1, groups=2)),
    ),
    Construct(
        "`Conv1d` over places",
        lambda: with_function(lambda x, conv: conv(x.flatten(2)).unflatten(2, (12, 12)), nn.Conv1d(8, 8, 3, padding=1)),
    ),
    Construct(
        "`Conv3d` over channels",
        lambda: with_function(lambda x, conv: conv(x.unsqueeze(1)).mean(1), nn.Conv3d(1, 2, 3, padding=1)),
    ),
    Construct('`interpolate(mode="nearest")`', lambda: around(nn.Upsample(size=(17, 9)))),
    Construct('`interpolate(mode="bilinear")`', lambda: around(nn.Upsample(scale_factor=1.5, mode="bilinear"))),
    Construct('`interpolate(mode="bicubic")`', lambda: around(nn.Upsample(size=(7, 20), mode="bicubic"))),
    Construct(
        '`interpolate(mode="bilinear", antialias=True)`',
        lambda: with_function(lambda x: F.interpolate(x, size=(5, 7), mode="bilinear", antialias=True)),
    ),
    Construct(
        '`interpolate(mode="bicubic", antialias=True)`',
        lambda: with_function(lambda x: F.interpolate(x, size=(5, 7), mode="bicubic", antialias=True)),
    ),
    Construct(
        '`interpolate(mode="area")`', lambda: with_function(lambda x: F.interpolate(x, size=(5, 7), mode="area"))
    ),
    Construct("images resized inside", lambda: nn.Sequential(nn.Upsample(size=(16, 16), mode="bilinear"), around())),
    Construct("`AdaptiveAvgPool2d` of odd sizes", lambda: around(nn.AdaptiveAvgPool2d((5, 7)))),
    Construct("`AdaptiveMaxPool2d(1)`", lambda: around(nn.AdaptiveMaxPool2d(1))),
    Construct("`AdaptiveMaxPool2d` of even sizes", lambda: around(nn.AdaptiveMaxPool2d((4, 3)))),
    Construct("`AdaptiveMaxPool2d` of odd sizes", lambda: around(nn.AdaptiveMaxPool2d((5, 7)))),
    Construct("`MaxPool2d(ceil_mode=True)`", lambda: around(nn.MaxPool2d(3, stride=2, ceil_mode=True))),
    Construct("`MaxPool2d` dilated and padded", lambda: around(nn.MaxPool2d(3, stride=1, padding=1, dilation=2))),
    Construct("`max_pool2d(return_indices=True)`, `max_unpool2d`", lambda: with_function(_unpool)),
    Construct(
        "`AvgPool2d(ceil_mode=True, count_include_pad=False)`",
        lambda: around(nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False)),
    ),
    Construct("`LPPool2d`", lambda: around(nn.LPPool2d(2, 3))),
    Construct(
        "generalised mean pooling",
        lambda: with_function(lambda x: x.clamp(min=1e-6).pow(3).mean(dim=(2, 3), keepdim=True).pow(1 / 3)),
    ),
    Construct("`BatchNorm2d`", lambda: around(nn.BatchNorm2d(8))),
    Construct("`BatchNorm2d(affine=False)`", lambda: around(nn.BatchNorm2d(8, affine=False))),
    Construct("`LayerNorm`", lambda: tokens_through(lambda x, norm: norm(x), nn.LayerNorm(8))),
    Construct("`GroupNorm`", lambda: around(nn.GroupNorm(4, 8))),
    Construct("`InstanceNorm2d`", lambda: around(nn.InstanceNorm2d(8, affine=True))),
    Construct(
        "`InstanceNorm2d(track_running_stats=True)`", lambda: around(nn.InstanceNorm2d(8, track_running_stats=True))
    ),
    Construct("`RMSNorm`", lambda: tokens_through(lambda x, norm: norm(x), nn.RMSNorm(8))),
    Construct("`LocalResponseNorm`", lambda: around(nn.LocalResponseNorm(3))),
    Construct("`weight_norm`", lambda: around(parametrizations.weight_norm(_conv()))),
    Construct("`spectral_norm`", lambda: around(parametrizations.spectral_norm(_conv()))),
    Construct(
        "weights standardised in each pass",
        lambda: with_function(
            lambda x, conv: F.conv2d(x, (conv.weight - conv.weight.mean((1, 2, 3), keepdim=True)) / conv.weight.std()),
            _conv(),
        ),
    ),
    Construct("`ReLU6`", lambda: around(nn.ReLU6())),
    Construct("`LeakyReLU(inplace=True)`", lambda: around(_conv(), nn.LeakyReLU(0.1, inplace=True))),
    Construct("`PReLU`", lambda: around(nn.PReLU(8))),
    Construct('`GELU`, `GELU(approximate="tanh")`', lambda: around(nn.GELU(), _conv(), nn.GELU(approximate="tanh"))),
    Construct(
        "`Hardswish`, `Hardsigmoid`, `Hardtanh`", lambda: around(nn.Hardswish(), nn.Hardtanh(), nn.Hardsigmoid())
    ),
    Construct("`Softplus`, `Mish`, `ELU`", lambda: around(nn.Softplus(), nn.Mish(), nn.ELU())),
    Construct("`GLU`", lambda: around(nn.GLU(dim=1), channels=4)),
    Construct(
        "`CELU`, `SELU`, `LogSigmoid`, `Softsign`", lambda: around(nn.CELU(), nn.SELU(), nn.LogSigmoid(), nn.Softsign())
    ),
    Construct(
        "`RReLU`, `Threshold`, `Hardshrink`", lambda: around(nn.RReLU(), nn.Threshold(0.1, 0.1), nn.Hardshrink(0.2))
    ),
    Construct("`Softmax` inside", lambda: around(nn.Softmax(dim=1))),
    Construct("in-place write to a slice", lambda: with_function(_write_on_a_view)),
    Construct("in-place arithmetic on a view", lambda: with_function(_add_to_a_view)),
    Construct(
        "`einsum`",
        lambda: with_function(
            lambda x, conv: torch.einsum("nchw,oc->nohw", x, conv.weight[:, :, 0, 0]), nn.Conv2d(8, 8, 1)
        ),
    ),
    Construct(
        "`bmm`, products of feature maps",
        lambda: with_function(lambda x: torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2)).unsqueeze(-1) / 144),
    ),
    Construct(
        "`PixelShuffle`, `PixelUnshuffle`",
        lambda: around(nn.PixelUnshuffle(2), nn.Conv2d(32, 32, 1), nn.PixelShuffle(2)),
    ),
    Construct("`ChannelShuffle`", lambda: around(nn.ChannelShuffle(4), _conv(groups=2))),
    Construct("`roll`, `flip`", lambda: with_function(lambda x: x.roll((2, -3), (2, 3)) + x.flip(3))),
    Construct("windows by `view` and `permute`", lambda: with_function(_windows)),
    Construct("`unfold`, `fold`", lambda: with_function(_fold)),
    Construct("`Tensor.unfold`", lambda: with_function(lambda x: x.unfold(2, 3, 3).amax(-1))),
    Construct("`gather`", lambda: with_function(_gather)),
    Construct("indexing by a list", lambda: with_function(lambda x: x[:, [3, 1, 0, 2, 7, 6, 5, 4]] * x)),
    Construct("`sort`", lambda: with_function(_sort)),
    Construct("`sort(stable=True)` of equal values", lambda: nn.Sequential(Layer(_sort_pixels_stably), around())),
    Construct("`topk`", lambda: with_function(lambda x: x.topk(3, dim=1).values, channels=3)),
    Construct(
        "`amax`, `std`, `logsumexp`, `cumsum`",
        lambda: with_function(
            lambda x: x.amax(1, keepdim=True) + x.std(1, keepdim=True) + x.logsumexp(1, keepdim=True) + x.cumsum(1)
        ),
    ),
    Construct(
        "`split`, `chunk`, `cat`, `stack`",
        lambda: with_function(
            lambda x: (
                torch.cat([*x.split([3, 5], dim=1)][::-1], dim=1) + torch.stack(x.chunk(2, dim=1), dim=2).flatten(1, 2)
            )
        ),
    ),
    Construct(
        "`where`, `clamp`, `abs`, `minimum`",
        lambda: with_function(lambda x: _choose_by_comparison(x).clamp(-1, 1).abs() + torch.minimum(x, x.flip(1))),
    ),
    Construct(
        "`norm`, `normalize`, cosine classifier",
        lambda: with_function(lambda x: F.normalize(x, dim=1) * x.norm(dim=1, keepdim=True).clamp(min=0.1)),
    ),
    Construct("`grid_sample`", lambda: with_function(_grid_sample)),
    Construct("`scaled_dot_product_attention`", lambda: tokens_through(_attention, nn.Linear(8, 24))),
    Construct(
        "`scaled_dot_product_attention(is_causal=True)`", lambda: tokens_through(_causal_attention, nn.Linear(8, 24))
    ),
    Construct("`MultiheadAttention`, class token", lambda: around(ClassToken())),
    Construct(
        "`TransformerEncoderLayer`",
        lambda: tokens_through(lambda x, layer: layer(x), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)),
    ),
    Construct(
        "`TransformerEncoderLayer(norm_first=True)`, not `batch_first`",
        lambda: tokens_through(
            lambda x, layer: layer(x.transpose(0, 1)).transpose(0, 1),
            nn.TransformerEncoderLayer(8, 2, 16, norm_first=True),
        ),
    ),
    Construct("weights of places, interpolated", lambda: around(Positions())),
    Construct("coordinates by `arange`", lambda: with_function(_one_hot_position)),
    Construct("squeeze and excitation", lambda: around(SqueezeExcite())),
    Construct("stochastic depth", lambda: around(StochasticDepth())),
    Construct(
        "`Dropout`, `Dropout2d`, `AlphaDropout`", lambda: around(nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout())
    ),
    Construct("`GRU`", lambda: tokens_through(_recurrent, nn.GRU(8, 8, batch_first=True))),
    Construct(
        "`LSTM(bidirectional=True)`",
        lambda: tokens_through(_recurrent, nn.LSTM(8, 4, batch_first=True, bidirectional=True)),
    ),
    Construct("`RNN`", lambda: tokens_through(_recurrent, nn.RNN(8, 8, batch_first=True))),
    Construct("`Bilinear`", lambda: tokens_through(lambda x, layer: layer(x, x.flip(1)), nn.Bilinear(8, 8, 8))),
    Construct("`autograd.Function`", lambda: with_function(_Swish.apply)),
    Construct("`autograd.Function`, straight-through", lambda: with_function(_StraightThrough.apply)),
    Construct(
        "`checkpoint` of activations",
        lambda: with_function(lambda x, conv: torch.utils.checkpoint.checkpoint(conv, x, use_reentrant=False), _conv()),
    ),
    Construct("`no_grad` in a branch, `detach`", lambda: with_function(_partly_without_gradient)),
    Construct("`torch.jit.script` module", lambda: around(torch.jit.script(_conv()))),
    Construct("float64 inside", lambda: with_function(lambda x: x.double().softmax(1).float())),
    Construct(
        "a linear layer on the pixels",
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.ReLU(), nn.Linear(16, CLASSES)),
    ),
    Construct("lazy layers", _lazy),
    Construct(
        "a dict with one tensor of logits", lambda: Output(around(), lambda logits: {"logits": logits, "loss": None})
    ),
    Construct("a tuple of one tensor", lambda: Output(around(), lambda logits: (logits,))),
    Construct(
        "a tuple of logits and feature maps",
        lambda: Output(around(), lambda logits: (logits, logits[:, :, None, None])),
    ),
    Construct("`log_softmax` at the end", lambda: Output(around(), lambda logits: logits.log_softmax(1))),
    Construct("`sigmoid` at the end", lambda: Output(around(), torch.sigmoid)),
    Construct(
        "`item`, `masked_select` of weights",
        lambda: with_function(
            lambda x, conv: x * conv.weight.amax().item() + conv.weight.masked_select(conv.weight > -9).mean(),
            nn.Conv2d(1, 1, 1),
        ),
    ),
    Construct(
        "`softmax` at the end",
        lambda: Output(around(), lambda logits: logits.softmax(1)),
        r"the backbone ends in a softmax: .*; return the logits from before the softmax",
        "the results' sum is 1 for every picture and has no gradient",
        "return the logits from before it",
    ),
    Construct(
        "logits whose mean is subtracted",
        lambda: Output(around(), lambda logits: logits - logits.mean(1, keepdim=True)),
        r"the backbone's logits have the same sum for every picture, .*; leave that last step out",
        "the logits' sum is 0 for every picture and has no gradient",
        "leave that step out; it changes no probability",
    ),
    Construct(
        "pooling right after a normalisation of each channel",
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)
        ),
        r"the backbone's logits have the same sum for every picture, .* pooling follows a normalisation",
        "every picture has the same logits, but for rounding",
        "an activation between the two",
    ),
    Construct(
        "`argmax` at the end",
        lambda: Output(around(), lambda logits: logits.argmax(1)),
        r"the backbone returns whole numbers \(4,\), as from argmax, .*; return the logits",
        "whole numbers have no gradient",
        "return the logits",
    ),
    Construct(
        "a tuple of two results that may be logits",
        lambda: Output(around(), lambda logits: (logits, logits)),
        r"returns a tuple of 0 \(4, 5\), 1 \(4, 5\), and which of them .*; return the logits",
        "which of them are the logits is not plain",
        "return the logits, or a dict with `logits`",
    ),
    Construct(
        "feature maps instead of logits",
        lambda: nn.Conv2d(3, 8, 3),
        r"the backbone returns \(4, 8, 10, 10\) for 4 pictures, not logits \(N, classes\); end it with pooling",
        "an answer is one row of logits a picture",
        "pooling, `nn.Flatten()` and a linear layer at the end",
    ),
    Construct(
        "`BatchNorm2d(track_running_stats=False)`",
        lambda: around(nn.BatchNorm2d(8, track_running_stats=False)),
        r"layer backbone\.2 \(BatchNorm2d\) lets a picture's answer depend on its neighbours .*; train with running",
        "a picture's answer depends on the others in its batch",
        "running statistics, or `nn.GroupNorm`",
    ),
    Construct(
        "a mean over the batch",
        lambda: with_function(lambda x: x - x.mean(0, keepdim=True)),
        r"layer backbone\.2 \(Layer\) lets a picture's answer depend on its neighbours .*; train with running",
        "a picture's answer depends on the others in its batch",
        "a mean over each picture",
    ),
    Construct(
        "`F.dropout(x, 0.5)`",
        lambda: with_function(lambda x: F.dropout(x, 0.5)),
        r"layer backbone\.2 \(Layer\) gives another result each time, .*; call F\.dropout\(\.\.\., training=self",
        "it is random in eval mode too",
        "`F.dropout(x, 0.5, self.training)` or `nn.Dropout`",
    ),
    Construct(
        "`no_grad` around a layer, `detach`",
        lambda: with_function(_without_gradient),
        r"layer backbone\.2 \(Layer\) has no gradient, as under torch\.no_grad\(\), .*; compute it with",
        "no gradient gets back to the image",
        "leave `no_grad` to the caller",
    ),
    Construct(
        "`bucketize`, comparisons alone",
        lambda: with_function(lambda x: torch.bucketize(x, torch.linspace(-1, 1, 9)).float()),
        r"layer backbone\.2 \(Layer\) has no gradient, .*; compute it with",
        "no gradient gets back to the image",
        "a smooth function, or a straight-through gradient",
    ),
    Construct(
        "NumPy inside",
        lambda: with_function(lambda x: torch.from_numpy(x.detach().numpy() * 2)),
        r"layer backbone\.2 \(Layer\) has no gradient, .*; compute it with PyTorch's",
        "no gradient gets back to the image",
        "torch's function of the same name",
    ),
    Construct(
        "dynamically quantised layers",
        _quantised,
        r"layer backbone\.3\.0 \(Linear\) lets a picture's answer depend on its neighbours",
        "their scale follows from the whole batch",
        "the unquantised network with `--precision bf16`",
    ),
    Construct(
        "a branch that depends on the data",
        lambda: with_function(_branch_on_data),
        r"layer backbone\.2 \(Layer\), calling torch\.Tensor\.__bool__: .*; choose with torch\.where",
        "a graph has one way for all pictures",
        "`torch.where`",
    ),
    Construct(
        "a loop over the pictures, `x[i].max().item()`",
        lambda: with_function(lambda x: torch.stack([picture * picture.amax().item() for picture in x])),
        r"layer backbone\.2 \(Layer\) fixes the batch size, as .* a loop over pictures .*; write x\.shape\[0\]",
        "Python runs it once for each picture",
        "functions of all pictures, such as `x.amax((1, 2, 3))`",
    ),
    Construct(
        "`len(x)` as the batch size",
        lambda: with_function(lambda x: x + torch.ones(len(x), 1, 1, 1)),
        r"layer backbone\.2 \(Layer\) fixes the batch size, as len\(x\), .*; write x\.shape\[0\]",
        "Python makes a fixed number of it",
        "`x.shape[0]`",
    ),
    Construct(
        "`sort` of equal values, such as pixels",
        lambda: nn.Sequential(Layer(_sort_pixels), around()),
        r"differ from PyTorch's: sort at its layer backbone\.0 \(Layer\) may put equal values .*; pass stable=True",
        "equal values get another order, and so do their gradients",
        "`sort(stable=True)`",
    ),
    Construct(
        "`topk` of equal values, such as pixels",
        lambda: nn.Sequential(Layer(_largest_pixels), around()),
        r"differ from PyTorch's: topk at its layer backbone\.0 \(Layer\) may put equal values .*; take the first of",
        "equal values get another order, and so do their gradients",
        "the first of `sort(descending=True, stable=True)`",
    ),
    Construct(
        "`fft`, complex numbers",
        lambda: with_function(_spectrum),
        r"layer backbone\.2 \(Layer\): .* no operators on complex numbers, which aten::_fft_r2c makes; use a layer",
        "ONNX has no complex numbers",
        "real functions, or `--torchscript`",
    ),
    Construct(
        "`torchvision.ops.deform_conv2d`",
        lambda: with_function(_deform, nn.Conv2d(8, 18, 3, padding=1)),
        r"layer backbone\.2 \(Layer\): .* no operator for torchvision\._deform_conv2d_backward; use a layer",
        "ONNX lacks its backward pass",
        "`grid_sample` and a convolution, or `--torchscript`",
    ),
)
"""Constructs that were tried, one each."""


def constructs_table() -> str:
    """Return the constructs as a Markdown table."""
    rows = [(item.name, "refused" if item.refusal else "exported", item.cause, item.cure) for item in CONSTRUCTS]
    return words_table(("in the backbone", "result", "why", "instead"), rows)
