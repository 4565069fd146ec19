"""A captured graph on another device."""

import torch
from torch import fx


def move_graph(graph: fx.GraphModule, device: torch.device) -> None:
    """In place: weights, and the constants that the graph makes, which are otherwise made where they were captured.

    What capturing noted of the tensors' devices stays; tracing the graph again notes it anew.
    """
    for node in graph.graph.nodes:
        if "device" in node.kwargs:
            node.update_kwarg("device", device)
    graph.recompile()
    graph.to(device)
