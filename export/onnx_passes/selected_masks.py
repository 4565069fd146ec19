"""Masks in the form that OpenVINO applies fastest."""

from typing import Any

import numpy as np
from onnx import ModelProto
from onnxscript import ir
from onnxscript.rewriter import RewriteRule, RewriteRuleSet, rewrite

COMPARISONS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")


def apply_masks_by_selection(model: ModelProto) -> None:
    """Replace, in place, the products Cast(comparison) * gradient of a model by Where(comparison, gradient, 0).

    OpenVINO has slow code to turn a condition into numbers, and fast code to select. The result is the same for every
    finite gradient; a product with infinity would be not a number. Other products are left alone.

    The slope of hard-swish, a sum of two masks, is selected too. With masks as numbers the way back through a
    hard-swish took 17 to 41 % longer, on 96 channels of 28x28 pixels.
    """
    model.CopyFrom(rewrite(model, _RULES))


def _product(op: Any, condition: Any, gradient: Any) -> Any:
    return op.Mul(op.Cast(condition, _outputs=["mask"]), gradient)


def _is_comparison(context: Any, condition: ir.Value, **_: Any) -> bool:
    node = condition.producer()
    return node is not None and node.op_type in COMPARISONS


def _selection(op: Any, condition: ir.Value, gradient: ir.Value, mask: Any) -> Any:
    dtype = ir.DataType(mask.producer().attributes["to"].as_int())
    return op.Where(condition, gradient, op.Constant(value=ir.tensor(np.zeros((), dtype.numpy()))))


def _half_slope(op: Any, features: Any, lowest: Any, highest: Any, scale: Any) -> Any:
    steps = op.Add(
        op.Cast(op.Greater(features, lowest), _outputs=["lower"]), op.Cast(op.GreaterOrEqual(features, highest))
    )
    return op.Add(op.HardSigmoid(features), op.Mul(steps, scale))


def _is_of_hard_swish(context: Any, lowest: ir.Value, highest: ir.Value, scale: ir.Value, **_: Any) -> bool:
    values = [None if item.const_value is None else item.const_value.numpy() for item in (lowest, highest, scale)]
    return all(
        value is not None and value.size == 1 and float(value.item()) == expected
        for value, expected in zip(values, (-3, 3, -0.25), strict=True)
    )


def _selected_half_slope(op: Any, features: ir.Value, lowest: ir.Value, highest: ir.Value, lower: Any, **_: Any) -> Any:
    dtype = ir.DataType(lower.producer().attributes["to"].as_int()).numpy()

    def number(value: float) -> Any:
        return op.Constant(value=ir.tensor(np.array(value, dtype)))

    between = op.Add(op.Mul(features, number(1 / 6)), number(1 / 4))
    above_lowest = op.Where(op.Greater(features, lowest), between, number(0))
    return op.Where(op.GreaterOrEqual(features, highest), number(1 / 2), above_lowest)


# The mask is kept by the rule, because it may have other users; `rewrite` drops it after the last.
_RULES = RewriteRuleSet(
    [
        RewriteRule(_half_slope, _selected_half_slope, _is_of_hard_swish, remove_nodes=False),
        RewriteRule(_product, _selection, _is_comparison, remove_nodes=False),
    ],
    commute=True,
)
