"""Small backbones, each of an ordinary construct of PyTorch, and what export makes of them.

The page about own backbones shows them as a table. tests/export/test_constructs.py exports every one of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from docs.generator.construct_modules import (
    CLASSES,
    ClassToken,
    Layer,
    Output,
    Positions,
    SqueezeExcite,
    StochasticDepth,
    StraightThrough,
    Swish,
    add_rows,
    add_to_a_view,
    around,
    attention,
    branch_on_data,
    causal_attention,
    choose_by_comparison,
    convolution,
    deform,
    gather_channels,
    grid_sample,
    largest_pixels,
    lazy_backbone,
    partly_without_gradient,
    pool_and_unpool,
    quantised_backbone,
    recurrent,
    sort_channels,
    sort_pixels,
    sort_pixels_stably,
    spectrum,
    tokens_through,
    unfold_and_fold,
    weigh_windows,
    with_function,
    without_gradient,
    write_on_a_view,
)
from docs.generator.markdown import words_table


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


CONSTRUCTS = (
    Construct('`Conv2d(padding_mode="circular")`', lambda: around(convolution(padding=2, padding_mode="circular"))),
    Construct('`Conv2d(padding_mode="reflect")`', lambda: around(convolution(padding=1, padding_mode="reflect"))),
    Construct(
        '`Conv2d(padding_mode="replicate")`', lambda: around(convolution(padding=(1, 2), padding_mode="replicate"))
    ),
    Construct('`Conv2d(padding="same")`, even kernel', lambda: around(nn.Conv2d(8, 8, 4, padding="same"))),
    Construct("grouped convolution", lambda: around(convolution(groups=4))),
    Construct("depthwise convolution, strided", lambda: around(convolution(groups=8, stride=2, padding=1))),
    Construct("dilated convolution", lambda: around(convolution(dilation=2, padding=2))),
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
    Construct("`max_pool2d(return_indices=True)`, `max_unpool2d`", lambda: with_function(pool_and_unpool)),
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
    Construct("`weight_norm`", lambda: around(parametrizations.weight_norm(convolution()))),
    Construct("`spectral_norm`", lambda: around(parametrizations.spectral_norm(convolution()))),
    Construct(
        "weights standardised in each pass",
        lambda: with_function(
            lambda x, conv: F.conv2d(x, (conv.weight - conv.weight.mean((1, 2, 3), keepdim=True)) / conv.weight.std()),
            convolution(),
        ),
    ),
    Construct("`ReLU6`", lambda: around(nn.ReLU6())),
    Construct("`LeakyReLU(inplace=True)`", lambda: around(convolution(), nn.LeakyReLU(0.1, inplace=True))),
    Construct("`PReLU`", lambda: around(nn.PReLU(8))),
    Construct(
        '`GELU`, `GELU(approximate="tanh")`', lambda: around(nn.GELU(), convolution(), nn.GELU(approximate="tanh"))
    ),
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
    Construct("in-place write to a slice", lambda: with_function(write_on_a_view)),
    Construct("in-place arithmetic on a view", lambda: with_function(add_to_a_view)),
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
    Construct("`ChannelShuffle`", lambda: around(nn.ChannelShuffle(4), convolution(groups=2))),
    Construct("`roll`, `flip`", lambda: with_function(lambda x: x.roll((2, -3), (2, 3)) + x.flip(3))),
    Construct("windows by `view` and `permute`", lambda: with_function(weigh_windows)),
    Construct("`unfold`, `fold`", lambda: with_function(unfold_and_fold)),
    Construct("`Tensor.unfold`", lambda: with_function(lambda x: x.unfold(2, 3, 3).amax(-1))),
    Construct("`gather`", lambda: with_function(gather_channels)),
    Construct("indexing by a list", lambda: with_function(lambda x: x[:, [3, 1, 0, 2, 7, 6, 5, 4]] * x)),
    Construct("`sort`", lambda: with_function(sort_channels)),
    Construct("`sort(stable=True)` of equal values", lambda: nn.Sequential(Layer(sort_pixels_stably), around())),
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
        lambda: with_function(lambda x: choose_by_comparison(x).clamp(-1, 1).abs() + torch.minimum(x, x.flip(1))),
    ),
    Construct(
        "`norm`, `normalize`, cosine classifier",
        lambda: with_function(lambda x: F.normalize(x, dim=1) * x.norm(dim=1, keepdim=True).clamp(min=0.1)),
    ),
    Construct("`grid_sample`", lambda: with_function(grid_sample)),
    Construct("`scaled_dot_product_attention`", lambda: tokens_through(attention, nn.Linear(8, 24))),
    Construct(
        "`scaled_dot_product_attention(is_causal=True)`", lambda: tokens_through(causal_attention, nn.Linear(8, 24))
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
    Construct("coordinates by `arange`", lambda: with_function(add_rows)),
    Construct("squeeze and excitation", lambda: around(SqueezeExcite())),
    Construct("stochastic depth", lambda: around(StochasticDepth())),
    Construct(
        "`Dropout`, `Dropout2d`, `AlphaDropout`", lambda: around(nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout())
    ),
    Construct("`GRU`", lambda: tokens_through(recurrent, nn.GRU(8, 8, batch_first=True))),
    Construct(
        "`LSTM(bidirectional=True)`",
        lambda: tokens_through(recurrent, nn.LSTM(8, 4, batch_first=True, bidirectional=True)),
    ),
    Construct("`RNN`", lambda: tokens_through(recurrent, nn.RNN(8, 8, batch_first=True))),
    Construct("`Bilinear`", lambda: tokens_through(lambda x, layer: layer(x, x.flip(1)), nn.Bilinear(8, 8, 8))),
    Construct("`autograd.Function`", lambda: with_function(Swish.apply)),
    Construct("`autograd.Function`, straight-through", lambda: with_function(StraightThrough.apply)),
    Construct(
        "`checkpoint` of activations",
        lambda: with_function(
            lambda x, conv: torch.utils.checkpoint.checkpoint(conv, x, use_reentrant=False), convolution()
        ),
    ),
    Construct("`no_grad` in a branch, `detach`", lambda: with_function(partly_without_gradient)),
    Construct("`torch.jit.script` module", lambda: around(torch.jit.script(convolution()))),
    Construct("float64 inside", lambda: with_function(lambda x: x.double().softmax(1).float())),
    Construct(
        "a linear layer on the pixels",
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.ReLU(), nn.Linear(16, CLASSES)),
    ),
    Construct("lazy layers", lazy_backbone),
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
        "`squeeze()` at the end",
        lambda: Output(around(), lambda logits: logits.squeeze()),
        r"the backbone returns \(\d+,\) for one picture, without the batch's dimension, .*; name the dimensions",
        "one picture's logits lose the batch's dimension",
        "name the dimensions to drop, or use `flatten(1)`",
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
        lambda: with_function(without_gradient),
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
        quantised_backbone,
        r"layer backbone\.3\.0 \(Linear\) lets a picture's answer depend on its neighbours",
        "their scale follows from the whole batch",
        "the unquantised network with `--precision bf16`",
    ),
    Construct(
        "a branch that depends on the data",
        lambda: with_function(branch_on_data),
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
        lambda: nn.Sequential(Layer(sort_pixels), around()),
        r"differ from PyTorch's: sort at its layer backbone\.0 \(Layer\) may put equal values .*; pass stable=True",
        "equal values get another order, and so do their gradients",
        "`sort(stable=True)`",
    ),
    Construct(
        "`topk` of equal values, such as pixels",
        lambda: nn.Sequential(Layer(largest_pixels), around()),
        r"differ from PyTorch's: topk at its layer backbone\.0 \(Layer\) may put equal values .*; take the first of",
        "equal values get another order, and so do their gradients",
        "the first of `sort(descending=True, stable=True)`",
    ),
    Construct(
        "`fft`, complex numbers",
        lambda: with_function(spectrum),
        r"layer backbone\.2 \(Layer\): .* no operators on complex numbers, which aten::_fft_r2c makes; use a layer",
        "ONNX has no complex numbers",
        "real functions, or `--torchscript`",
    ),
    Construct(
        "`torchvision.ops.deform_conv2d`",
        lambda: with_function(deform, nn.Conv2d(8, 18, 3, padding=1)),
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
