import json
import os

import pytest

from sgn_serve.common.graph_format import figures_path
from sgn_serve.inference.graph import read_graph
from sgn_serve.serving.examples import GivenExamples, read_examples
from sgn_serve.serving.figures import read_figures
from sgn_serve.settings import BUNDLED_MODEL
from tests.sgn_serve.sample_examples import sample_examples
from tests.sgn_serve.tiny_graph import save_tiny_graph


@pytest.fixture
def graph(tmp_path):
    return read_graph(save_tiny_graph(tmp_path / "m.onnx"))


def test_a_graph_may_have_none(graph):
    assert read_examples(graph) == GivenExamples()


def test_those_of_this_graph_are_given_out_whole(graph):
    content = sample_examples()
    graph.path.with_suffix(".examples.json").write_text(json.dumps(content))
    given = read_examples(graph)
    assert (given.count, given.note) == (2, None)
    assert given.content is not None
    assert json.loads(given.content) == content


def test_the_bundled_models_are_its_own():
    given = read_examples(read_graph(BUNDLED_MODEL))
    assert (given.count, given.note) == (10, None)


def without(name):
    content = sample_examples()
    del content[name]
    return content


def with_example(**changed):
    content = sample_examples()
    content["examples"][1].update(changed)
    return content


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (sample_examples(checkpoint_sha256="f" * 64), "was made for another checkpoint (ffffffffffff)"),
        (sample_examples(format="other/1"), "its format is 'other/1'"),
        (sample_examples(count=0), "0 examples instead of 1 to 20"),
        (sample_examples(count=21), "21 examples instead of 1 to 20"),
        (sample_examples(models={}), "networks that the file does not describe"),
        (sample_examples(eps=0), "greater than 0"),
        (without("steps"), "steps"),
        (with_example(label=3), "has the class 3 of 3"),
        (with_example(tampered={}), "networks that the file does not describe"),
        (with_example(png="no base64!"), "no PNG file in base64"),
        (with_example(png="R0lGODlhAQABAAAAACw="), "no PNG file in base64"),
        (["a"], "ValidationError"),
    ],
)
def test_those_that_do_not_fit_are_told_and_not_given_out(graph, content, told):
    graph.path.with_suffix(".examples.json").write_text(json.dumps(content))
    given = read_examples(graph)
    assert (given.count, given.content) == (0, None)
    assert given.note is not None
    assert given.note.startswith("m.examples.json: ")
    assert told in given.note
    assert "so no examples are shown; write it again with python -m export --examples, or take it away" in given.note
    assert "\n" not in given.note


def test_too_large_a_file_is_not_read(graph):
    graph.path.with_suffix(".examples.json").write_text(" " * 8_000_001)
    note = read_examples(graph).note
    assert note is not None
    assert "more than 8000000 bytes" in note


def test_a_pipe_is_not_waited_for(graph):
    os.mkfifo(graph.path.with_suffix(".examples.json"))
    os.mkfifo(figures_path(graph.path))
    for note in (read_examples(graph).note, read_figures(graph).note):
        assert note is not None
        assert "no ordinary file" in note
