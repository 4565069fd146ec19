"""A model is tried in a process of its own: what hangs, crashes, eats memory or answers nonsense is one clear line."""

import os
import subprocess
import sys
from pathlib import Path

import onnx
import psutil
import pytest
from onnx import numpy_helper

from sgn_serve.inference.graph import GraphError
from sgn_serve.serving import trial
from sgn_serve.serving.trial import TrialError, read_tried_graph, try_model
from sgn_serve.serving.trial_process import try_here
from sgn_serve.settings import BUNDLED_MODEL, Settings
from tests.sgn_serve.bad_graphs import BAD_GRAPHS, save_bad_graph
from tests.sgn_serve.tiny_graph import save_tiny_graph

HARMLESS = sorted(BAD_GRAPHS.keys() - {"memory", "endless loop"})
"""Kinds that can be tried in this process."""


def settings(path: Path, **others: float) -> Settings:
    return Settings(model_path=path, providers=("cpu",), threads=1, **others)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", HARMLESS)
def test_a_bad_model_is_refused_in_one_line(tmp_path, kind):
    path = save_bad_graph(kind, tmp_path / "bad.onnx")
    tried = try_here(settings(path))
    assert tried.keys() == {"error", "memory", "engine"}
    assert str(path) in tried["error"]
    assert BAD_GRAPHS[kind][1] in tried["error"]
    assert "\n" not in tried["error"]
    assert len(tried["error"]) < 1000
    assert not tried["memory"]


def test_more_threads_than_the_cores_run_are_refused(tmp_path):
    path = save_tiny_graph(tmp_path / "tiny.onnx")
    for engine in ("auto", "openvino"):  # the second needs not be installed for that
        error = try_here(Settings(model_path=path, engine=engine, threads=4000))["error"]
        assert error.startswith("SGN_THREADS=4000 cannot be used: this process may use ")
        assert error.endswith(" at most, or 0 for all cores")


def test_a_model_is_tried_with_no_more_pictures_than_it_will_get(tmp_path):
    path = save_bad_graph("NaN for nine and more", tmp_path / "bad.onnx")
    assert "graph_sha256" in try_here(settings(path, max_batch=8, max_images=8))
    assert "in a batch of 9 " in try_here(settings(path, max_batch=8, max_images=9))["error"]
    assert "in a batch of 9 " in try_here(settings(path, max_batch=9, max_images=8))["error"]


@pytest.mark.parametrize(
    "name",
    ["\U0001f600", "Ärztin", "", "x" * 1024, 'quote " and \\'],
    ids=["emoji", "umlaut", "empty", "long", "quote"],
)
def test_a_class_may_be_called_anything_that_is_text(tmp_path, name):
    path = save_tiny_graph(tmp_path / "tiny.onnx", class_names=("red", name, "blue"))
    assert "graph_sha256" in try_here(settings(path))


def test_weights_in_a_file_beside_the_graph_are_read(tmp_path):
    path = save_tiny_graph(tmp_path / "tiny.onnx")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").exists()
    assert "graph_sha256" in try_here(settings(path))


def test_a_good_model_is_told_in_one_line():
    tried = try_model(settings(BUNDLED_MODEL))
    assert tried.summary.startswith(f"{BUNDLED_MODEL}: 10 classes, 32 x 32 pixels, with self-gradient block, on ONNX")
    assert len(tried.graph_sha256) == 64


def test_a_trial_whose_server_has_ended_meanwhile_does_not_begin(tmp_path):
    """The loop would go on for minutes: nobody counts the time."""
    path = save_bad_graph("endless loop", tmp_path / "bad.onnx")
    ended = subprocess.run(
        [sys.executable, "-m", "sgn_serve.serving.trial_process", str(os.getppid())],  # as if this one were another
        input=settings(path).model_dump_json(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stdout) == (1, "")


def test_an_endless_loop_is_ended(tmp_path):
    path = save_bad_graph("endless loop", tmp_path / "bad.onnx")
    before = psutil.Process().children()
    with pytest.raises(TrialError, match=r"does not answer within 1 s.*SGN_TRIAL_SECONDS"):
        try_model(settings(path, trial_seconds=1))
    assert {*psutil.Process().children()} <= {*before}, "nothing goes on looping"


@pytest.mark.parametrize("floats", [10**12, 250_000_000], ids=["more than there is", "more than allowed"])
def test_memory_beyond_the_bound_is_refused(tmp_path, floats):
    path = save_bad_graph("memory", tmp_path / "bad.onnx")
    model = onnx.load(path)
    for item in model.graph.initializer:
        if item.name == "much":
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item) * 0 + floats, "much"))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(TrialError, match="more than 500 MB of memory; raise SGN_TRIAL_MB"):
        try_model(settings(path, trial_mb=500, trial_seconds=120))


CRASH = """
import sys
if "sgn_serve.serving.trial_process" in sys.orig_argv:
    import ctypes, onnxruntime

    class Session(onnxruntime.InferenceSession):
        def run(self, *arguments, **options):
            ctypes.string_at(0)

    onnxruntime.InferenceSession = Session
"""


def test_a_crash_of_the_engine_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(CRASH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = save_tiny_graph(tmp_path / "tiny.onnx")
    with pytest.raises(TrialError, match=r"tiny.onnx: it crashes the engine \(SIGSEGV\)"):
        try_model(settings(path))


def test_what_an_engine_prints_is_no_answer(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text('import os\nos.write(1, b"hello\\n")\n')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert try_model(settings(save_tiny_graph(tmp_path / "tiny.onnx"))).graph_sha256


def test_a_graph_that_was_not_tried_is_tried_before_it_is_read(tmp_path):
    path = save_bad_graph("NaN weights", tmp_path / "bad.onnx")
    with pytest.raises(TrialError, match="not finite"):
        read_tried_graph(settings(path), None)
    with pytest.raises(TrialError, match="not finite"):
        read_tried_graph(settings(path), trial.Tried("0" * 64, "another graph"))


def test_a_graph_that_was_tried_already_is_not_tried_again(tmp_path, monkeypatch):
    path = save_tiny_graph(tmp_path / "tiny.onnx")
    tried = try_model(settings(path))
    monkeypatch.setattr(trial, "try_model", None)
    assert tried.choice["engine"] == "onnxruntime"
    graph, known = read_tried_graph(settings(path), trial.Tried.from_json(tried.to_json()))
    assert (graph.file_sha256, known) == (tried.graph_sha256, tried)


def test_a_graph_that_changes_after_its_trial_is_not_loaded(tmp_path, monkeypatch):
    path = save_tiny_graph(tmp_path / "tiny.onnx")
    real = try_model

    def then_replace(given: Settings) -> trial.Tried:
        tried = real(given)
        os.replace(save_tiny_graph(tmp_path / "other.onnx", class_names=("one", "two", "three")), path)
        return tried

    monkeypatch.setattr(trial, "try_model", then_replace)
    with pytest.raises(GraphError, match="it changed while it was read"):
        read_tried_graph(settings(path), None)
