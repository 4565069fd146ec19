"""Edit a captured graph: find and add constants, and add nodes that know their shape."""

from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import detect_fake_mode

aten = torch.ops.aten

COMPARISONS = (aten.gt.Scalar, aten.ge.Scalar, aten.lt.Scalar, aten.le.Scalar)
"""Operators that compare each element with a number."""


class Editor:
    """Add nodes to a captured graph, each constant and each constant expression once.

    Expressions of weights stay in the graph as operators on the one stored weight. A runtime computes them once, when
    it loads the file. So a weight that is flipped, transposed and scaled for the backward pass is stored once.
    """

    def __init__(self, graph: fx.GraphModule):
        """Move the graph's constants to its beginning and index their expressions."""
        self.graph = graph
        # Stored tensors come first, then expressions of them, then the graph's inputs and what is made of these.
        front = next(iter(graph.graph.nodes))
        for node in graph.graph.find_nodes(op="get_attr"):
            front.prepend(node)
        self._expressions: dict[Any, fx.Node] = {}
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                self._first_input = node
                break
            if node.op == "call_function":
                self._expressions[_key(node.target, node.args)] = node
        values = [node.meta["val"] for node in graph.graph.nodes if "val" in node.meta]
        self._fake_mode = detect_fake_mode(values)

    def call(self, before: fx.Node, target: Any, *args: Any) -> fx.Node:
        """Add a call_function node in front of `before`, with the shape of its result."""
        with self.graph.graph.inserting_before(before):
            node = self.graph.graph.call_function(target, args)
        if self._fake_mode is not None:
            with self._fake_mode:
                node.meta["val"] = target(*fx.node.map_arg(args, lambda argument: argument.meta["val"]))
        return node

    def constant(self, value: Tensor, name: str) -> fx.Node:
        """Return the node of a stored tensor; a stored tensor of the same content is reused."""
        for buffer_name, buffer in self.graph.named_buffers(recurse=False):
            if buffer.shape == value.shape and buffer.dtype == value.dtype and torch.equal(buffer, value):
                return next(iter(self.graph.graph.find_nodes(op="get_attr", target=buffer_name)))
        taken = {name for name, _ in self.graph.named_buffers(recurse=False)}
        unique = next(candidate for candidate in _numbered(name.replace(".", "_")) if candidate not in taken)
        self.graph.register_buffer(unique, value.detach().clone())
        with self.graph.graph.inserting_before(next(iter(self.graph.graph.nodes))):
            node = self.graph.graph.get_attr(unique)
        if self._fake_mode is not None:
            node.meta["val"] = self._fake_mode.from_tensor(value.detach(), static_shapes=True)
        return node

    def expression(self, target: Any, *args: Any) -> fx.Node:
        """Return an operator on weights at the graph's beginning; an equal one is reused."""
        key = _key(target, args)
        if key not in self._expressions:
            self._expressions[key] = self.call(self._first_input, target, *args)
        return self._expressions[key]

    def is_weight(self, node: object) -> bool:
        """Tell whether a node stands for a stored tensor or an expression of stored tensors."""
        return is_constant(node) or node in self._expressions.values()

    def value(self, node: Any) -> Tensor:
        """Return the tensor that a constant stands for."""
        assert isinstance(node.target, str)
        value: Any = self.graph
        for part in node.target.split("."):
            value = getattr(value, part)
        assert isinstance(value, Tensor)
        return value.detach()

    def finish(self) -> None:
        """Remove what is no longer used, weights included, and make the graph callable again."""
        self.graph.graph.eliminate_dead_code()
        self.graph.graph.lint()
        used = {node.target for node in self.graph.graph.find_nodes(op="get_attr")}
        for name in [name for name, _ in self.graph.named_buffers(recurse=False) if name not in used]:
            delattr(self.graph, name)
        self.graph.recompile()


def is_constant(node: object) -> bool:
    """Tell whether a node stands for a stored tensor."""
    return isinstance(node, fx.Node) and node.op == "get_attr"


def is_call(node: object, *targets: Any) -> bool:
    """Tell whether a node calls one of these operators."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def is_only_used_by(node: fx.Node, user: fx.Node) -> bool:
    """Tell whether nothing but `user` needs a node's result; the graph's outputs count as users."""
    return set(node.users) == {user}


def _numbered(name: str) -> Any:
    yield name
    number = 1
    while True:
        yield f"{name}_{number}"
        number += 1


def _key(target: Any, args: tuple[Any, ...]) -> Any:
    return target, *(tuple(argument) if isinstance(argument, list | tuple) else argument for argument in args)
