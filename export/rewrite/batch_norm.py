"""Fold batch norms into the convolutions before them."""

import operator

from torch import Tensor, fx

from export.rewrite.editing import Editor, aten, is_call, is_constant, is_only_used_by


def fold_batch_norms(graph: fx.GraphModule) -> None:
    """Replace, in place, norm(convolution(x)) by one convolution whose weight and bias hold the norm's factors.

    In eval mode batch norm is one multiplication and addition for each channel: scale = weight / sqrt(variance + eps),
    shift = bias - mean * scale. The norm is left alone where it follows something else, as the residual sum in a
    pre-activation network. It is also left alone where the convolution's result is used elsewhere too.
    Source: Jacob et al., Quantization and Training of Neural Networks (2018), section 3.2.
    """
    editor = Editor(graph)
    for norm in graph.graph.find_nodes(op="call_function", target=aten._native_batch_norm_legit_no_training.default):
        convolution, *statistics, _, eps = norm.args
        if (
            not is_call(convolution, aten.convolution.default)
            or not is_only_used_by(convolution, norm)
            or not all(item is None or is_constant(item) for item in (*convolution.args[1:3], *statistics))
            or any(user.target != operator.getitem or user.args[1] != 0 for user in norm.users)
        ):
            continue
        features, weight, bias, stride, padding, dilation, transposed, output_padding, groups = convolution.args
        if transposed:
            continue
        norm_weight, norm_bias, mean, variance = (None if item is None else editor.value(item) for item in statistics)
        assert mean is not None
        assert variance is not None
        scale, shift = _scale_and_shift(norm_weight, norm_bias, mean, variance, eps)
        if bias is not None:
            shift = shift + editor.value(bias) * scale
        name = str(statistics[2].target).rpartition(".")[0]
        per_filter = scale.reshape(-1, *(1,) * (weight.meta["val"].dim() - 1))
        new_weight = editor.expression(aten.mul.Tensor, weight, editor.constant(per_filter, f"{name}.scale"))
        folded = editor.call(
            norm,
            aten.convolution.default,
            *(features, new_weight, editor.constant(shift, f"{name}.shift")),
            *(stride, padding, dilation, transposed, output_padding, groups),
        )
        for user in list(norm.users):
            user.replace_all_uses_with(folded)
    editor.finish()


def _scale_and_shift(
    weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    # The order is that in which the backward pass computes its factors, so that both are one constant.
    scale = (variance + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale
    return scale, shift if bias is None else bias + shift
