"""Input gradients of convolutions, captured as transposed convolutions, as ordinary ones."""

from torch import fx

from export.rewrite.editing import Editor, aten

FEW_CHANNELS = 8
"""With fewer, ONNX Runtime is slower at the ordinary convolution."""


def write_input_gradients_as_convolutions(graph: fx.GraphModule, fewest_channels: int = FEW_CHANNELS) -> None:
    """Replaces, in place, transposed convolutions of stride 1 by convolutions with the flipped, transposed kernel.

    Runtimes have far faster code for the ordinary kind, and fuse it with what follows. Grouped and dilated ones too;
    where the padding would be negative, or fewer than fewest_channels come out, as at the image, the transposed one
    stays.

    So do those of stride 2, because nothing else was faster by 2 %. Processor time of WRN-16-2's both passes on ONNX
    Runtime 1.32 at batch 1 / 8 / 32, one thread, the least of 60 / 25 / 8 runs that took turns, against this graph's:
    3x3 as a 2x2 convolution to four times the channels, 1x1 likewise with zeros, and DepthToSpace of their sum: +2.6 /
    +3.7 / +3.6 %; a convolution for each of the four pixels, without needless products: +0.4 / +1.2 / +3.8 %; those
    put side by side and into order by a product with a permutation matrix: -0.4 / -0.1 / -1.3 %. Time with two
    threads, the least of 30 turns: +5.6 / +3.2 / +3.1 %, +8.3 / +2.6 / +0.6 % and +11.6 / +0.5 / -0.3 %.
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
    """(I, O / groups, h, w) of a transposed convolution to (O, I / groups, h, w) of an ordinary one."""
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
