"""ReLU masks that leave feature maps in the layout that ONNX Runtime's CPU provider computes convolutions in."""

from typing import Any

from onnx import ModelProto
from onnxscript import ir
from onnxscript.rewriter import RewriteRule, RewriteRuleSet, rewrite

STEEPNESS = 2.0**127
"""The mask's slope: a feature above zero is at least 2^-126, unless subnormal, so that its mask is exactly 1."""


def keep_masks_in_blocked_layout(model: ModelProto) -> None:
    """Replace, in place, the masks Cast(Greater(x, 0)) of a float32 model by HardSigmoid(x) = clip(2^127 x, 0, 1).

    ONNX Runtime keeps feature maps in blocks of channels between convolutions. It reorders them for every operator that
    has no blocked form, such as a comparison; HardSigmoid has one. The masks are the same for every float that is not
    subnormal. Float16 masks are left alone: their slope would be infinite, and infinity times zero is not a number.
    """
    model.CopyFrom(rewrite(model, _RULES))


def _mask(op: Any, features: Any, threshold: Any) -> Any:
    return op.Cast(op.Greater(features, threshold), to=ir.DataType.FLOAT)


def _is_zero(context: Any, threshold: ir.Value, **_: Any) -> bool:
    value = threshold.const_value
    return value is not None and value.dtype == ir.DataType.FLOAT and not value.numpy().any()


def _hard_sigmoid(op: Any, features: ir.Value, **_: Any) -> Any:
    return op.HardSigmoid(features, alpha=STEEPNESS, beta=0.0)


# The comparison is kept by the rule, because it may have other users; `rewrite` drops it if it has none.
_RULES = RewriteRuleSet([RewriteRule(_mask, _hard_sigmoid, _is_zero, remove_nodes=False)])
