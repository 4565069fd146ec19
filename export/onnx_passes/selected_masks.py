"""ReLU masks in the form that OpenVINO applies fastest."""

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


# The mask is kept by the rule, because it may have other users; `rewrite` drops it after the last.
_RULES = RewriteRuleSet([RewriteRule(_product, _selection, _is_comparison, remove_nodes=False)], commute=True)
