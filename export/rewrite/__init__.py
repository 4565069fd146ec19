"""Rewrites of the captured graph: small named passes that do not change what the graph computes.

A pass changes the graph in place and leaves alone what it does not apply to. They are written by hand on torch.fx.
onnxscript's fusions skip a weight that two nodes share, and here every weight serves both passes of the network.
"""

from torch import fx

from export.rewrite.batch_norm import fold_batch_norms
from export.rewrite.constants import fold_constants, store_weights
from export.rewrite.head import make_constant_gradients_constants
from export.rewrite.in_place import write_activations_out_of_place
from export.rewrite.input_gradients import write_input_gradients_as_convolutions
from export.rewrite.linear_layers import keep_linear_layers
from export.rewrite.masks import take_masks_from_results
from export.rewrite.max_pooling import share_max_pooling
from export.rewrite.scales import fold_channel_scales
from export.rewrite.spreading import spread_values_late

__all__ = ["PASSES", "rewrite", "store_weights"]

PASSES = (
    write_activations_out_of_place,
    keep_linear_layers,
    share_max_pooling,
    take_masks_from_results,
    make_constant_gradients_constants,
    spread_values_late,
    fold_constants,
    fold_batch_norms,
    fold_channel_scales,
    write_input_gradients_as_convolutions,
)
"""All passes, in an order in which each pass finds what the earlier ones made."""


def rewrite(graph: fx.GraphModule) -> None:
    """Apply all passes, in place."""
    for rewriting in PASSES:
        rewriting(graph)
