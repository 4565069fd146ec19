"""SGN_ENGINE=auto takes bfloat16 on OpenVINO where every condition holds, and says which one does not."""

import importlib.util
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from sgn_serve.common.graph_format import BF16_KEY, file_sha256
from sgn_serve.inference import engines
from sgn_serve.inference.engines import EngineError
from sgn_serve.inference.graph import Graph, GraphError, read_graph
from sgn_serve.serving import engine_choice
from sgn_serve.serving.engine_choice import EngineChoice, bf16_agreement, choose_engine, start_chosen
from sgn_serve.serving.predictor import Predictor
from sgn_serve.serving.trial import Tried
from sgn_serve.serving.trial_process import try_here
from sgn_serve.settings import Settings
from tests.sgn_serve.serving.test_model_card import FIGURES
from tests.sgn_serve.tiny_graph import save_tiny_graph

AGREES = {"agreement": 0.996, "pictures": 1000}


def graph_with(path: Path, **metadata: str) -> Graph:
    model = onnx.load(save_tiny_graph(path))
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return read_graph(path)


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a GPU, with bfloat16 products and OpenVINO."""
    monkeypatch.setattr(engine_choice, "bfloat16_products", lambda: ("avx512_bf16", "amx_bf16"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])


@pytest.fixture
def agreeing(tmp_path: Path) -> Graph:
    return graph_with(tmp_path / "m.onnx", bf16=json.dumps(AGREES))


@pytest.mark.usefixtures("able")
def test_bfloat16_on_openvino_where_all_holds(agreeing: Graph) -> None:
    choice = choose_engine(agreeing, Settings())
    assert (choice.engine, choice.precision) == ("openvino", "bf16")
    assert choice.reason == (
        "the processor has avx512_bf16 and amx_bf16, and bfloat16 gives float32's answer for 99.6 % of the pictures"
    )


def test_on_this_machine_it_is_what_the_machine_can_do(agreeing: Graph) -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    can = (
        "openvino" if {"avx512_bf16", "amx_bf16"} & {*flags} and _has_openvino() and not _has_cuda() else "onnxruntime"
    )
    assert choose_engine(agreeing, Settings()).engine == can


def _has_openvino() -> bool:
    return importlib.util.find_spec("openvino") is not None


def _has_cuda() -> bool:
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def refuses(graph: Graph, **settings: Any) -> str:
    """The reason for which ONNX Runtime in float32 is taken."""
    choice = choose_engine(graph, Settings(**settings))
    assert (choice.engine, choice.precision) == ("onnxruntime", None)
    return choice.reason


@pytest.mark.usefixtures("able")
def test_each_condition_that_is_missing_is_told(
    agreeing: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refuses(agreeing, engine="onnxruntime") == "SGN_ENGINE=onnxruntime"
    assert refuses(agreeing, providers=("cpu",)) == "SGN_PROVIDERS=cpu is ONNX Runtime's"
    silent = graph_with(tmp_path / "silent.onnx")
    assert refuses(silent) == "how well bfloat16's answers agree was not measured for this graph"
    poor = graph_with(tmp_path / "poor.onnx", bf16=json.dumps({"agreement": 0.9949}))
    assert refuses(poor) == "bfloat16 gives float32's answer for 99.49 % of the pictures, which is less than 99.5 %"
    with monkeypatch.context() as patched:
        patched.setattr(engine_choice, "bfloat16_products", lambda: ())
        assert refuses(agreeing) == "the processor has no bfloat16 products"
    with monkeypatch.context() as patched:
        patched.setattr(importlib.util, "find_spec", lambda name: None)
        assert refuses(agreeing) == "OpenVINO is not installed"
    with monkeypatch.context() as patched:
        patched.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
        assert refuses(agreeing) == "this ONNX Runtime is the build for GPUs"


@pytest.mark.usefixtures("able")
def test_a_graph_in_reduced_precision_is_served_in_it(tmp_path: Path) -> None:
    for precision, engine in (("bf16", "openvino"), ("fp16", "onnxruntime")):
        choice = choose_engine(graph_with(tmp_path / "m.onnx", precision=precision), Settings())
        expected = (engine, precision, f"the graph was exported for {precision}")
        assert (choice.engine, choice.precision, choice.reason) == expected


def test_a_graph_for_bf16_is_refused_where_there_is_no_openvino(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_with(tmp_path / "m.onnx", precision="bf16")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"exported for bf16, but OpenVINO is not installed; .*without --precision"):
        start_chosen(graph, Settings())


def figures_beside(path: Path, bf16: Any) -> Graph:
    graph = graph_with(path)
    path.with_suffix(".json").write_text(json.dumps({**FIGURES, BF16_KEY: bf16}))
    return graph


def test_the_figures_beside_a_graph_say_it_too(tmp_path: Path) -> None:
    path = save_tiny_graph(tmp_path / "m.onnx")
    own = {**AGREES, "graph_sha256": file_sha256(path)}
    assert bf16_agreement(figures_beside(path, own)) == own
    for others in (AGREES, {**AGREES, "graph_sha256": "0" * 64}):
        assert bf16_agreement(figures_beside(path, others)) is None, "measured on another graph of the checkpoint"


def test_figures_that_are_none_are_told_and_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    graph = figures_beside(save_tiny_graph(tmp_path / "m.onnx"), {"agreement": 2})
    assert bf16_agreement(graph) is None
    assert 'bf16 is no object with a "agreement" from 0 to 1' in caplog.text


@pytest.mark.parametrize("bad", ["[]", "{}", '{"agreement": true}', '{"agreement": -1}', '{"agreement": NaN}', "x"])
def test_a_graph_whose_own_entry_is_none_is_refused(tmp_path: Path, bad: str) -> None:
    with pytest.raises(GraphError, match="cannot be used"):
        graph_with(tmp_path / "m.onnx", bf16=bad)


@pytest.mark.usefixtures("able")
def test_an_engine_that_cannot_run_the_graph_gives_way(agreeing: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_nothing(*arguments: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr("sgn_serve.inference.engines.compile_model", compile_nothing)
    classifier, choice = start_chosen(agreeing, Settings())
    assert classifier.runs_on.startswith("ONNX Runtime")
    assert choice.reason.startswith("OpenVINO cannot run it in bfloat16 (")
    assert "no such operator" in choice.reason
    with pytest.raises(GraphError, match="OpenVINO cannot run it"):
        start_chosen(agreeing, Settings(engine="openvino"))


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize("offset", [0.5, float("nan")])
def test_an_engine_whose_outputs_are_far_off_gives_way(
    agreeing: Graph, monkeypatch: pytest.MonkeyPatch, offset: float
) -> None:
    class FarOff:
        """Answers as ONNX Runtime does, with a self-gradient that is wrong."""

        def __init__(self, model: onnx.ModelProto, threads: int, precision: str | None, at_once: int):
            assert precision == "bf16"
            self.right = engines.onnx_runtime_session(model, threads, ["CPUExecutionProvider"])

        def run(self, outputs: list[str], inputs: Any) -> list[Any]:
            values = self.right.run(outputs, inputs)
            return [value + offset * (name == "self_gradient") for name, value in zip(outputs, values, strict=True)]

    monkeypatch.setattr("sgn_serve.inference.classifier.OpenVinoSession", FarOff)
    classifier, choice = start_chosen(agreeing, Settings())
    assert (classifier.engine, choice.engine, choice.precision) == ("onnxruntime", "onnxruntime", None)
    assert choice.reason.startswith("OpenVINO's outputs in bfloat16 are off by ")


@pytest.mark.usefixtures("able")
def test_an_engine_that_fails_for_several_pictures_gives_way(agreeing: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    class OnePicture:
        """Answers single pictures only, as a graph with a fixed size inside does."""

        def __init__(self, model: onnx.ModelProto, threads: int, precision: str | None, at_once: int):
            self.right = engines.onnx_runtime_session(model, threads, ["CPUExecutionProvider"])

        def run(self, outputs: list[str], inputs: Any) -> Any:
            if len(inputs["image"]) > 1:
                raise RuntimeError("no batches")
            return self.right.run(outputs, inputs)

    monkeypatch.setattr("sgn_serve.inference.classifier.OpenVinoSession", OnePicture)
    classifier, choice = start_chosen(agreeing, Settings())
    assert (classifier.engine, choice.engine, choice.precision) == ("onnxruntime", "onnxruntime", None)
    assert choice.reason == "OpenVINO cannot run it in bfloat16 for several pictures at once (no batches)"


@pytest.mark.usefixtures("able")
def test_a_graph_that_onnx_runtime_cannot_run_for_several_pictures_is_not_blamed_on_openvino(
    agreeing: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ready:
        """Answers whatever the batch is."""

        def __init__(self, model: onnx.ModelProto, threads: int, precision: str | None, at_once: int):
            self.right = engines.onnx_runtime_session(model, threads, ["CPUExecutionProvider"])

        def run(self, outputs: list[str], inputs: Any) -> Any:
            return self.right.run(outputs, inputs)

    def started(graph: Graph, settings: Settings, choice: EngineChoice, at_once: int) -> Any:
        classifier = start(graph, settings, choice, at_once)
        if choice.engine == "onnxruntime":
            monkeypatch.setattr(classifier, "logits", lambda *_: 1 // 0)
        return classifier

    start = engine_choice._start
    monkeypatch.setattr(engine_choice, "_start", started)
    monkeypatch.setattr("sgn_serve.inference.classifier.OpenVinoSession", Ready)
    classifier, choice = start_chosen(agreeing, Settings())
    assert (classifier.engine, choice.engine, choice.precision) == ("onnxruntime", "onnxruntime", None)
    assert choice.reason == (
        "ONNX Runtime cannot run it for several pictures at once (integer division or modulo by zero), so OpenVINO was "
        "not compared"
    )


def test_a_slow_network_is_timed_for_fewer_turns(agreeing: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []
    classifier = engine_choice._start(agreeing, Settings(providers=("cpu",)), EngineChoice("onnxruntime", None, ""))
    other = engine_choice._start(agreeing, Settings(providers=("cpu",)), EngineChoice("onnxruntime", None, ""))

    def taking(seconds: float) -> Any:
        def logits(*given: Any) -> None:
            calls.append(seconds)
            clock[0] += seconds

        return logits

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    for seconds, turns in ((0.01, 5), (1.5, 1)):
        calls.clear()
        monkeypatch.setattr(classifier, "logits", taking(seconds))
        monkeypatch.setattr(other, "logits", taking(seconds))
        assert engine_choice.relative_time(classifier, other) == pytest.approx(1)
        assert len(calls) == 2 * turns


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize(("seconds", "engine"), [(0.0, "openvino"), (0.02, "onnxruntime")])
def test_an_engine_that_takes_longer_gives_way(
    agreeing: Graph, monkeypatch: pytest.MonkeyPatch, seconds: float, engine: str
) -> None:
    """The time is that of a clock that only the engines move on."""
    clock = [0.0]

    class Timed:
        """Answers as ONNX Runtime does, in some seconds where ONNX Runtime takes 0.01."""

        def __init__(self, model: onnx.ModelProto, threads: int, precision: str | None, at_once: int):
            self.right = engines.onnx_runtime_session(model, threads, ["CPUExecutionProvider"])

        def run(self, outputs: list[str], inputs: Any) -> Any:
            clock[0] += seconds
            return self.right.run(outputs, inputs)

    def started(graph: Graph, settings: Settings, choice: engine_choice.EngineChoice, at_once: int) -> Any:
        classifier = start(graph, settings, choice, at_once)
        if choice.engine == "onnxruntime":
            logits = classifier.logits

            def timed(*given: Any) -> Any:
                clock[0] += 0.01
                return logits(*given)

            monkeypatch.setattr(classifier, "logits", timed)
        return classifier

    start = engine_choice._start
    monkeypatch.setattr(engine_choice, "_start", started)
    monkeypatch.setattr("sgn_serve.inference.classifier.OpenVinoSession", Timed)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    classifier, choice = start_chosen(agreeing, Settings())
    assert (classifier.engine, choice.engine) == (engine, engine)
    if engine == "openvino":
        assert choice.reason.endswith("of the pictures; it took 0.00 of ONNX Runtime's time")
    else:
        assert choice.reason == "OpenVINO in bfloat16 took 2.00 of its time"


def test_the_choice_is_in_the_log_line_and_on_the_card(agreeing: Graph) -> None:
    settings = Settings(model_path=agreeing.path, threads=1, providers=("cpu",))
    tried = try_here(settings)
    summary = tried["summary"]
    assert summary.endswith("on ONNX Runtime CPUExecutionProvider in float32: SGN_PROVIDERS=cpu is ONNX Runtime's")
    assert tried["choice"] == {
        "engine": "onnxruntime",
        "precision": None,
        "reason": "SGN_PROVIDERS=cpu is ONNX Runtime's",
    }
    shown = Predictor(agreeing, settings).card.engine
    assert shown is not None
    assert shown.model_dump() == {
        "name": "ONNX Runtime",
        "providers": ["CPUExecutionProvider"],
        "precision": "float32",
        "chosen": "auto",
        "reason": "SGN_PROVIDERS=cpu is ONNX Runtime's",
    }


@pytest.mark.usefixtures("able")
def test_a_worker_takes_the_engine_of_the_trial(agreeing: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times vary: each worker by itself might choose another engine, and answer slightly differently."""
    monkeypatch.setattr("sgn_serve.inference.classifier.OpenVinoSession", None)  # fails where it is started
    monkeypatch.setattr(engine_choice, "relative_time", None)
    choice = asdict(EngineChoice("onnxruntime", None, "as it was tried"))
    tried = Tried.from_json(Tried(agreeing.file_sha256, "a summary", ("a note",), choice).to_json())
    shown = Predictor(agreeing, Settings(model_path=agreeing.path), tried).card.engine
    assert shown is not None
    assert (shown.name, shown.reason, tried.notes) == ("ONNX Runtime", "as it was tried", ("a note",))


def test_what_was_chosen_answers_as_float32_does_within_bfloat16(
    agreeing: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where this machine can: the service's own graph, in the precision that was chosen for it."""
    monkeypatch.setattr(engine_choice, "relative_time", lambda *classifiers: 0.5)  # a graph this small is not faster
    chosen, choice = start_chosen(agreeing, Settings(threads=1))
    if choice.precision != "bf16":
        pytest.skip(f"bfloat16 is not chosen here: {choice.reason}")
    reference, _ = start_chosen(agreeing, Settings(threads=1, engine="onnxruntime"))
    images = np.random.default_rng(0).random((5, 3, 8, 8), np.float32)
    expected, found = reference.logits(images, True), chosen.logits(images, True)
    assert expected.corrected is not None
    assert found.corrected is not None
    np.testing.assert_allclose(found.corrected, expected.corrected, rtol=2**-6)
    assert chosen.runs_on == "OpenVINO"
