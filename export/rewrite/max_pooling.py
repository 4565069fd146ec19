"""Keep each max-pooling once."""

from typing import Any

from torch import fx

from export.rewrite.editing import Editor, aten


def share_max_pooling(graph: fx.GraphModule) -> None:
    """Replace, in place, a max-pooling that the first pass's gradient asks for by that of the forward pass."""
    editor = Editor(graph)
    first: dict[str, fx.Node] = {}
    for pooling in graph.graph.find_nodes(op="call_function", target=aten.max_pool2d_with_indices.default):
        source, *windows = pooling.args
        kept = first.setdefault(f"{source} {_in_full(*windows)}", pooling)
        if kept is not pooling:
            pooling.replace_all_uses_with(kept)
    editor.finish()


def _in_full(*windows: Any) -> str:
    """Return the text of a pooling's windows, with the values that PyTorch's calls leave out."""
    defaults: list[Any] = [None, (), (0, 0), (1, 1), False]
    kernel_size, stride, padding, dilation, ceil_mode = [*windows, *defaults[len(windows) :]]
    return str([list(kernel_size), list(stride or kernel_size), list(padding), list(dilation), ceil_mode])
