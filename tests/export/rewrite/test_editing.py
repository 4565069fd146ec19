"""Edits of a captured graph: constants and their expressions are stored once."""

import pytest
import torch
from torch import fx, nn

from export.rewrite.editing import Editor, is_call, is_constant, is_only_used_by
from tests.export.rewrite.graphs import aten, captured


@pytest.fixture
def graph() -> fx.GraphModule:
    return captured(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5)))


def test_equal_constants_are_one_and_others_have_names_of_their_own(graph):
    editor = Editor(graph)
    values = torch.tensor([1.0, 2.0, 3.0])
    first = editor.constant(values, "a.name")
    assert editor.constant(values.clone(), "another") is first
    second = editor.constant(values + 1, "a.name")
    assert (first.target, second.target) == ("a_name", "a_name_1")
    assert editor.constant(values.double(), "a.name") not in (first, second), "of another type"
    assert torch.equal(editor.value(second), values + 1)
    values += 5
    assert torch.equal(editor.value(first), torch.tensor([1.0, 2.0, 3.0])), "a copy was stored"
    assert is_constant(first)
    assert not is_constant(editor.call(next(iter(graph.graph.find_nodes(op="output"))), aten.neg.default, first))


def test_an_expression_of_weights_is_computed_once_and_knows_its_shape(graph):
    editor = Editor(graph)
    stored = editor.constant(torch.rand(2, 5), "stored")
    one = editor.expression(aten.permute.default, stored, [1, 0])
    assert editor.expression(aten.permute.default, stored, [1, 0]) is one
    assert editor.expression(aten.permute.default, stored, [0, 1]) is not one
    assert tuple(one.meta["val"].shape) == (5, 2)
    assert editor.is_weight(one)
    order = list(graph.graph.nodes)
    assert order.index(one) < order.index(next(iter(graph.graph.find_nodes(op="placeholder"))))
    assert Editor(graph).expression(aten.permute.default, stored, [1, 0]) is one, "a later editor finds it"


def test_what_nothing_uses_is_removed_with_its_weights(graph):
    images = torch.rand(2, 3, 8, 8)
    before = graph(images)
    editor = Editor(graph)
    editor.expression(aten.neg.default, editor.constant(torch.rand(7), "unused"))
    assert "unused" in dict(graph.named_buffers())
    editor.finish()
    assert "unused" not in dict(graph.named_buffers())
    assert not graph.graph.find_nodes(op="call_function", target=aten.neg.default)
    for one, other in zip(graph(images), before, strict=True):
        assert torch.equal(one, other)


def test_users_are_counted(graph):
    editor = Editor(graph)
    output = next(iter(graph.graph.find_nodes(op="output")))
    stored = editor.constant(torch.rand(7), "stored")
    negated = editor.call(output, aten.neg.default, stored)
    assert is_call(negated, aten.abs.default, aten.neg.default)
    assert not is_call(negated, aten.abs.default)
    assert not is_call(stored, aten.neg.default)
    assert is_only_used_by(stored, negated)
    other = editor.call(output, aten.abs.default, stored)
    assert not is_only_used_by(stored, negated)
    assert not is_only_used_by(stored, other)
