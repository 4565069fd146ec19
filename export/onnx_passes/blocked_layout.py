"""Operators that leave feature maps in the layout that ONNX Runtime's CPU provider computes convolutions in."""

from typing import Any

import numpy as np
from onnx import ModelProto
from onnxscript import ir
from onnxscript.rewriter import RewriteRule, RewriteRuleSet, rewrite

STEEPNESS = 2.0**127
"""The slope of a mask at zero: a feature above it is at least 2^-126, unless subnormal, so that its mask is exactly 1.
"""


def keep_masks_in_blocked_layout(model: ModelProto) -> None:
    """Replace, in place, the masks Cast(x > bound) of a float32 model by HardSigmoid(x) = clip(alpha x + beta, 0, 1).

    ONNX Runtime keeps feature maps in blocks of channels between convolutions. It reorders them for every operator that
    has no blocked form, such as a comparison; HardSigmoid has one. The masks are the same for every float that is not
    subnormal, with all four comparisons and any bound. Float16 masks are left alone: their slope would be infinite, and
    infinity times zero is not a number.
    """
    model.CopyFrom(rewrite(model, _RULES))


def step(comparison: str, bound: float) -> tuple[float, float] | None:
    """Return alpha and beta with clip(alpha x + beta, 0, 1) == (x comparison bound) for every float32 x.

    The slope is so steep that one float makes the step. Both are exact: alpha is a power of two, and alpha * bound a
    whole number under 2^24.

    Args:
        comparison: Greater, GreaterOrEqual, Less or LessOrEqual, as in ONNX.
        bound: A float32.

    Returns:
        The two, or None where beta is no float32, the bound is not finite, or it is 0 and belongs to the ones.
    """
    above, with_bound = comparison.startswith("Greater"), comparison.endswith("OrEqual")
    if not np.isfinite(bound):
        return None
    if bound == 0:
        return None if with_bound else ((STEEPNESS, 0.0) if above else (-STEEPNESS, 0.0))
    value = np.float32(bound)
    # The zeros' and the ones' last float are neighbours, and the bound is one of them.
    upwards = above != with_bound
    neighbour = np.nextafter(value, np.float32(np.inf if upwards else -np.inf))
    slope = 1 / abs(float(neighbour) - float(value))
    alpha = slope if above else -slope
    beta = -alpha * float(value) + (1 if with_bound else 0)
    largest = float(np.finfo(np.float32).max)
    if any(abs(number) > largest or float(np.float32(number)) != number for number in (alpha, beta)):
        return None
    return alpha, beta


def _masks_of(comparison: str) -> RewriteRule:
    """Return the rule for one comparison."""

    def mask(op: Any, features: Any, bound: Any) -> Any:
        return op.Cast(getattr(op, comparison)(features, bound), to=ir.DataType.FLOAT)

    def applies(context: Any, bound: ir.Value, **_: Any) -> bool:
        return _step(bound) is not None

    def hard_sigmoid(op: Any, features: ir.Value, bound: ir.Value) -> Any:
        alpha, beta = _step(bound) or (0.0, 0.0)
        return op.HardSigmoid(features, alpha=alpha, beta=beta)

    def _step(bound: ir.Value) -> tuple[float, float] | None:
        value = bound.const_value
        if value is None or value.dtype != ir.DataType.FLOAT or value.size != 1:
            return None
        return step(comparison, float(value.numpy().item()))

    # The comparison is kept by the rule, because it may have other users; `rewrite` drops it if it has none.
    return RewriteRule(mask, hard_sigmoid, applies, remove_nodes=False)


_RULES = RewriteRuleSet(list(map(_masks_of, ("Greater", "GreaterOrEqual", "Less", "LessOrEqual"))))
