"""Move a captured graph to another device."""

import torch
from torch import fx


def move_graph(graph: fx.GraphModule, device: torch.device) -> None:
    """Move the weights, in place, and the constants that the graph makes, which name the device of the capture.

    The shapes and devices that capturing noted stay; tracing the graph again replaces them.
    """
    for node in graph.graph.nodes:
        if "device" in node.kwargs:
            node.update_kwarg("device", device)
    graph.recompile()
    graph.to(device)
