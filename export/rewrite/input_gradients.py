"""Write input gradients of convolutions, captured as transposed convolutions, as ordinary ones."""

from torch import fx

from export.rewrite.editing import Editor, aten

FEW_CHANNELS = 8
"""Output channels below which ONNX Runtime is slower at the ordinary convolution."""


def write_input_gradients_as_convolutions(graph: fx.GraphModule, fewest_channels: int = FEW_CHANNELS) -> None:
    """Replace, in place, transposed convolutions of stride 1 by convolutions with the flipped, transposed kernel.

    Runtimes have far faster code for ordinary convolutions, and fuse them with the operators that follow. Grouped and
    dilated convolutions are replaced too. The transposed convolution stays where the padding would be negative, and
    where fewer than `fewest_channels` come out, as at the image.

    Transposed convolutions of stride 2 stay as well: of three other forms none was faster by more than 2 %
    (results/tried/strided_gradients.json).

    Args:
        graph: A captured graph.
        fewest_channels: Output channels below which a transposed convolution stays.
    """
    editor = Editor(graph)
    for node in graph.graph.find_nodes(op="call_function", target=aten.convolution.default):
        gradient, weight, bias, stride, padding, dilation, transposed, output_padding, groups = node.args
        _, outputs, *kernel = weight.meta["val"].shape
        if not transposed or len(kernel) != 2 or any(size != 1 for size in stride) or any(output_padding):
            continue
        if not editor.is_weight(weight) or (groups == 1 and outputs < fewest_channels):
            continue
        new_padding = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
        if min(new_padding) < 0:
            continue
        convolution = editor.call(
            node,
            aten.convolution.default,
            *(gradient, _flipped_and_transposed(editor, weight, groups), bias),
            *([1, 1], new_padding, dilation, False, [0, 0], groups),
        )
        node.replace_all_uses_with(convolution)
    editor.finish()


def _flipped_and_transposed(editor: Editor, weight: fx.Node, groups: int) -> fx.Node:
    """Turn (I, O / groups, h, w) of a transposed convolution into (O, I / groups, h, w) of an ordinary one."""
    inputs, outputs, *kernel = weight.meta["val"].shape
    if groups == 1:
        weight = editor.expression(aten.permute.default, weight, [1, 0, 2, 3])
    elif groups == inputs and outputs == 1:
        pass  # depthwise: each channel has a kernel of its own
    else:
        weight = editor.expression(aten.view.default, weight, [groups, inputs // groups, outputs, *kernel])
        weight = editor.expression(aten.permute.default, weight, [0, 2, 1, 3, 4])
        weight = editor.expression(aten.reshape.default, weight, [groups * outputs, inputs // groups, *kernel])
    return weight if kernel == [1, 1] else editor.expression(aten.flip.default, weight, [2, 3])
